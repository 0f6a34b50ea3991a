"""The code reward: does the program of a response pass its tests?

The answer of such a query is JSON in one of three forms:

- `{"asserts": ["assert f(1) == 2", ...], "setup": "import math"}` (MBPP),
- `{"calls": [{"function": "f", "args": [1], "expected": 2}, ...]}` (LiveCodeBench, call-based; a
  method of `class Solution` is found as well),
- `{"io": [{"input": "1\\n", "output": "2\\n"}, ...]}` (LiveCodeBench, standard input and output).

Judged from outside: an expected value never enters the sandbox. The program's own calls are
evaluated inside and come back as plain data, marked with a number drawn for the run; comparing them
happens here. A program that exits early, prints what looks like a success or returns an object that
equals everything therefore passes nothing.
"""

from __future__ import annotations

import json
import pathlib
import re
import secrets
from collections.abc import Sequence

from lhrm_jax.rewards import remote_values, sandbox
from lhrm_jax.text.responses import parse_response

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", re.S | re.M)
_HARNESS = pathlib.Path(__file__).with_name("code_harness.py")
MAX_PROGRAM = 200_000
_FORMS = "code tests are a JSON object with one of 'asserts', 'calls' and 'io'"


def score(response: str, answer: str) -> float:
  """1.0 where the last code block of the answer part passes every test of `answer`, else 0.0.

  Raises:
    ValueError: `answer` is not in one of the three forms.
    sandbox.SandboxUnavailable: this platform cannot isolate the program; nothing was run.
  """
  try:
    tests = json.loads(answer)
  except ValueError as error:
    raise ValueError(f"{_FORMS}; the answer is no JSON ({error})") from error
  part = parse_response(response).answer
  program = None if part is None else last_block(part)
  return 0.0 if program is None else float(passes(program, tests))


def last_block(text: str) -> str | None:
  """The last fenced block of Python code in `text`, or `None`."""
  blocks = [body for language, body in _FENCE.findall(text) if language.lower() in _PYTHON]
  return blocks[-1] if blocks else None


_PYTHON = ("", "python", "py", "python3")


def passes(program: str, tests: dict, limits: sandbox.Limits | None = None) -> bool:
  """Whether `program` passes all of `tests` (the forms above); see `score` for what it raises."""
  if not isinstance(tests, dict) or len({"asserts", "calls", "io"} & set(tests)) != 1:
    raise ValueError(_FORMS)
  if len(program) > MAX_PROGRAM:
    return False
  if "io" in tests:
    return _passes_io(program, tests["io"], limits)
  if "calls" in tests:
    expressions = [_call(case) for case in tests["calls"]]
    values = evaluate(program, expressions, setup=tests.get("setup", ""), limits=limits)
    if values is None:
      return False
    wanted = [case["expected"] for case in tests["calls"]]
    return all(_same_json(value, want) for value, want in zip(values, wanted, strict=True))
  checks = [remote_values.Assertion(text) for text in tests["asserts"]]
  expressions = [expression for check in checks for expression in check.remote]
  values = evaluate(program, expressions, setup=tests.get("setup", ""), limits=limits)
  if values is None:
    return False
  left = iter(values)
  return all(check.holds([next(left) for _ in check.remote]) for check in checks)


def _call(case: dict) -> str:
  args = [repr(arg) for arg in case.get("args", [])]
  args += [f"{name}={value!r}" for name, value in case.get("kwargs", {}).items()]
  if not str(case["function"]).isidentifier():
    raise ValueError(f"{case['function']!r} is no name of a function")
  return f"{case['function']}({', '.join(args)})"


def _same_json(value, want) -> bool:
  """Equality with a value that came from JSON, where a tuple was written as a list."""
  if isinstance(value, tuple | list) and isinstance(want, list):
    return len(value) == len(want) and all(map(_same_json, value, want))
  if isinstance(value, float) and isinstance(want, int | float) and not isinstance(want, bool):
    return value == want or abs(value - want) <= 1e-9 * max(abs(value), abs(want))
  return type(value) is type(want) and value == want


def evaluate(
  program: str,
  expressions: Sequence[str],
  *,
  setup: str = "",
  limits: sandbox.Limits | None = None,
) -> list | None:
  """Values of `expressions` after running `program` in the sandbox; `None` where one has none."""
  nonce = secrets.token_hex(16)
  job = {"nonce": nonce, "program": program, "setup": setup, "expressions": list(expressions)}
  result = sandbox.run(
    [sandbox.interpreter(), "-I", "-S", "-B", "/box/harness.py"],
    stdin=json.dumps(job).encode(),
    files={"harness.py": _HARNESS.read_text(encoding="utf-8")},
    limits=limits,
  )
  if result.end != "exit":
    return None
  lines = [line for line in result.stdout.splitlines() if line.startswith(nonce.encode())]
  if len(lines) != 1:
    return None
  try:
    values = [remote_values.decode(item) for item in json.loads(lines[0][len(nonce) :])]
  except (ValueError, TypeError, KeyError, RecursionError):
    return None
  return values if len(values) == len(expressions) else None


def _passes_io(program: str, cases: Sequence[dict], limits: sandbox.Limits | None) -> bool:
  for case in cases:
    result = sandbox.run(
      [sandbox.interpreter(), "-I", "-S", "-B", "/box/program.py"],
      stdin=str(case["input"]).encode(),
      files={"program.py": program},
      limits=limits,
    )
    if result.end != "exit" or result.code != 0:
      return False
    if not _same_output(result.stdout.decode(errors="replace"), str(case["output"])):
      return False
  return True


def _same_output(given: str, wanted: str) -> bool:
  """Line by line, without regard to space at the ends of lines and of the whole."""

  def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]

  return lines(given) == lines(wanted)

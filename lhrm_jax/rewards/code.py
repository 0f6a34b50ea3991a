"""The code reward: whether the program in a response passes its tests.

The answer of such a query is JSON in one of three forms:

- `{"asserts": ["assert f(1) == 2", ...], "setup": "import math"}` (MBPP). `"entry_point"`, a name
  or a list of names, says which functions are the program's where the tests alone do not;
- `{"calls": [{"function": "f", "args": [1], "expected": 2}, ...]}` (LiveCodeBench, call-based; a
  method of `class Solution` is found as well),
- `{"io": [{"input": "1\\n", "output": "2\\n"}, ...]}` (LiveCodeBench, standard input and output).

Judged from outside: an expected value never enters the program's sandbox. The program's own calls
are evaluated there and come back as plain data; a second sandbox, which holds no line of the
program, judges them. This process never parses what a program wrote. A program that exits early,
prints what looks like a success, forges its replies or returns an object that equals everything
therefore passes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence

from lhrm_jax.rewards import code_tests, sandbox
from lhrm_jax.rewards.registry import BadAnswer, Failed
from lhrm_jax.text.responses import parse_response

_HARNESS = pathlib.Path(__file__).with_name("code_harness.py")
_JUDGE = pathlib.Path(__file__).with_name("code_judge.py")
MAX_PROGRAM = 200_000
# Limits of one run, and of all runs of one program: it is run once per test of standard input.
LIMITS = sandbox.Limits()
RESPONSE_S = 60.0
# Of one program's replies; an integer takes about 17 bytes.
_REPLY_BYTES = 8 << 20
_JUDGE_LIMITS = sandbox.Limits(wall_s=10.0, cpu_s=4)
_PYTHON = ("", "python", "py", "python3")


def check(answer: str) -> None:
  """Raises `BadAnswer` where the tests of a row cannot be judged; the message says why."""
  code_tests.read(answer)


def score(response: str, answer: str, *, deadline: float | None = None) -> float:
  """1.0 where the last code block of the answer part passes every test of `answer`, else 0.0.

  Args:
    response: whole text, tags included.
    answer: the tests.
    deadline: in `time.monotonic()`; a response not judged by then is `Failed("deadline")`.

  Raises:
    BadAnswer: `answer` is not in one of the three forms, or holds no test that can be judged.
    sandbox.SandboxUnavailable: this platform cannot isolate the program; nothing was run.
  """
  tests = code_tests.read(answer)
  part = parse_response(response).answer
  program = None if part is None else last_block(part)
  return 0.0 if program is None else _judge(program, tests, LIMITS, deadline)


def last_block(text: str) -> str | None:
  """The last closed fenced block of Python code in `text`, or `None`."""
  block, last, language, indent = None, None, "", 0
  for line in text.split("\n"):
    bare = line.lstrip(" \t")
    if not bare.startswith("```"):
      if block is not None:  # less the fence's own indentation, as in a list
        block.append(line[:indent].lstrip(" \t") + line[indent:])
    elif block is None:
      word = bare[3:].lstrip(" \t")
      language = word[: _word_length(word)].lower()
      block, indent = [], len(line) - len(bare)
    else:
      if language in _PYTHON:
        last = block
      block = None
  return None if last is None else "".join(f"{line}\n" for line in last)


def _word_length(text: str) -> int:
  return next((i for i, c in enumerate(text) if not (c.isalnum() or c in "_+-")), len(text))


def passes(program: str, tests: dict, limits: sandbox.Limits | None = None) -> bool:
  """Whether `program` passes all of `tests` (the forms above); see `score` for what it raises."""
  return _judge(program, code_tests.checked(tests), limits or LIMITS, None) == 1.0


class _NotJudged(Exception):
  """Carries the reason of a `Failed` judgement."""


def _judge(
  program: str, tests: code_tests.CodeTests, limits: sandbox.Limits, deadline: float | None
) -> float:
  if len(program) > MAX_PROGRAM:
    return 0.0
  try:
    program.encode()
  except UnicodeEncodeError:  # a lone surrogate: no source code
    return 0.0
  try:
    if tests.io:
      return float(_passes_io(program, tests.io, limits, deadline))
    return float(_passes_values(program, tests, limits, deadline))
  except _NotJudged as reason:
    return Failed(str(reason))


def _passes_values(
  program: str,
  tests: code_tests.CodeTests,
  limits: sandbox.Limits,
  deadline: float | None,
) -> bool:
  job = {**tests.program, "program": program}
  roomy = _with_output(limits, _REPLY_BYTES)
  replies = _run("harness.py", _HARNESS.read_text(), json.dumps(job), roomy, deadline)
  if replies.end != "exit" or replies.code != 0:
    return False
  reply = replies.stdout.decode("latin-1")
  job = {**tests.judge, "reply": reply, "count": len(tests.program["asked"])}
  verdict = _run("judge.py", _JUDGE.read_text(), json.dumps(job), _JUDGE_LIMITS, deadline)
  try:
    found = json.loads(verdict.stdout)
  except (ValueError, RecursionError):
    found = {}
  if "setup" in found:
    raise BadAnswer(f"the set-up of code tests fails by itself: {found['setup']}")
  if "passed" not in found:  # the program's values were too much for it
    raise _NotJudged("judge")
  return found["passed"] is True


def _passes_io(
  program: str,
  cases: Sequence[tuple[str, str]],
  limits: sandbox.Limits,
  deadline: float | None,
) -> bool:
  end = time.monotonic() + RESPONSE_S
  for given, wanted in cases:
    if time.monotonic() > end:
      return False
    roomy = _with_output(limits, 2 * len(wanted.encode()))
    result = _run("program.py", program, given, roomy, deadline)
    if result.end != "exit" or result.code != 0:
      return False
    if not _same_output(result.stdout.decode(errors="replace"), wanted):
      return False
  return True


def _with_output(limits: sandbox.Limits, least: int) -> sandbox.Limits:
  """`limits` with room for at least `least` bytes of output."""
  return dataclasses.replace(limits, output_bytes=max(limits.output_bytes, least))


def _run(
  name: str, source: str, stdin: str, limits: sandbox.Limits, deadline: float | None
) -> sandbox.Result:
  """Runs one Python file in a sandbox of its own, until the deadline at the latest."""
  files: Mapping[str, str] = {name: source}
  command = [sandbox.interpreter(), "-I", "-S", "-B", f"/box/{name}"]
  for attempt in range(2):
    left = limits.wall_s if deadline is None else deadline - time.monotonic()
    if left <= 0:
      raise _NotJudged("deadline")
    cut = dataclasses.replace(limits, wall_s=min(limits.wall_s, left))
    try:
      result = sandbox.run(command, stdin=stdin.encode(), files=files, limits=cut)
    except sandbox.SandboxUnavailable:
      # A busy machine may fail to start a sandbox; isolation is called impossible only where a
      # trial run fails too.
      sandbox.why_unavailable.cache_clear()
      if sandbox.why_unavailable() is not None:
        raise
      if attempt:
        raise _NotJudged("sandbox") from None
      continue
    if result.end == "timeout" and left < limits.wall_s:
      raise _NotJudged("deadline")
    return result
  raise AssertionError("unreachable")


def _same_output(given: str, wanted: str) -> bool:
  """Whether outputs agree line by line, ignoring space at the ends of lines and of the text."""

  def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().split("\n")]

  return lines(given) == lines(wanted)

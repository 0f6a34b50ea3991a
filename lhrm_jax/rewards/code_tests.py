"""Reads the tests of a row, split into what the program is asked and what judges its replies.

Only calls of the program's own names (its entry points) are evaluated beside the program, in its
sandbox. Everything else of a test, expected values and helpers of the set-up among it, is evaluated
in a second sandbox that holds no line of the program; there each such call has become
`__asked__[i]`, plain data. A test that cannot be split is a bad answer, never a pass.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence

from lhrm_jax.rewards.code_assertions import Assertion, short
from lhrm_jax.rewards.registry import BadAnswer
from lhrm_jax.rewards.setup_code import (
  TRUSTED,
  Statement,
  imports_for,
  literals,
  split,
)

_FORMS = "code tests are a JSON object with one of 'asserts', 'calls' and 'io'"
_KEYS = {"asserts": {"setup", "entry_point"}, "calls": {"setup"}, "io": set()}
# They would run what the program returned as code, or read what the judge holds.
_BARRED = {
  "eval", "exec", "compile", "open", "input", "globals", "locals", "vars", "getattr", "setattr",
  "delattr", "breakpoint", "exit", "quit", "help", "memoryview",
}  # fmt: skip
_BUILTINS = {name for name in dir(builtins) if not name.startswith("_")} - _BARRED


@dataclasses.dataclass(frozen=True)
class CodeTests:
  """Tests of one row, checked and split.

  Attributes:
    program: for the program's sandbox: `before` and `after` (code around the program), `names` that
      may be methods of its `Solution`, and `asked`, expressions or calls `[name, args, kwargs]`.
    judge: for the judge's sandbox: `setup`, and `checks` (expressions over `__asked__`) or `wanted`
      (the calls' expected values).
    io: inputs and expected outputs, in place of the two above.
  """

  program: dict | None = None
  judge: dict | None = None
  io: tuple[tuple[str, str], ...] = ()


@functools.lru_cache(maxsize=4096)
def read(answer: str) -> CodeTests:
  """The tests in a row's answer.

  Raises:
    BadAnswer: it is not in one of the forms of `rewards.code`, holds no test, or holds one that
      cannot be judged from outside the program; says which and why.
  """
  try:
    tests = json.loads(answer)
  except (ValueError, RecursionError) as error:
    raise BadAnswer(f"{_FORMS}; the answer is not JSON ({error})") from error
  return checked(tests)


def checked(tests: dict) -> CodeTests:
  """`read` for parsed JSON."""
  if not isinstance(tests, dict) or len(_KEYS.keys() & tests.keys()) != 1:
    raise BadAnswer(_FORMS)
  (form,) = _KEYS.keys() & tests.keys()
  if unknown := tests.keys() - {form} - _KEYS[form]:
    allowed = ", ".join(sorted(_KEYS[form])) or "nothing"
    raise BadAnswer(f"tests with {form!r} may also have {allowed}, not {sorted(unknown)}")
  cases = tests[form]
  if not isinstance(cases, list) or not cases:
    raise BadAnswer(f"{form!r} holds no test, which every program would pass; give a list of some")
  setup = tests.get("setup", "")
  if not isinstance(setup, str):
    raise BadAnswer(f"'setup' is Python code as text, not {setup!r}")
  try:
    json.dumps(tests, ensure_ascii=False).encode()
  except (UnicodeEncodeError, RecursionError) as error:
    raise BadAnswer(f"the tests cannot be written as UTF-8: {error}") from None
  read_form = {"asserts": _asserts, "calls": _calls}.get(form)
  return read_form(cases, setup, tests.get("entry_point")) if read_form else _io(cases)


# ---- Standard input and output


def _io(cases: Sequence[dict]) -> CodeTests:
  for case in cases:
    if not (isinstance(case, dict) and case.keys() == {"input", "output"}):
      raise BadAnswer(f"a test of 'io' is an object of 'input' and 'output', not {short(case)}")
    if not all(isinstance(text, str) for text in case.values()):
      raise BadAnswer(f"'input' and 'output' are text, not {short(case)}")
  if not any(case["output"].strip() for case in cases):
    raise BadAnswer("every 'output' of 'io' is blank: a program that does nothing would pass")
  return CodeTests(io=tuple((case["input"], case["output"]) for case in cases))


# ---- Calls


def _calls(cases: Sequence[dict], setup: str, _: None) -> CodeTests:
  asked, wanted = [], []
  for case in cases:
    if not isinstance(case, dict) or not case.keys() >= {"function", "expected"}:
      raise BadAnswer(f"a test of 'calls' has 'function' and 'expected'; {short(case)} has not")
    if unknown := case.keys() - {"function", "args", "kwargs", "expected"}:
      raise BadAnswer(f"a test of 'calls' has no {sorted(unknown)}")
    name, args, kwargs = case["function"], case.get("args", []), case.get("kwargs", {})
    if not isinstance(name, str) or not name.isidentifier():
      raise BadAnswer(f"{name!r} is not the name of a function")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
      raise BadAnswer(f"'args' is a list and 'kwargs' an object, not {short(case)}")
    asked.append([name, args, kwargs])
    wanted.append(case["expected"])
  names = sorted({name for name, _, _ in asked})
  statements = split(setup)
  _check_left_to_program(set(names), statements)
  before = _source(statements, imports_for(_used(statements) - _bound(statements)))
  program = {"before": before, "after": "", "names": names, "asked": asked}
  return CodeTests(program, {"setup": "", "wanted": wanted})


# ---- Asserts


def _asserts(cases: Sequence[str], setup: str, entry_point) -> CodeTests:
  tests = [Assertion(source) for source in cases]
  statements = split(setup)
  of_setup = _bound(statements)
  known = _BUILTINS | TRUSTED.keys() | of_setup
  entry, stated = _entry_points(tests, known, of_setup, entry_point)
  of_program = _of_program(statements, entry, known | set(dir(builtins)))
  trusted = known - entry - _bound(of_program)
  values = literals(statements)
  for test in tests:
    test.split(entry, trusted, stated, values)

  judged = set().union(*(test.judged for test in tests))
  in_args = set().union(*(test.in_args for test in tests))
  pure = [statement for statement in statements if statement not in of_program]
  _check_left_to_program(entry, pure)
  for_args = _closure(pure, in_args | _used(of_program))
  for_judge = _closure(pure, judged)
  # Code that only the judge needs may hold expected values, so the program must not see it.
  shown = [
    s for s in pure if s.imports or s.binds & for_args or not s.binds & for_judge
  ]  # fmt: skip
  _check_apart(shown, judged - in_args - _used(of_program))
  before = _source(shown, imports_for((in_args | _used(statements)) - _bound(statements) - entry))
  program = {
    "before": before,
    "after": _source(of_program),
    "names": sorted(entry),
    "asked": [source for test in tests for source in test.asked],
  }
  checks, at = [], 0
  for test in tests:
    checks.append(test.check(at))
    at += len(test.asked)
  prelude = imports_for((judged | _used(pure)) - _bound(statements))
  return CodeTests(program, {"setup": _source(pure, prelude), "checks": checks})


def _entry_points(
  tests: Sequence[Assertion],
  known: set[str],
  of_setup: set[str],
  stated: str | list[str] | None,
) -> tuple[set[str], bool]:
  """Names of the program that the tests may ask, and whether the row itself gave them."""
  if stated is not None:
    names = [stated] if isinstance(stated, str) else stated
    if not (isinstance(names, list) and names and all(map(_is_name, names))):
      raise BadAnswer(f"'entry_point' is a name or a list of names, not {short(stated)}")
    return set(names), True
  unknown = {name for test in tests for name in test.names} - known - _BARRED
  if called := unknown & set().union(*(test.called() for test in tests)):
    return called, False
  # A function named as a built-in one, as in MBPP's `sum(10, 15)`.
  everywhere = set.intersection(*(test.called() for test in tests)) - of_setup
  if len(everywhere) == 1:
    return everywhere, False
  raise tests[0].refused(
    "it calls nothing but what is built in or of the set-up; name the program's function in "
    "'entry_point'"
  )


def _check_left_to_program(entry: set[str], statements: Sequence[Statement]) -> None:
  """Refuses a set-up that solves the task, and with it every program that defines nothing."""
  if defined := entry & _bound(statements):
    raise BadAnswer(
      f"'setup' defines {', '.join(sorted(defined))}, which the tests ask of the program: one that "
      "does nothing would pass. Take it out of 'setup'"
    )


def _check_apart(shown: Sequence[Statement], expected: set[str]) -> None:
  """Refuses data that the program must see and that holds what only the judge may."""
  for statement in shown:
    held = statement.binds & expected
    if held and not (statement.imports or statement.defines):
      raise BadAnswer(
        f"'setup' binds {', '.join(sorted(held))}, which the tests expect, in one statement with "
        f"what they ask: {short(statement.source)}. A program could read it there: write two"
      )


def _of_program(
  statements: Sequence[Statement], entry: set[str], known: set[str]
) -> list[Statement]:
  """Statements of the set-up that need the program, such as `root = Node(1)`."""
  tainted, found = set(entry), []
  while True:
    new = [
      s for s in statements
      if s not in found and (s.uses & tainted or s.binds & tainted - entry or s.uses - known)
    ]  # fmt: skip
    if not new:
      return [s for s in statements if s in found]
    found += new
    tainted |= _bound(new)


def _closure(statements: Sequence[Statement], names: set[str]) -> set[str]:
  """`names` and all names that their statements use."""
  names = set(names)
  while True:
    more = {name for s in statements if s.binds & names for name in s.binds | s.uses} - names
    if not more:
      return names
    names |= more


def _bound(statements: Iterable[Statement]) -> set[str]:
  return {name for statement in statements for name in statement.binds}


def _used(statements: Iterable[Statement]) -> set[str]:
  return {name for statement in statements for name in statement.uses}


def _source(statements: Sequence[Statement], first: str = "") -> str:
  return "\n".join([*filter(None, [first]), *(statement.source for statement in statements)])


def _is_name(name) -> bool:
  return isinstance(name, str) and name.isidentifier()

"""Reads the tests of a row and splits them: what the program is asked, and what judges its replies.

Only calls of the program's own names (its entry points) are evaluated beside the program, in its
sandbox. Everything else of a test, expected values and helpers of the set-up among it, is evaluated
in a second sandbox that holds no line of the program; there each such call has become
`__asked__[i]`, plain data. A test that cannot be split is a bad answer, never a pass.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence

from lhrm_jax.rewards.registry import BadAnswer
from lhrm_jax.rewards.setup_code import (
  TRUSTED,
  Statement,
  bound_names,
  imports_for,
  items_in_place,
  literals,
  loaded_names,
  split,
)

ASKED = "__asked__"
_FORMS = "code tests are a JSON object with one of 'asserts', 'calls' and 'io'"
_KEYS = {"asserts": {"setup", "entry_point"}, "calls": {"setup"}, "io": set()}
# They would make code out of what the program returned, or read what the judge holds.
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
    raise BadAnswer(f"{_FORMS}; the answer is no JSON ({error})") from error
  return checked(tests)


def checked(tests: dict) -> CodeTests:
  """`read` for tests that are no text any more."""
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
      raise BadAnswer(f"a test of 'io' is an object of 'input' and 'output', not {_short(case)}")
    if not all(isinstance(text, str) for text in case.values()):
      raise BadAnswer(f"'input' and 'output' are text, not {_short(case)}")
  if not any(case["output"].strip() for case in cases):
    raise BadAnswer("every 'output' of 'io' is blank: a program that does nothing would pass")
  return CodeTests(io=tuple((case["input"], case["output"]) for case in cases))


# ---- Calls


def _calls(cases: Sequence[dict], setup: str, _: None) -> CodeTests:
  asked, wanted = [], []
  for case in cases:
    if not isinstance(case, dict) or not case.keys() >= {"function", "expected"}:
      raise BadAnswer(f"a test of 'calls' has 'function' and 'expected'; {_short(case)} has not")
    if unknown := case.keys() - {"function", "args", "kwargs", "expected"}:
      raise BadAnswer(f"a test of 'calls' has no {sorted(unknown)}")
    name, args, kwargs = case["function"], case.get("args", []), case.get("kwargs", {})
    if not isinstance(name, str) or not name.isidentifier():
      raise BadAnswer(f"{name!r} is no name of a function")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
      raise BadAnswer(f"'args' is a list and 'kwargs' an object, not {_short(case)}")
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
  tests = [_Assertion(source) for source in cases]
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


class _Assertion:
  """One `assert`; after `split`, what it asks the program and what is left to judge."""

  def __init__(self, source: str):
    if not isinstance(source, str):
      raise BadAnswer(f"a test of 'asserts' is text, not {_short(source)}")
    self.source = source
    try:
      body = ast.parse(source.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
      raise BadAnswer(f"the test {_short(source)} is no Python: {error}") from None
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
      raise BadAnswer(f"the test {_short(source)} is not one assert; give each assert on its own")
    self.test = body[0].test
    self.bound = bound_names(self.test)
    self.names = loaded_names(self.test) - self.bound
    self.asked: list[str] = []
    self.judged: set[str] = set()
    self.in_args: set[str] = set()

  def called(self) -> set[str]:
    """Names that are called."""
    calls = (node for node in ast.walk(self.test) if isinstance(node, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}

  def split(
    self, entry: set[str], trusted: set[str], stated: bool, values: Mapping[str, object]
  ) -> None:
    """Takes the program's calls out of the test.

    Args:
      entry: names of the program that may be asked.
      trusted: names the judge knows.
      stated: the row itself named the entry points.
      values: of the set-up's literals, of which the program gets the items it is asked about alone:
        `cases` may hold both arguments and results.
    """
    if not stated:
      self._check_helpers(entry)
    self.test = _TakeOut(self, entry, values).visit(self.test)
    self.judged = loaded_names(self.test) - self.bound - {ASKED}
    if not self.asked:
      raise self.refused("it calls nothing of the program")
    if others := self.judged - trusted:
      raise self.refused(
        f"{', '.join(sorted(others))} is neither called as a function of the program nor known to "
        "the judge (built in, of the standard library's usual modules, or of 'setup')"
      )
    hidden = [node.attr for node in ast.walk(self.test) if isinstance(node, ast.Attribute)]
    if any(name.startswith("_") for name in hidden):
      raise self.refused("it reads an attribute that starts with an underscore")

  def check(self, first: int) -> str:
    """Source of what is left, its calls numbered from `first`."""

    class Number(ast.NodeTransformer):
      def visit_Subscript(self, node):
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == ASKED:
          node.slice = ast.Constant(node.slice.value + first)
        return node

    return ast.unparse(Number().visit(self.test))

  def refused(self, why: str) -> BadAnswer:
    return BadAnswer(
      f"the test {_short(self.source)} cannot be judged from outside the program: {why}"
    )

  def _check_helpers(self, entry: set[str]) -> None:
    """Refuses `check(f(1), 2)` where nobody says which of the two is the program's.

    `decode(encode(x)) == x` is none of these: nothing that would be right goes into its calls. Into
    those of `norm(f(1)) == norm(2)` and `f(1) == reference(1)` it may.
    """
    for part in _operands(self.test):
      called = [_functions(call, entry) for call in _outermost(part, entry)]
      if len(called) > 1 and len(set().union(*called)) > 1:
        raise self._ambiguous(set().union(*called))
    truths = {id(node) for node in _truths(self.test)}
    for node in ast.walk(self.test):
      if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        continue
      inside = {name for part in ast.iter_child_nodes(node) for name in loaded_names(part)}
      others = {name for name in (inside & entry) - {node.func.id} if not _is_class(name)}
      alone = len(node.args) + len(node.keywords) == 1 and id(node) not in truths
      if node.func.id in entry and others and not alone:
        raise self._ambiguous({node.func.id} | others)

  def _ambiguous(self, names: set[str]) -> BadAnswer:
    return self.refused(
      f"which of {', '.join(sorted(names))} are the program's? Say so in 'entry_point' (a name or "
      "a list of names) and put the others into 'setup'"
    )


class _TakeOut(ast.NodeTransformer):
  """Puts `__asked__[i]` in the place of each outermost call of the program."""

  def __init__(self, test: _Assertion, entry: set[str], values: Mapping[str, object]):
    self.test, self.entry, self.values = test, entry, values

  def visit_Call(self, node):
    of_instance = isinstance(node.func, ast.Attribute) and self._instance(node.func.value)
    if self._calls_entry(node) or of_instance:
      return self._ask(node)
    return self.generic_visit(node)

  def visit_Attribute(self, node):
    return self._ask(node) if self._instance(node.value) else self.generic_visit(node)

  def _calls_entry(self, node) -> bool:
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return named and node.func.id in self.entry

  def _instance(self, node) -> bool:
    """Whether this makes an object of a class of the program, whose attribute is then asked."""
    return self._calls_entry(node) and _is_class(node.func.id)

  def _ask(self, node):
    bound = self.test.bound
    node = items_in_place(node, {k: v for k, v in self.values.items() if k not in bound})
    names = loaded_names(node)
    if loop := (names & self.test.bound) - bound_names(node):
      raise self.test.refused(
        f"the program is called inside a loop or lambda, with {', '.join(sorted(loop))}; write "
        "one test for each call"
      )
    place = len(self.test.asked)
    self.test.asked.append(ast.unparse(node))
    self.test.in_args |= names
    return ast.Subscript(ast.Name(ASKED, ast.Load()), ast.Constant(place), ast.Load())


def _operands(node: ast.AST) -> Iterable[ast.AST]:
  """What `and`, `or` and `not` put together."""
  if isinstance(node, ast.BoolOp | ast.UnaryOp):
    for part in node.values if isinstance(node, ast.BoolOp) else [node.operand]:
      yield from _operands(part)
  else:
    yield node


def _outermost(node: ast.AST, entry: set[str]) -> Iterable[ast.Call]:
  """Calls of the program that stand in no other."""
  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in entry:
    yield node
    return
  for part in ast.iter_child_nodes(node):
    yield from _outermost(part, entry)


def _functions(node: ast.AST, entry: set[str]) -> set[str]:
  """Functions of the program, not its classes, that are read in `node`."""
  return {name for name in loaded_names(node) & entry if not _is_class(name)}


def _truths(node: ast.AST) -> Iterable[ast.AST]:
  """Parts of a test of which only the truth counts."""
  if isinstance(node, ast.BoolOp):
    for part in node.values:
      yield from _truths(part)
  elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
    yield from _truths(node.operand)
  elif isinstance(node, ast.Compare):
    sides = [node.left, *node.comparators]
    if any(isinstance(side, ast.Constant) and isinstance(side.value, bool) for side in sides):
      yield from sides
  else:
    yield node


def _entry_points(
  tests: Sequence[_Assertion],
  known: set[str],
  of_setup: set[str],
  stated: str | list[str] | None,
) -> tuple[set[str], bool]:
  """Names of the program that the tests may ask, and whether the row itself gave them."""
  if stated is not None:
    names = [stated] if isinstance(stated, str) else stated
    if not (isinstance(names, list) and names and all(map(_is_name, names))):
      raise BadAnswer(f"'entry_point' is a name or a list of names, not {_short(stated)}")
    return set(names), True
  unknown = {name for test in tests for name in test.names} - known - _BARRED
  if called := unknown & set().union(*(test.called() for test in tests)):
    return called, False
  # A function with the name of a built-in one, as in MBPP's `sum(10, 15)`.
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
  """`names` and all names that the statements behind them use."""
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


def _is_class(name: str) -> bool:
  return name.lstrip("_")[:1].isupper()


def _is_name(name) -> bool:
  return isinstance(name, str) and name.isidentifier()


def _short(value) -> str:
  text = repr(value)
  return text if len(text) <= 90 else f"{text[:80]}..."

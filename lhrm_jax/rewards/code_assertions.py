"""Takes the program's calls out of an assertion, so that a judge can decide what is left.

Each outermost call of the program's own names (its entry points) becomes `__asked__[i]`, plain data
that the program's sandbox sends.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from lhrm_jax.rewards.registry import BadAnswer
from lhrm_jax.rewards.setup_code import bound_names, items_in_place, loaded_names

ASKED = "__asked__"


class Assertion:
  """One `assert`; `split` separates what it asks the program from what is left to judge."""

  def __init__(self, source: str):
    if not isinstance(source, str):
      raise BadAnswer(f"a test of 'asserts' is text, not {short(source)}")
    self.source = source
    try:
      body = ast.parse(source.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
      raise BadAnswer(f"the test {short(source)} is not Python: {error}") from None
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
      raise BadAnswer(f"the test {short(source)} is not one assert; give each assert on its own")
    self.test = body[0].test
    self.bound = bound_names(self.test)
    self.names = loaded_names(self.test) - self.bound
    self.asked: list[str] = []
    self.judged: set[str] = set()
    self.in_args: set[str] = set()

  def called(self) -> set[str]:
    """The names that the test calls."""
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
    """Source of the rest of the test, with its calls numbered from `first`."""

    class Number(ast.NodeTransformer):
      def visit_Subscript(self, node):
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == ASKED:
          node.slice = ast.Constant(node.slice.value + first)
        return node

    return ast.unparse(Number().visit(self.test))

  def refused(self, why: str) -> BadAnswer:
    return BadAnswer(
      f"the test {short(self.source)} cannot be judged from outside the program: {why}"
    )

  def _check_helpers(self, entry: set[str]) -> None:
    """Refuses `check(f(1), 2)` where it is unclear which of the two is the program's.

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
  """Replaces each outermost call of the program by `__asked__[i]`."""

  def __init__(self, test: Assertion, entry: set[str], values: Mapping[str, object]):
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
    """Whether `node` makes an instance of one of the program's classes."""
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
  """The operands of `and`, `or` and `not`."""
  if isinstance(node, ast.BoolOp | ast.UnaryOp):
    for part in node.values if isinstance(node, ast.BoolOp) else [node.operand]:
      yield from _operands(part)
  else:
    yield node


def _outermost(node: ast.AST, entry: set[str]) -> Iterable[ast.Call]:
  """Calls of the program that are not inside another."""
  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in entry:
    yield node
    return
  for part in ast.iter_child_nodes(node):
    yield from _outermost(part, entry)


def _functions(node: ast.AST, entry: set[str]) -> set[str]:
  """Functions of the program, not its classes, that are read in `node`."""
  return {name for name in loaded_names(node) & entry if not _is_class(name)}


def _truths(node: ast.AST) -> Iterable[ast.AST]:
  """Parts of a test that are only tested for truth."""
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


def _is_class(name: str) -> bool:
  return name.lstrip("_")[:1].isupper()


def short(value) -> str:
  text = repr(value)
  return text if len(text) <= 90 else f"{text[:80]}..."

"""Sets of real numbers: intervals, finite sets, unions, set builders and inequalities.

A set is described by the numbers where membership may change and by a test of membership. Two sets
are equal where every such number of either, and a number between each two neighbours, belongs to
both or to neither.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from lhrm_jax.rewards.math import algebra, evaluate, nodes
from lhrm_jax.rewards.math.exact import Undefined
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Rel, Seq, Sym, TooBig, Union, Unreadable

INTERVALS = ("()", "[]", "(]", "[)")
INEQUALITIES = frozenset(["<", ">", "<=", ">=", "!="])
_INTEGERS = ("set_Z", "set_N")
_UNKNOWN = "the unknown"
_MAX_BORDERS = 200
# Numbers that agree to the first of these digits are equal; to the second, they may be.
_CLOSE, _NEAR = 30, 12
# Longer numbers could be closer than that and still differ.
_MAX_WRITTEN, _MAX_BITS = 18, 160


@dataclasses.dataclass(frozen=True)
class RealSet:
  """A set of reals: `borders` are finite numbers of mpmath, `holds` tests one number."""

  borders: list
  holds: Callable[[object], bool]


class _At(evaluate.Evaluator):
  """Evaluates with a given number for the unknown."""

  def __init__(self, value):
    super().__init__(evaluate.DIGITS)
    self.value = value

  def variable(self, name: str):
    if name != _UNKNOWN:
      raise Undefined("a second variable")
    return self.value


def is_inequality(node: Node) -> bool:
  return isinstance(node, Rel) and all(op in INEQUALITIES for op in node.ops)


def is_set(node: Node) -> bool:
  """Whether `node` can be nothing but a set of numbers: an inequality, a union, `x in ...`."""
  return (
    (isinstance(node, Rel) and any(op in INEQUALITIES or op in ("in", "notin") for op in node.ops))
    or isinstance(node, Union)
    or (isinstance(node, Seq) and node.brackets in ("(]", "[)"))
    or (isinstance(node, Seq) and node.brackets == "," and any(map(is_inequality, node.items)))
  )


def is_solved(node: Node) -> bool:
  """Whether the conditions in `node` bound a name itself, or a multiple of it, by constants.

  `x^2 < 4` and `2x + 1 > 5` are not solved: they may repeat the question.
  """
  relations = [n for n in nodes.walk(node) if isinstance(n, Rel) and n.ops not in _MEMBER]
  return all(_is_multiple(arg) for rel in relations for arg in rel.args)


_MEMBER = (("in",), ("notin",))


def _is_multiple(node: Node) -> bool:
  if not nodes.symbols(node) or isinstance(node, Sym):
    return True
  if not isinstance(node, Op):
    return False
  if node.kind.startswith("call:"):
    return True
  varying = [arg for arg in node.args if nodes.symbols(arg)]
  if node.kind in ("abs", "fn:abs"):
    return isinstance(node.args[0], Sym | Op) and _is_multiple(node.args[0])
  kinds = node.kind in ("neg", "mul") or (node.kind == "div" and not nodes.symbols(node.args[1]))
  return kinds and len(varying) == 1 and _is_multiple(varying[0])


def equal(a: Node, b: Node) -> bool:
  """Whether `b` is the same set of reals as `a`, and solved as far.

  Raises:
    Unreadable: `b` is a condition that still has to be solved, and `a` is not.
    Undefined: one of them is not a set of reals that can be described.
  """
  if is_solved(a) and not is_solved(b):
    raise Unreadable("a condition that still has to be solved")
  ours, theirs = unknown(a), unknown(b)
  if ours and theirs and ours != theirs and not (_names_itself(a) or _names_itself(b)):
    return False
  first, second = read(a), read(b)
  return all(first.holds(x) == second.holds(x) for x in _test_points(first.borders, second.borders))


def _test_points(*borders: list) -> list:
  mp = evaluate.context(evaluate.DIGITS)
  ordered = sorted(x for side in borders for x in side)
  if len(ordered) > _MAX_BORDERS:
    raise TooBig("a set of too many pieces")
  distinct: list = []
  for x in ordered:
    if not distinct or not _same(distinct[-1], x):
      distinct.append(x)
  if not distinct:
    return [mp.mpf(0)]
  between = [(x + y) / 2 for x, y in itertools.pairwise(distinct)]
  return [distinct[0] - 1, *distinct, *between, distinct[-1] + 1]


def _same(a, b) -> bool:
  mp = evaluate.context(evaluate.DIGITS)
  size = max(1, abs(a), abs(b))
  if abs(a - b) <= mp.mpf(10) ** -_CLOSE * size:
    return True
  if abs(a - b) < mp.mpf(10) ** -_NEAR * size and not mp.isinf(a - b):
    raise TooBig("borders too close to be told apart")
  return False


def _names_itself(node: Node) -> bool:
  """Whether the variable of a set is bound by a set builder, so that its name is free."""
  return isinstance(node, Union) and any(
    n.kind == "such" for n in nodes.walk(node) if isinstance(n, Union)
  )


def unknown(node: Node) -> Node | None:
  """The unknown of a set: its one variable, or the one `f(x)` or `|z|` in its conditions.

  Raises:
    Undefined: there are several.
  """
  found = {n for n in nodes.walk(node) if isinstance(n, Op) and n.kind.startswith("call:")}
  if not found:
    found = {n for n in nodes.walk(node) if isinstance(n, Sym) and nodes.symbols(n)}
    found = {n for n in found if n.name not in _INTEGERS}
  if len(found) > 1:
    raise Undefined("more than one unknown")
  return next(iter(found), None)


def read(node: Node) -> RealSet:
  """The set of reals `node` describes.

  Raises:
    Undefined: it describes none.
  """
  for below in nodes.walk(node):
    if isinstance(below, Num) and (below.digits > _MAX_WRITTEN or _bits(below) > _MAX_BITS):
      raise TooBig("a border written with too many digits")
    if isinstance(below, Op) and below.kind == "pow" and not nodes.symbols(below):
      evaluate.constant(below)
  name = unknown(node)
  return _read(node if name is None else _replaced(node, name))


def _bits(number: Num) -> int:
  return number.value.numerator.bit_length() + number.value.denominator.bit_length()


def _replaced(node: Node, name: Node) -> Node:
  if node == name:
    return Sym(_UNKNOWN)
  return nodes.rebuild(node, tuple(_replaced(child, name) for child in nodes.children(node)))


def _read(node: Node) -> RealSet:
  if isinstance(node, Rel):
    return _relation(node)
  if isinstance(node, Union):
    return _union(node)
  if isinstance(node, Seq) and node.brackets == "{}":
    values = [evaluate.constant(item) for item in node.items]
    return RealSet(values, lambda x: any(_same(x, v) for v in values))
  if isinstance(node, Seq) and node.brackets in INTERVALS and len(node.items) == 2:
    return _interval(node)
  if isinstance(node, Seq) and node.brackets == "," and all(map(is_inequality, node.items)):
    # "x < 1, x > 3" are disjoint and mean "or"; "x > 1, x < 3" overlap and mean "and".
    both = _joined("and", [_read(item) for item in node.items])
    if any(both.holds(x) for x in _test_points(both.borders)):
      return both
    return _joined("or", [_read(item) for item in node.items])
  raise Undefined("not a set of reals")


def _interval(node: Seq) -> RealSet:
  low, high = (evaluate.constant(item) for item in node.items)
  closed = [bracket in "[]" for bracket in node.brackets]
  mp = evaluate.context(evaluate.DIGITS)
  ends = [mp.isinf(low), mp.isinf(high)]
  if (low == high if any(ends) else _same(low, high)) and not all(closed):
    raise Undefined("an interval without a point")
  if low > high and not _same(low, high):
    raise Undefined("an interval that runs backwards")
  if any(end and shut for end, shut in zip(ends, closed, strict=True)):
    raise Undefined("infinity is not a number")

  def holds(x) -> bool:
    at_low, at_high = not ends[0] and _same(x, low), not ends[1] and _same(x, high)
    return (closed[0] if at_low else x > low) and (closed[1] if at_high else x < high)

  return RealSet([e for e, infinite in zip((low, high), ends, strict=True) if not infinite], holds)


def _union(node: Union) -> RealSet:
  if node.kind == "such":
    element, condition = node.args
    if isinstance(element, Rel) and element.ops == ("in",) and isinstance(element.args[1], Sym):
      return _whole(element, _read(condition))
    if isinstance(element, Rel) and element.ops == ("in",):
      return _joined("and", [_read(element), _read(condition)])
    if element != Sym(_UNKNOWN):
      raise Undefined("a set of expressions")
    return _read(condition)
  return _joined(node.kind, [_read(arg) for arg in node.args])


def _whole(element: Rel, condition: RealSet) -> RealSet:
  r"""The finitely many integers of `\{x \in \mathbb{Z} \mid 1 \le x \le 3\}`."""
  if element.args[0] != Sym(_UNKNOWN) or element.args[1].name not in _INTEGERS:
    raise Undefined("not a set of integers")
  mp = evaluate.context(evaluate.DIGITS)
  points = _test_points(condition.borders)
  low, high = min(points), max(points)
  if condition.holds(low) or condition.holds(high):
    raise Undefined("infinitely many integers")
  if high - low > _MAX_BORDERS:
    raise TooBig("a set of too many integers")
  values = [mp.mpf(n) for n in range(int(mp.floor(low)), int(mp.ceil(high)) + 1)]
  values = [x for x in values if condition.holds(x)]
  if element.args[1].name == "set_N":
    if 0 in values:
      raise Undefined("0 may be natural or not")
    values = [x for x in values if x > 0]
  return RealSet(values, lambda x: any(_same(x, v) for v in values))


def _joined(kind: str, parts: list[RealSet]) -> RealSet:
  borders = [x for part in parts for x in part.borders]
  if kind in ("union", "or"):
    return RealSet(borders, lambda x: any(part.holds(x) for part in parts))
  if kind in ("intersection", "and"):
    return RealSet(borders, lambda x: all(part.holds(x) for part in parts))
  return RealSet(borders, lambda x: parts[0].holds(x) and not parts[1].holds(x))


def _relation(rel: Rel) -> RealSet:
  if rel.ops in (("in",), ("notin",)):
    if rel.args[0] != Sym(_UNKNOWN):
      raise Undefined("membership of an expression")
    inner = _read(rel.args[1])
    return inner if rel.ops == ("in",) else RealSet(inner.borders, lambda x: not inner.holds(x))
  return _joined(
    "and",
    [_link(*link) for link in zip(rel.ops, rel.args, rel.args[1:], strict=False)],
  )


def _link(op: str, left: Node, right: Node) -> RealSet:
  infinite = Sym("oo"), Op("neg", (Sym("oo"),))
  if left in infinite or right in infinite:  # - oo < x
    return RealSet([], lambda x: True)
  if op not in INEQUALITIES and op != "=":
    raise Undefined(f"{op} describes no set")
  difference = Op("add", (left, Op("neg", (right,))))
  if not nodes.symbols(difference):
    raise Undefined("nothing is unknown")

  def holds(x) -> bool:
    at = _At(x)
    try:
      value = at(difference)
    except Undefined:
      return False
    if not at.mp.isfinite(value) or at.mp.im(value):
      return False
    value = at.mp.re(value)
    zero = abs(value) < at.mp.mpf(10) ** -(_CLOSE - 5)
    if op in ("=", "!="):
      return zero == (op == "=")
    return op.endswith("=") if zero else (value < 0) == (op[0] == "<")

  return RealSet(algebra.critical_points(difference, _UNKNOWN), holds)

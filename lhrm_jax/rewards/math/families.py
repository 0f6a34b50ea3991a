r"""Solutions with an integer in them: `x = \frac{\pi}{4} + k\pi, k \in \mathbb{Z}` and congruences.

Each is a set of evenly spaced numbers. Sets of those are equal where they have the same residues
modulo a common period.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

from lhrm_jax.rewards.math import algebra, evaluate, nodes
from lhrm_jax.rewards.math.exact import Undefined
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Rel, Seq, Sym, TooBig, Union, Unreadable

_CLOSE = 30
_MAX_RESIDUES = 500
_MAX_RATIO = 1_000
# Letters read as integers where the other side says that its own letter is one.
_INTEGERS = frozenset("klmnt")
_NUMBER_SETS = ("set_Z",)


@dataclasses.dataclass(frozen=True)
class Family:
  """A list of solutions without the conditions on their parameters."""

  items: tuple[Node, ...]
  parameters: frozenset[str]


def split(node: Node) -> Family | None:
  r"""Removes `k \in \mathbb{Z}` from a list of solutions; `None` without integers."""
  if isinstance(node, Op) and node.kind == "congruent":
    return Family((node,), frozenset())
  if isinstance(node, Seq) and node.brackets in (",", "{}"):
    items = node.items
  elif isinstance(node, Union) and node.kind in ("and", "or", "such"):
    items = node.args
  else:
    return None
  conditions = [item for item in items if _is_condition(item)]
  rest = tuple(item for item in items if item not in conditions)
  parameters = frozenset(item.args[0].name for item in conditions)
  used = parameters and all(any(p in nodes.symbols(item) for item in rest) for p in parameters)
  if not all(_is_named(item) or not isinstance(item, Rel) for item in rest):
    return None
  named = {item.args[0].name for item in rest if _is_named(item)}
  if not used or parameters & named:
    congruences = rest and all(isinstance(i, Op) and i.kind == "congruent" for i in rest)
    return Family(rest, frozenset()) if congruences and not conditions else None
  return Family(rest, parameters)


def _is_condition(node: Node) -> bool:
  return (
    isinstance(node, Rel)
    and node.ops == ("in",)
    and isinstance(node.args[0], Sym)
    and isinstance(node.args[1], Sym)
    and node.args[1].name.startswith(_NUMBER_SETS)
  )


def _is_named(node: Node) -> bool:
  return isinstance(node, Rel) and node.ops == ("=",) and isinstance(node.args[0], Sym)


def equal(gold: Family, answer: Family) -> bool:
  """Whether two families have the same members.

  Raises:
    Undefined: one of them is not evenly spaced.
    TooBig: too many residues.
  """
  names = [{_name(item) for item in side.items} - {None} for side in (gold, answer)]
  if names[0] and names[1] and names[0] != names[1]:
    return False
  sides = [
    [lattice for item in side.items for lattice in _lattices(item, side.parameters)]
    for side in (gold, answer)
  ]
  period = _period([step for side in sides for _, step in side])
  if period is None:
    raise Undefined("steps without a common multiple")
  first, second = (_residues(side, period) for side in sides)
  return len(first) == len(second) and all(any(_near(x, y, period) for y in second) for x in first)


def guessed(node: Node, other: Family) -> Family:
  """`node` as a family where only the other side says which letter is an integer."""
  items = node.items if isinstance(node, Seq) and node.brackets in (",", "{}") else (node,)
  used = {name for item in items for name in nodes.symbols(_value(item))}
  return Family(
    tuple(items), frozenset(used & (other.parameters or _INTEGERS)) or frozenset(used & _INTEGERS)
  )


def _name(item: Node) -> Node | None:
  if (isinstance(item, Op) and item.kind == "congruent") or _is_named(item):
    return item.args[0]
  return None


def _value(item: Node) -> Node:
  return item.args[-1] if _is_named(item) else item


def _lattices(item: Node, parameters: frozenset[str], *, split_once: bool = True):
  """Yields the evenly spaced sets an item stands for, as pairs of offset and step."""
  if isinstance(item, Op) and item.kind == "congruent":
    if not isinstance(item.args[0], Sym):
      raise Undefined("a congruence of an expression")
    yield evaluate.constant(item.args[1]), abs(evaluate.constant(item.args[2]))
    return
  node = _value(item)
  names = nodes.symbols(node) & parameters
  if len(names) != 1:
    raise Undefined("not one parameter")
  (name,) = names
  at = [evaluate.constant(algebra.at(node, name, x)) for x in (0, 1, 2, 7)]
  step = at[1] - at[0]
  if all(_same(at[0] + step * x, y) for x, y in zip((2, 7), at[2:], strict=True)):
    if abs(step) < 1e-20:
      raise Undefined("no step")
    yield at[0], abs(step)
  elif split_once:  # (-1)^k \alpha + k\pi: even and odd k apart
    double = Op("mul", (Num(Fraction(2)), Sym(name)))
    for shifted in (double, Op("add", (double, Num(Fraction(1))))):
      yield from _lattices(algebra.replaced(node, name, shifted), parameters, split_once=False)
  else:
    raise Undefined("not evenly spaced")


def _same(a, b) -> bool:
  return abs(a - b) <= 10**-(_CLOSE) * max(1, abs(a), abs(b))


def _period(steps: list):
  """The smallest common multiple of `steps`, if they have one."""
  ratios = []
  for step in steps:
    ratio = step / steps[0]
    if not 1 / _MAX_RATIO < ratio < _MAX_RATIO:
      return None
    fraction = Fraction(str(ratio)[:40]).limit_denominator(_MAX_RATIO)
    if not _same(ratio * fraction.denominator, fraction.numerator):
      return None
    ratios.append(fraction)
  over = math.lcm(*[r.numerator for r in ratios])
  under = math.gcd(*[r.denominator for r in ratios])
  return steps[0] * over / under


def _residues(side: list, period) -> list:
  out: list = []
  for offset, step in side:
    count = round(float(period / step))
    if count * len(side) > _MAX_RESIDUES:
      raise TooBig("too many residues")
    for k in range(count):
      value = (offset + k * step) % period
      if not any(_near(value, other, period) for other in out):
        out.append(value)
  return out


def _near(a, b, period) -> bool:
  distance = abs(a - b)
  return min(distance, abs(period - distance)) < period * 1e-25


def with_condition(item: Node) -> tuple[Node, ...]:
  r"""`x = 2k\pi (k \in \mathbb{Z})` as an equation and its condition."""
  last = item.args[-1] if isinstance(item, Rel) else item
  if isinstance(last, Op) and last.kind == "mul" and isinstance(last.args[-1], Rel):
    rest = last.args[:-1] if len(last.args) > 2 else last.args[0]
    value = rest if isinstance(rest, Node) else Op("mul", rest)
    if last.args[-1].ops == ("in",):
      whole = Rel(item.ops, (*item.args[:-1], value)) if isinstance(item, Rel) else value
      return whole, last.args[-1]
  if isinstance(last, Op) and last.kind == "add":
    *others, end = last.args
    inner = with_condition(end)
    if len(inner) == 2:
      value = Op("add", (*others, inner[0]))
      return (Rel(item.ops, (*item.args[:-1], value)) if isinstance(item, Rel) else value), inner[1]
  return (item,)


def joined_residues(items: tuple[Node, ...]) -> Node:
  r"""`x \equiv 1, 4 \pmod 5` as two congruences."""
  head, *others = items
  last = items[-1]
  if not (isinstance(head, Rel) and head.ops in (("==",), ("=",)) and len(items) > 1):
    raise Unreadable("a residue without a name")
  name, first = head.args
  values = [first, *[o.args[0] if isinstance(o, Op) and o.kind == "residue" else o for o in others]]
  return Seq(",", tuple(Op("congruent", (name, value, last.args[1])) for value in values))

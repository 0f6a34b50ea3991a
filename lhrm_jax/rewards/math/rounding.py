r"""Equality of expressions with floors and ceilings of variables.

No sample tells `\lfloor n/100 \rfloor` from `\lfloor (n+1)/100 \rfloor` for sure. Where every
argument is linear in one variable with rational coefficients, both sides repeat up to a polynomial,
and are compared exactly over whole periods.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

from lhrm_jax.rewards.math import equality, nodes
from lhrm_jax.rewards.math.exact import NotExact, Undefined, exact
from lhrm_jax.rewards.math.nodes import Node, Op, TooBig

_KINDS = ("floor", "ceil")
# The highest degree, and the most points, at which an exact comparison is tried.
_DEGREE, _MAX_POINTS = 3, 3_000


def equal(a: Node, b: Node) -> bool | None:
  r"""Whether two expressions have the same value; `None` where that cannot be decided.

  Variables are real, but integers where the two sides round differently (`\lceil n/2 \rceil` and
  `\lfloor (n+1)/2 \rfloor`), which is an identity of integers only. In `\lfloor x \rfloor` they are
  real, or nothing would be rounded.
  """
  roundings = [n for n in nodes.walk(Op("add", (a, b))) if _counts(n) and nodes.symbols(n)]
  if not roundings or a == b:
    return equality.equal(a, b)
  if equality.equal(_opaque(a), _opaque(b)):
    return True
  if not all(map(_rounds, roundings)):
    return False if equality.equal(a, b) is False else None
  try:
    steps = {_linear(n.args[0]) for n in roundings}
  except (NotExact, Undefined):
    steps = None
  names = nodes.symbols(a) | nodes.symbols(b)
  if steps is None or len(names) != 1:
    # A difference at sample points is a difference; agreement proves nothing.
    return False if equality.equal(a, b) is False else None
  (name,) = names
  try:
    return _exactly(a, b, name, steps)
  except (NotExact, Undefined):
    return False if equality.equal(a, b) is False else None


def _counts(node: Node) -> bool:
  return _rounds(node) or (isinstance(node, Op) and node.kind in ("fn:gcd", "fn:lcm"))


def _rounds(node: Node) -> bool:
  return isinstance(node, Op) and node.kind in _KINDS


def _opaque(node: Node) -> Node:
  inner = tuple(_opaque(child) for child in nodes.children(node))
  return Op("call:" + node.kind, inner) if _counts(node) else nodes.rebuild(node, inner)


def _linear(node: Node) -> tuple[Fraction, Fraction]:
  """Slope and constant of a rounding's argument, which must be linear in its one variable."""
  names = nodes.symbols(node)
  if len(names) != 1 or any(_rounds(below) for below in nodes.walk(node)):
    raise NotExact("not linear")
  (name,) = names
  at = [exact(node, {name: Fraction(x)}) for x in (0, 1, 2, 7)]
  slope = at[1] - at[0]
  if not slope or at[2] != at[0] + 2 * slope or at[3] != at[0] + 7 * slope:
    raise NotExact("not linear")
  return slope, at[0]


def _exactly(a: Node, b: Node, name: str, steps: set[tuple[Fraction, Fraction]]) -> bool | None:
  def same(points) -> bool:
    return all(exact(a, {name: x}) == exact(b, {name: x}) for x in points)

  kinds = [{n.kind for n in nodes.walk(side) if _rounds(n)} for side in (a, b)]
  # A shift of the variable by the period shifts every argument by a whole number.
  period = math.lcm(*[slope.denominator for slope, _ in steps], 2)
  span = period * (_DEGREE + 1)
  if span > _MAX_POINTS:
    raise NotExact("a long period")
  whole = same(Fraction(x) for x in range(-2, span))
  if not whole:
    return False
  if kinds[0] != kinds[1] and any(slope.denominator > 1 for slope, _ in steps):
    return True  # the identity of whole numbers for which such roundings are written
  jumps = {Fraction(0)}
  for slope, constant in steps:
    if span * abs(slope) > _MAX_POINTS:
      raise NotExact("too many jumps")
    ends = sorted((constant, constant + slope * span))
    jumps |= {(j - constant) / slope for j in range(math.ceil(ends[0]), math.floor(ends[1]) + 1)}
  ordered = sorted(jumps)
  if len(ordered) > _MAX_POINTS // 4:
    raise TooBig("too many jumps")
  between = [
    low + (high - low) * Fraction(part, 4)
    for low, high in itertools.pairwise(ordered)
    for part in (1, 2, 3)
  ]
  return same(ordered) and same(between)

"""Equality of two expressions.

Rationals are compared exactly, constants once, expressions with variables at points of their
domain. The precision follows the largest and smallest intermediate values, so that
`2 + e^{-500}` is told from 2 and `n` from `n + 1` at any size.
"""

from __future__ import annotations

import functools
import math

from lhrm_jax.rewards.math import evaluate, nodes
from lhrm_jax.rewards.math.exact import NotExact, Undefined, exact
from lhrm_jax.rewards.math.nodes import Node, Op, TooBig


def equal(a: Node, b: Node) -> bool | None:
  """Whether two expressions have the same value; `None` where no test point decides.

  `\\log` may mean the natural or the decimal logarithm; both sides are read the same way.
  """
  if a == b:
    return True
  if evaluate.uses(a, "oo") or evaluate.uses(b, "oo"):
    return False  # infinity has no arithmetic here
  try:
    return exact(a) == exact(b)
  except (NotExact, Undefined):
    pass
  logs = evaluate.uses(a, "fn:log") or evaluate.uses(b, "fn:log")
  verdicts = [_equal_numbers(a, b, base) for base in (("e", "10") if logs else ("e",))]
  return True if True in verdicts else verdicts[0]


# Piecewise operations, tested at more points.
_PIECEWISE = ("abs", "fn:abs", "fn:max", "fn:min", "root", "floor", "ceil", "fn:gcd", "fn:lcm")


def _equal_numbers(a: Node, b: Node, log_base: str) -> bool | None:
  both = Op("add", (a, b))
  variables = nodes.symbols(both)
  opaque = any(isinstance(n, Op) and n.kind.startswith("call:") for n in nodes.walk(both))
  if not variables and not opaque:
    return agree(evaluate.Evaluator, a, b, evaluate.CONSTANT_DIGITS, log_base, complex_too=True)
  whole = whole_variables(both)
  plane = bool(variables) and evaluate.uses(both, "conj")
  imaginary = plane or evaluate.uses(both, "i")
  points = 24 if whole or evaluate.uses(both, *_PIECEWISE) else 8
  free = functools.partial(evaluate.Evaluator, whole=whole, complex_plane=plane)
  make = functools.partial(free, real=not imaginary)
  seen = []
  for point in range(points):
    seen.append(agree(make, a, b, evaluate.DIGITS, log_base, point, complex_too=imaginary))
    if seen[-1] is False:
      return False
  if seen.count(True) >= 2:
    return True
  # Nowhere real on both sides: compare as complex numbers.
  seen = [
    agree(free, a, b, evaluate.DIGITS, log_base, point, complex_too=True) for point in range(4)
  ]
  return None if True not in seen else all(s is not False for s in seen)


def whole_variables(node: Node) -> frozenset[str]:
  """Variables that can only be whole: in `gcd(m, n)`, `(2n)!!` or the exponent of `(-1)^n`."""
  found: set[str] = set()
  for below in nodes.walk(node):
    if not isinstance(below, Op):
      continue
    if below.kind in ("fn:gcd", "fn:lcm", "fact2"):
      found |= nodes.symbols(below)
    elif below.kind == "pow" and not nodes.symbols(below.args[0]):
      try:
        negative = exact(below.args[0]) < 0
      except (NotExact, Undefined):
        continue
      found |= nodes.symbols(below.args[1]) if negative else set()
  return frozenset(found)


def agree(
  make, a: Node, b: Node, digits: int, log_base: str, point: int = 0, *, complex_too: bool
) -> bool | None:
  """Whether `a` and `b` agree at one point; `None` where one of them has no (real) value there."""
  margin = digits
  while True:
    at = make(digits, point, log_base)
    mp = at.mp
    try:
      x, y = at(a), at(b)
    except Undefined:
      return None
    except TooBig:
      if point < 8:
        raise
      return None
    spread = math.ceil(at.size * math.log10(2))
    if digits >= margin + 2 * spread - evaluate.SLACK:
      break
    while digits < margin + 2 * spread - evaluate.SLACK:
      digits *= 2
    if digits > evaluate.MAX_DIGITS:
      return None
  if isinstance(x, mp.matrix) or isinstance(y, mp.matrix):
    if not (isinstance(x, mp.matrix) and isinstance(y, mp.matrix)):
      return False
    if (x.rows, x.cols) != (y.rows, y.cols):
      return False
    pairs = list(zip(x, y, strict=True))
  else:
    pairs = [(x, y)]
  verdicts = [_close(at, *pair, spread, complex_too) for pair in pairs]
  return False if False in verdicts else None if None in verdicts else True


def _close(at: evaluate.Evaluator, x, y, spread: int, complex_too: bool) -> bool | None:
  mp = at.mp
  if mp.isnan(x) or mp.isnan(y):
    return None
  if mp.isinf(x) or mp.isinf(y):
    return bool(x == y)
  tiny = mp.mpf(10) ** (spread + evaluate.SLACK - at.digits)
  if not complex_too and any(abs(mp.im(value)) > tiny for value in (x, y)):
    return None
  return bool(abs(x - y) <= tiny)

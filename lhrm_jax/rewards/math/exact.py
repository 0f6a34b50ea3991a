"""Exact rational values of nodes. Every operation checks its size before it is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

from lhrm_jax.rewards.math.nodes import Node, Num, Op, Quantity, Sym, TooBig

MAX_BITS = 65_536  # of a numerator or denominator
MAX_FACTORIAL = 3_000


class NotExact(ValueError):
  """The value is not a rational that is known without approximation."""


class Undefined(ValueError):
  """The expression has no value at this point."""


def exact(node: Node, values: Mapping[str, Fraction] | None = None) -> Fraction:
  """The rational value of `node`, with `values` for its variables.

  Raises:
    NotExact: it has a variable, a constant or a function in it.
    Undefined: division by zero.
    TooBig: over `MAX_BITS`.
  """
  if isinstance(node, Num):
    return node.value
  if isinstance(node, Quantity):
    return exact(node.value, values)
  if isinstance(node, Sym) and values and node.name in values:
    return values[node.name]
  if not isinstance(node, Op) or node.kind not in _EXACT:
    raise NotExact(node)
  return _bounded(_EXACT[node.kind](*[exact(arg, values) for arg in node.args]))


def _bounded(value: Fraction) -> Fraction:
  if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
    raise TooBig(f"a number of more than {MAX_BITS} bits")
  return value


def _sum(*args: Fraction) -> Fraction:
  total = Fraction(0)
  for arg in args:
    total = _bounded(total + arg)
  return total


def _product(*args: Fraction) -> Fraction:
  total = Fraction(1)
  for arg in args:
    total = _bounded(total * arg)
  return total


def _quotient(top: Fraction, *bottoms: Fraction) -> Fraction:
  for bottom in bottoms:
    if bottom == 0:
      raise Undefined("division by zero")
    top = _bounded(top / bottom)
  return top


def _ratio(*args: Fraction) -> Fraction:
  if len(args) != 2:
    raise NotExact("a ratio of more than two terms is not a number")
  return _quotient(*args)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
  if exponent.denominator != 1:
    raise NotExact("a root")
  power = int(exponent)
  if base == 0:
    if power < 0:
      raise Undefined("division by zero")
    return Fraction(int(power == 0))
  size = max(base.numerator.bit_length(), base.denominator.bit_length())
  if size > 1 or base.denominator != 1:  # 1 and -1 have every power
    if abs(power) * size > MAX_BITS:
      raise TooBig(f"a power of more than {MAX_BITS} bits")
    return base**power
  return base if power % 2 else Fraction(1)


def _whole(value: Fraction, most: int) -> int:
  if value.denominator != 1 or value < 0:
    raise NotExact("not a natural number")
  if value > most:
    raise TooBig(f"{most} is the largest argument here")
  return int(value)


def _root(value: Fraction, degree: Fraction) -> Fraction:
  """Roots that come out even; the others stay numeric."""
  if degree.denominator != 1 or not 2 <= degree <= 64 or value < 0:
    raise NotExact("a root")
  found = []
  for part in (value.numerator, value.denominator):
    guess = (
      math.isqrt(part) if degree == 2 else round(part ** (1 / int(degree))) if part < 2**50 else 0
    )
    if guess ** int(degree) != part:
      raise NotExact("an irrational root")
    found.append(guess)
  return Fraction(*found)


def _double_factorial(value: Fraction) -> Fraction:
  return Fraction(math.prod(range(_whole(value, MAX_FACTORIAL), 1, -2)))


_EXACT: dict[str, Callable[..., Fraction]] = {
  "add": _sum, "mul": _product, "div": _quotient, "neg": lambda a: -a, "pow": _power, "abs": abs,
  "fact": lambda a: Fraction(math.factorial(_whole(a, MAX_FACTORIAL))),
  "fact2": _double_factorial, "conj": lambda a: a,
  "floor": lambda a: Fraction(math.floor(a)), "ceil": lambda a: Fraction(math.ceil(a)),
  "pct": lambda a: a / 100, "root": _root, "ratio": _ratio, "base": lambda value, *_: value,
  "binom": lambda n, k: Fraction(math.comb(_whole(n, MAX_FACTORIAL), _whole(k, MAX_FACTORIAL))),
  "fn:abs": abs, "fn:max": lambda *a: max(a), "fn:min": lambda *a: min(a),
  "fn:gcd": lambda *a: Fraction(math.gcd(*[_whole(x, 10**300) for x in a])),
  "fn:lcm": lambda *a: Fraction(math.lcm(*[_whole(x, 10**300) for x in a[:8]])),
}  # fmt: skip

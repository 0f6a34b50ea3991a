"""Algebra by SymPy: polynomial forms of equations, and the points where conditions may change.

SymPy never sees text. Expressions are built node by node from our own tree, and their size is
bounded before anything is expanded. Roots, constants and functions become plain symbols, one for
each value.
"""

from __future__ import annotations

import itertools
import math
import sys
from fractions import Fraction

from lhrm_jax.rewards.math import evaluate, nodes
from lhrm_jax.rewards.math.exact import NotExact, Undefined, exact
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Sym, TooBig

_MAX_TERMS, _MAX_POWER, _MAX_BITS = 3_000, 12, 1_024
_MAX_BRANCHES = 3  # absolute values in one condition


def before_import() -> None:
  """Called before SymPy is imported; a worker replaces it to ask for more time."""


class Builder:
  """Builds SymPy expressions over shared symbols.

  Attributes:
    values: for each symbol that stands for a constant, the node it stands for.
  """

  def __init__(self):
    if "sympy" not in sys.modules:
      before_import()
    import sympy  # takes seconds on a busy machine; plain values never need it

    self.sympy = sympy
    self.values: dict = {}
    self._symbols: dict = {}

  def symbol(self, key: str):
    return self._symbols.setdefault(key, self.sympy.Dummy(f"s{len(self._symbols)}"))

  def numerator(self, node: Node):
    """Numerator and denominator of `node`, written over one fraction line and cancelled.

    Raises:
      Undefined: a division by zero.
      TooBig: expanding it would take too many terms.
    """
    self._check(node)
    built = self._build(node)
    if built.has(self.sympy.zoo, self.sympy.nan, self.sympy.oo):
      raise Undefined("division by zero")
    top, bottom = self.sympy.fraction(self.sympy.together(built))
    return self.sympy.cancel(top / bottom).as_numer_denom()

  def number(self, expression):
    """The value of an expression whose symbols all stand for constants."""
    mp = evaluate.context(evaluate.DIGITS)
    values = {
      s: self.sympy.Float(evaluate.constant(self.values[s]), evaluate.DIGITS)
      for s in expression.free_symbols
    }
    return mp.mpf(
      self.sympy.Float(expression.evalf(evaluate.DIGITS, subs=values), evaluate.DIGITS)._mpf_
    )

  def _check(self, node: Node) -> None:
    atoms: set = set()
    degree = _degree(node, atoms)
    if math.comb(degree + len(atoms), len(atoms)) > _MAX_TERMS:
      raise TooBig("an equation of too many terms")

  def _build(self, node: Node):
    sympy = self.sympy
    if not nodes.symbols(node):
      try:
        value = exact(node)
      except (NotExact, Undefined):
        pass
      else:
        if value.numerator.bit_length() + value.denominator.bit_length() <= _MAX_BITS:
          return sympy.Rational(value.numerator, value.denominator)
    if isinstance(node, Op):
      if node.kind == "add":
        return sympy.Add(*map(self._build, node.args))
      if node.kind == "mul":
        return sympy.Mul(*map(self._build, node.args))
      if node.kind == "neg":
        return -self._build(node.args[0])
      if node.kind in ("div", "ratio") and len(node.args) == 2:
        top, bottom = map(self._build, node.args)
        if bottom == 0:
          raise Undefined("division by zero")
        return top / bottom
      if node.kind == "pow" and (power := _small_power(node.args[1])) is not None:
        base = self._build(node.args[0])
        if base == 0 and power <= 0:
          raise Undefined("a power of 0")
        return base**power
    if isinstance(node, Sym) and nodes.symbols(node):
      return self.symbol("name " + node.name)
    return self._opaque(node)

  def _opaque(self, node: Node):
    at = evaluate.Evaluator(evaluate.DIGITS)
    value = at(node)
    if isinstance(value, at.mp.matrix):
      raise Undefined("a matrix in an equation")
    value = at.mp.mpmathify(value)
    digits = evaluate.DIGITS - evaluate.SLACK
    symbol = self.symbol(" ".join(at.mp.nstr(part, digits) for part in (value.real, value.imag)))
    self.values[symbol] = node
    return symbol


def _small_power(node: Node) -> int | None:
  try:
    power = exact(node)
  except (NotExact, Undefined):
    return None
  return int(power) if power.denominator == 1 and abs(power) <= _MAX_POWER else None


def _degree(node: Node, atoms: set) -> int:
  """A bound on the degree of numerator and denominator together; collects the other atoms."""
  if isinstance(node, Op) and node.kind in ("add", "mul", "div", "ratio"):
    degrees = [_degree(arg, atoms) for arg in node.args]
    fraction = any(isinstance(n, Op) and n.kind in ("div", "pow") for n in nodes.walk(node))
    return max(degrees) if node.kind == "add" and not fraction else sum(degrees)
  if isinstance(node, Op) and node.kind == "neg":
    return _degree(node.args[0], atoms)
  if isinstance(node, Op) and node.kind == "pow" and (power := _small_power(node.args[1])):
    return abs(power) * _degree(node.args[0], atoms)
  if isinstance(node, Num):
    return 0
  atoms.add(node)
  return 1


def same_equation(a: Node, b: Node) -> bool | None:
  """Whether `a = 0` and `b = 0` are equivalent: equal up to a factor that never vanishes."""
  build = Builder()
  try:
    tops = [build.numerator(side)[0] for side in (a, b)]
    return _constant_ratio(build, *tops) is not None
  except (Undefined, TooBig):
    return None


def same_inequality(a: Node, b: Node) -> bool | None:
  """Whether `a < 0` and `b < 0` are equivalent: equal up to a positive factor."""
  build = Builder()
  try:
    quotients = [top / bottom for top, bottom in map(build.numerator, (a, b))]
    ratio = _constant_ratio(build, *quotients)
  except (Undefined, TooBig):
    return None
  return ratio is not None and ratio > 0


def _constant_ratio(build: Builder, a, b):
  """`a / b` where it is a constant, as a number; `None` where it is not."""
  if not _varies(build, a) or not _varies(build, b):
    raise Undefined("nothing is unknown")  # 0 = 0 and 0 = 1 say nothing
  ratio = build.sympy.cancel(a / b)
  if _varies(build, ratio):
    return None
  return build.number(ratio)


def _varies(build: Builder, expression) -> bool:
  return any(nodes.symbols(build.values.get(s, Sym("x"))) for s in expression.free_symbols)


def solved_for(left: Node, right: Node, name: str) -> Node | None:
  """`left = right` solved for `name`, which must stand alone on the left, in `a name + b`."""
  if name in nodes.symbols(right) or nodes.symbols(left) != {name}:
    return None
  try:
    values = [exact(at(left, name, x)) for x in (0, 1, 2, 7)]
  except (NotExact, Undefined):
    return None
  slope = values[1] - values[0]
  if not slope or any(
    v != values[0] + slope * x for v, x in zip(values, (0, 1, 2, 7), strict=True)
  ):
    return None
  return Op("div", (Op("add", (right, Num(-values[0]))), Num(slope)))


def at(node: Node, name: str, x: int) -> Node:
  """`node` with the integer `x` for the variable `name`."""
  return replaced(node, name, Num(Fraction(x)))


def replaced(node: Node, name: str, value: Node) -> Node:
  """`node` with `value` for the variable `name`."""
  if node == Sym(name):
    return value
  return nodes.rebuild(node, tuple(replaced(child, name, value) for child in nodes.children(node)))


def critical_points(difference: Node, unknown: str) -> list:
  """Numbers that include all zeros and poles of `difference` in its one `unknown`.

  Raises:
    Undefined: they cannot be found.
    TooBig: over the bounds.
  """
  found = []
  for branch in _branches(difference):
    build = Builder()
    for part in build.numerator(branch):
      found += _roots(build, part, build.symbol("name " + unknown))
  return found


def _branches(node: Node):
  """Yields `node` with each absolute value replaced by its argument and by the negative."""
  inner = list(dict.fromkeys(n for n in nodes.walk(node) if _is_absolute(n)))
  if len(inner) > _MAX_BRANCHES:
    raise TooBig("too many absolute values")
  for signs in itertools.product((False, True), repeat=len(inner)):
    yield _without_bars(node, dict(zip(inner, signs, strict=True)))
  for bars in inner:
    yield from _branches(bars.args[0])


def _is_absolute(node: Node) -> bool:
  return isinstance(node, Op) and node.kind in ("abs", "fn:abs") and bool(nodes.symbols(node))


def _without_bars(node: Node, negative: dict[Node, bool]) -> Node:
  inner = tuple(_without_bars(child, negative) for child in nodes.children(node))
  if node in negative:
    return Op("neg", inner) if negative[node] else inner[0]
  return nodes.rebuild(node, inner)


def _roots(build: Builder, expression, unknown) -> list:
  """The real roots of a polynomial in `unknown`, as numbers of mpmath."""
  sympy = build.sympy
  mp = evaluate.context(evaluate.DIGITS)
  if not expression.has(unknown):
    return []
  others = expression.free_symbols - {unknown}
  for other in others:
    if nodes.symbols(build.values.get(other, Sym("x"))):
      raise Undefined("no polynomial in one unknown")
  try:
    polynomial = sympy.Poly(expression, unknown)
  except sympy.PolynomialError:
    raise Undefined("no polynomial") from None
  if not others:
    polynomial = polynomial.sqf_part()
  coefficients = [build.number(c) for c in polynomial.all_coeffs()]
  tiny = mp.mpf(10) ** -30
  if abs(coefficients[0]) < tiny or (others and len(coefficients) > 3):
    raise Undefined("a polynomial with roots that cannot be found")
  if len(coefficients) > 3:
    return _many_roots(build, polynomial)
  if len(coefficients) == 2:
    return [-coefficients[1] / coefficients[0]]
  a, b, c = coefficients
  inside = b * b - 4 * a * c
  if inside < -tiny:
    return []
  root = mp.sqrt(inside) if inside > tiny else 0
  return [(-b - root) / (2 * a), (-b + root) / (2 * a)]


def _many_roots(build: Builder, polynomial) -> list:
  from mpmath.libmp import NoConvergence

  try:
    roots = polynomial.nroots(n=evaluate.DIGITS - 10, maxsteps=200)
  except NoConvergence:
    raise TooBig("a polynomial whose roots are hard to find") from None
  parts = [root.as_real_imag() for root in roots]
  return [build.number(real) for real, imaginary in parts if abs(imaginary) < 1e-30]

"""Numeric values of nodes, by mpmath.

Variables get fixed pseudo-random values of their domain (real, whole or complex). Every operation
checks its size before it is done and counts against a budget, so evaluation always ends.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import threading
from fractions import Fraction

from lhrm_jax.rewards.math import nodes, vocabulary
from lhrm_jax.rewards.math.exact import NotExact, Undefined, exact
from lhrm_jax.rewards.math.nodes import Matrix, Node, Num, Op, Quantity, Sym, TooBig, Unreadable

MAX_EXPONENT_SIZE = 1_000_000  # of the logarithm of a number
MAX_ANGLE = 10**12
MAX_CONSTANT_BITS = 80  # where numbers are told apart at a fixed precision
MAX_GAMMA, MAX_GAMMA_DIGITS = 2_000, 700
# Significant digits asked for, beyond those that the spread of the values needs.
DIGITS, CONSTANT_DIGITS, MAX_DIGITS = 60, 180, 7_680
# Digits that an evaluation may lose to rounding.
SLACK = 20
# What one verdict may cost: an operation at 60 digits counts 1, with more digits their power 1.5.
MAX_WORK = 20_000
_LOCAL = threading.local()


def reset_budget() -> None:
  """Resets this thread's budget for the next verdict."""
  _LOCAL.work = 0.0


def context(digits: int):
  """mpmath's context for `digits` digits; each thread has its own, as they are not thread-safe."""
  cache = _LOCAL.__dict__.setdefault("contexts", {})
  if digits not in cache:
    import mpmath  # takes 0.1 s, and most answers are plain rationals that never need it

    cache[digits] = mpmath.MPContext()
    cache[digits].dps = digits
  return cache[digits]


class Evaluator:
  """Evaluates scalars and matrices at one point.

  Args:
    digits: working precision.
    point: the number of the test point; gives each variable its value. Points 0 to 3 are positive
      and of size 1, 4 to 7 have both signs, later ones also spread from 1e-3 to 1e5.
    log_base: what `\\log` without a base means, `"e"` or `"10"`.
    whole: names of the variables that are natural numbers.
    complex_plane: whether the other variables are complex numbers.
    real: whether a root or logarithm that is not real leaves the whole expression undefined.

  Attributes:
    size: the largest binary exponent met so far, of tiny values as of huge ones.
  """

  def __init__(
    self,
    digits: int,
    point: int = 0,
    log_base: str = "e",
    whole: frozenset[str] = frozenset(),
    *,
    complex_plane: bool = False,
    real: bool = False,
  ):
    self.mp = context(digits)
    self.digits = digits
    self.point = point
    self.log_base = log_base
    self.whole = whole
    self.complex_plane = complex_plane
    self.real = real
    self.size = 0
    self.cost = (digits / DIGITS) ** 1.5

  def variable(self, name: str):
    """A fixed number for each variable and point."""
    seed = hashlib.blake2b(f"{self.point}:{name}".encode(), digest_size=32).digest()
    unit = self.mp.mpf(int.from_bytes(seed[:12], "big")) / 2**96
    if name in self.whole:
      return self.mp.mpf(1 + int(unit * (12 if self.point < 8 else 10 ** (1 + self.point % 4))))
    value = unit * 3 + self.mp.mpf("0.3")
    if self.point >= 8:
      value = self.mp.mpf(10) ** (unit * 8 - 3)
    if self.point >= 4 and seed[31] % 2:
      value = -value
    if self.complex_plane:
      value = self.mp.mpc(value, int.from_bytes(seed[12:24], "big") / self.mp.mpf(2) ** 96 + 0.1)
    return value

  def __call__(self, node: Node):
    """The value of `node`: a real or complex number of `mp`, or a matrix of them.

    Raises:
      Undefined: no value at this point.
      Unreadable: no scalar or matrix.
      TooBig: over one of the bounds.
    """
    self._charge(1)
    try:
      value = self._value(node)
    except (ZeroDivisionError, ValueError, OverflowError) as error:
      if isinstance(error, TooBig | Unreadable | Undefined):
        raise
      raise Undefined(str(error)) from None
    return value if isinstance(value, self.mp.matrix) else self._noted(value)

  def _charge(self, operations: float) -> None:
    _LOCAL.work = getattr(_LOCAL, "work", 0.0) + operations * self.cost
    if _LOCAL.work > MAX_WORK:
      raise TooBig("the comparison needs too much work")

  def _noted(self, value):
    """Clears noise in the smaller part of a complex number, and remembers the value's size."""
    mp = self.mp
    if isinstance(value, mp.mpc):
      real, imaginary = (
        self._cleared(part, mp.mag(value)) if mp.isfinite(value) else part
        for part in (value.real, value.imag)
      )
      value = mp.mpc(real, imaginary) if imaginary else real
      if imaginary and self.real:
        raise Undefined("not real")
    if value and mp.isfinite(value):
      self.size = max(self.size, abs(mp.mag(value)))
    return value

  def _cleared(self, value, top):
    """0 for a value that is noise beside numbers of the binary exponent `top`."""
    mp = self.mp
    if not value or not mp.isfinite(value):
      return value
    if isinstance(value, mp.mpc):
      return mp.mpc(self._cleared(value.real, top), self._cleared(value.imag, top))
    return value if mp.mag(value) > top - mp.prec + 3 * SLACK else mp.mpf(0)

  def _value(self, node: Node):
    mp = self.mp
    if isinstance(node, Num):
      return mp.mpf(node.value.numerator) / node.value.denominator
    if isinstance(node, Quantity):
      return self(node.value)
    if isinstance(node, Sym):
      if node.name in ("pi", "e"):
        return +getattr(mp, node.name)
      return {"i": mp.mpc(0, 1), "oo": mp.inf}.get(node.name) or self.variable(node.name)
    if isinstance(node, Matrix):
      cells = [[self(cell) for cell in row] for row in node.rows]
      if any(isinstance(cell, mp.matrix) for row in cells for cell in row):
        raise Unreadable("a matrix in a matrix")
      return mp.matrix(cells)
    if not isinstance(node, Op):
      raise Unreadable("not a scalar")
    if node.kind.startswith("call:"):
      return self._opaque(node)
    if node.kind in _WHOLE:
      return self._counted(node)
    args = [self(arg) for arg in node.args]
    if any(isinstance(arg, mp.matrix) for arg in args):
      return self._matrix(node, args)
    return self._apply(node.kind, args, node)

  def _opaque(self, node: Op):
    """An unknown function: a number that depends on its name and its arguments' values."""
    parts = []
    for arg in node.args:
      value = self(arg)
      if isinstance(value, self.mp.matrix):
        raise Unreadable("an unknown function of a matrix")
      value = self.mp.mpmathify(value)
      shown = [self.mp.nstr(part, self.digits - SLACK) for part in (value.real, value.imag)]
      parts.append(" ".join(shown))
    if node.kind in ("call:fn:gcd", "call:fn:lcm"):
      parts.sort()
    return self.variable("|".join([node.kind, str(self.point), *parts]))

  def _counted(self, node: Op):
    """Factorials, binomials, roundings and divisors: exact where the arguments are rational."""
    mp = self.mp
    self._charge(5 * sum(1 for _ in nodes.walk(node)))
    try:
      value = exact(node)
      self._charge(value.numerator.bit_length() / 1_000)
      return mp.mpf(value.numerator) / value.denominator
    except NotExact:
      pass
    args = [self(arg) for arg in node.args]
    if any(isinstance(arg, mp.matrix) for arg in args):
      raise Unreadable(f"{node.kind} of a matrix")
    near = [mp.nint(x) if not mp.im(x) and mp.isfinite(x) else None for x in args]
    whole = [
      n is not None and abs(x - n) < mp.mpf(10) ** (SLACK - self.digits) * max(1, abs(x))
      for x, n in zip(args, near, strict=True)
    ]
    if all(whole) and max(map(abs, args)) < MAX_ANGLE:
      plain = Op(node.kind, tuple(Num(Fraction(int(n))) for n in near))
      try:
        value = exact(plain)
        return mp.mpf(value.numerator) / value.denominator
      except NotExact as error:
        if node.kind.startswith("fn:") or node.kind == "fact2":
          raise Undefined(str(error)) from None
    if node.kind in ("floor", "ceil"):
      if abs(self._real(args[0])) > MAX_ANGLE:
        raise TooBig("rounding of a huge number")
      return getattr(mp, node.kind)(args[0])
    if node.kind not in ("fact", "binom"):
      raise Undefined(f"{node.kind} of numbers that are not whole")
    self._charge(15)
    if max(map(abs, args)) > MAX_GAMMA or self.digits > MAX_GAMMA_DIGITS:
      raise TooBig("a factorial of a huge number")
    return mp.gamma(args[0] + 1) if node.kind == "fact" else mp.binomial(*args)

  def _real(self, value):
    if self.mp.im(value) != 0:
      raise Undefined("a complex number where a real one is needed")
    return self.mp.re(value)

  def _matrix(self, node: Op, args: list):
    """Sums, products, powers and determinants with matrices in them."""
    mp, kind = self.mp, node.kind
    if kind == "det" and args[0].rows == args[0].cols:
      return mp.det(args[0])
    if kind == "transpose":
      return args[0].T
    if kind in ("add", "mul"):
      return functools.reduce(operator.add if kind == "add" else operator.mul, args)
    if kind == "neg":
      return args[0] * -1
    if kind == "div" and len(args) == 2 and not isinstance(args[1], mp.matrix):
      return args[0] / args[1]
    if kind == "pow" and not isinstance(args[1], mp.matrix):
      power = exact(node.args[1])
      if power.denominator == 1 and abs(power) <= 64 and args[0].rows == args[0].cols:
        return args[0] ** int(power)
    raise Unreadable(f"{kind} of a matrix")

  def _apply(self, kind: str, args: list, node: Op):
    mp = self.mp
    if kind == "add":
      top = max((mp.mag(arg) for arg in args if arg and mp.isfinite(arg)), default=0)
      return self._cleared(mp.fsum(args), top)
    if kind == "mul":
      return mp.fprod(args)
    if kind in ("div", "ratio"):
      if len(args) != 2:
        raise Unreadable("a ratio of more than two terms is not a number")
      return args[0] / args[1]
    if kind == "neg":
      return -args[0]
    if kind in ("abs", "fn:abs"):
      return abs(args[0])
    if kind == "pct":
      return args[0] / 100
    if kind == "deg":
      return args[0] * mp.pi / 180
    if kind == "pow":
      return self._power(args[0], args[1], node.args[1])
    if kind == "root":
      return self._power(args[0], 1 / args[1], Op("div", (Num(Fraction(1)), node.args[1])))
    if kind == "conj":
      return mp.conj(args[0])
    if kind in ("fn:max", "fn:min"):
      return (max if kind == "fn:max" else min)(map(self._real, args))
    if kind.startswith("fn:"):
      return self._function(kind[3:], args)
    raise Unreadable(f"{kind} is not an operation on numbers")

  def _power(self, base, exponent, written: Node):
    mp = self.mp
    if base == 0:
      if mp.re(exponent) < 0:
        raise Undefined("division by zero")
      return mp.mpf(int(exponent == 0))
    size = abs(exponent * mp.log(base))
    if not size < MAX_EXPONENT_SIZE:
      raise TooBig("a power out of bounds")
    if mp.im(base) == 0 and mp.re(base) < 0:
      try:  # real roots of negative numbers: (-8)^(1/3) is -2, as in \sqrt[3]{-8}
        fraction = exact(written)
      except (NotExact, Undefined):
        fraction = None
      if fraction is not None and fraction.denominator % 2 == 1:
        positive = mp.power(-base, exponent)
        return -positive if fraction.numerator % 2 else positive
    return mp.power(base, exponent)

  def _function(self, name: str, args: list):
    mp, x = self.mp, args[0]
    self._charge(3)
    if len(args) > 2 or (len(args) == 2 and name not in ("log", "lg")):
      raise Unreadable(f"{name} of {len(args)} arguments")
    if name in ("log", "ln", "lg"):
      if x == 0:
        raise Undefined("the logarithm of 0")
      tens = name == "lg" or (name == "log" and self.log_base == "10")
      base = args[1] if len(args) == 2 else 10 if tens else None
      value = self._cleared(mp.log(x), 0)
      return value if base is None else value / mp.log(base)
    if not abs(x) < (MAX_EXPONENT_SIZE if name in vocabulary.GROWING else MAX_ANGLE):
      raise TooBig(f"{name} of a huge number")
    if x and mp.isfinite(x):
      # Tiny arguments are told from their functions by the cube, tanh(x) from 1 by e^(-2x).
      self.size = max(self.size, -3 * mp.mag(x))
      if name in ("tanh", "coth"):
        self.size = max(self.size, 3 * int(abs(x)))
    name = name.replace("arc", "a") if name.startswith("arc") else name
    if name not in vocabulary.ELEMENTARY:
      raise Unreadable(f"the function {name} is not known")
    if name == "exp":
      return mp.exp(x)
    top = max(0, mp.mag(x)) if x else 0
    if name in _QUOTIENTS:  # so that tan(pi/2) has no value, rather than a huge one
      over, under = _QUOTIENTS[name]
      over = self._cleared(getattr(mp, over)(x), top) if over else 1
      return over / self._cleared(getattr(mp, under)(x), top)
    return self._cleared(getattr(mp, name)(x), top)


_WHOLE = frozenset(["fact", "fact2", "binom", "floor", "ceil", "base", "fn:gcd", "fn:lcm"])
_QUOTIENTS = {
  "tan": ("sin", "cos"), "cot": ("cos", "sin"), "sec": ("", "cos"), "csc": ("", "sin"),
}  # fmt: skip


def uses(node: Node, *names: str) -> bool:
  """Whether a symbol or operation called one of `names` stands anywhere in `node`."""
  return any(getattr(n, "name", getattr(n, "kind", None)) in names for n in nodes.walk(node))


def is_scalar(node: Node) -> bool:
  """Whether `node` is a number or an expression, and no list, set, relation, matrix or text."""
  others = nodes.Seq | nodes.Rel | nodes.Union | Matrix | nodes.Text
  return not any(isinstance(below, others) for below in nodes.walk(node))


def constant(node: Node, digits: int = DIGITS):
  """The real value of a constant, for comparisons at a fixed precision.

  Raises:
    Undefined: it has a variable, or no real value.
    TooBig: values on the way are so large or small that they could drown others.
  """
  if nodes.symbols(node) or not is_scalar(node):
    raise Undefined("not a constant")
  evaluate = Evaluator(digits)
  value = evaluate(node)
  if evaluate.size > MAX_CONSTANT_BITS:
    raise TooBig("a constant too large or too small to be told from others")
  if evaluate.mp.isnan(value):
    raise Undefined("no number")
  return evaluate._real(value)

"""Values of scalar nodes: exact rationals where possible, else numbers to 60 digits.

Two expressions are equal when they agree at every test point. Without variables there is one point,
and agreement is asked for to 150 digits; with variables the points are fixed pseudo-random numbers,
positive ones first. An identity that held at all of them by chance would be a coincidence to 35
digits. Every operation checks its size before it is done, so evaluation always ends.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable
from fractions import Fraction

from lhrm_jax.rewards.math import nodes, vocabulary
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Quantity, Rel, Seq, Sym, TooBig, Unreadable

MAX_BITS = 65_536  # of a numerator or denominator
MAX_FACTORIAL = 3_000
MAX_EXPONENT_SIZE = 1_000_000  # of the logarithm of a number
MAX_ANGLE = 10**12
DIGITS, CLOSE = 60, 35
CONSTANT_DIGITS, CONSTANT_CLOSE = 180, 150
MAX_EXTRA_DIGITS = 600


class NotExact(ValueError):
  """The value is no rational that can be told without approximation."""


class Undefined(ValueError):
  """The expression has no value at this point."""


def exact(node: Node) -> Fraction:
  """The rational value of `node`.

  Raises:
    NotExact: it has a variable, a constant or a function in it.
    Undefined: division by zero.
    TooBig: over `MAX_BITS`.
  """
  if isinstance(node, Num):
    return node.value
  if isinstance(node, Quantity):
    return exact(node.value)
  if not isinstance(node, Op) or node.kind not in _EXACT:
    raise NotExact(node)
  return _bounded(_EXACT[node.kind](*[exact(arg) for arg in node.args]))


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
    raise NotExact("a ratio of more than two terms is no number")
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


_EXACT: dict[str, Callable[..., Fraction]] = {
  "add": _sum, "mul": _product, "div": _quotient, "neg": lambda a: -a, "pow": _power, "abs": abs,
  "fact": lambda a: Fraction(math.factorial(_whole(a, MAX_FACTORIAL))),
  "floor": lambda a: Fraction(math.floor(a)), "ceil": lambda a: Fraction(math.ceil(a)),
  "pct": lambda a: a / 100, "root": _root, "ratio": _ratio, "base": lambda value, *_: value,
  "binom": lambda n, k: Fraction(math.comb(_whole(n, MAX_FACTORIAL), _whole(k, MAX_FACTORIAL))),
  "fn:abs": abs, "fn:max": lambda *a: max(a), "fn:min": lambda *a: min(a),
  "fn:gcd": lambda *a: Fraction(math.gcd(*[_whole(x, 10**300) for x in a])),
  "fn:lcm": lambda *a: Fraction(math.lcm(*[_whole(x, 10**300) for x in a[:8]])),
}  # fmt: skip

_LOCAL = threading.local()


def context(digits: int):
  """mpmath's numbers at `digits` digits; one context for each thread, for they are not shared."""
  cache = _LOCAL.__dict__.setdefault("contexts", {})
  if digits not in cache:
    import mpmath  # 0.1 s, and most answers are plain rationals that never get here

    cache[digits] = mpmath.MPContext()
    cache[digits].dps = digits
  return cache[digits]


class Evaluator:
  """Evaluates scalars at one point.

  Args:
    digits: working precision.
    point: the number of the test point; gives each variable its value.
    log_base: what `\\log` without a base means, `"e"` or `"10"`.
  """

  def __init__(self, digits: int, point: int, log_base: str = "e"):
    self.mp = context(digits)
    self.point = point
    self.log_base = log_base

  def variable(self, name: str):
    """A fixed number for each variable and point: in (0.3, 3.3), from the third point on signed."""
    seed = hashlib.blake2b(f"{self.point}:{name}".encode(), digest_size=16).digest()
    value = self.mp.mpf(int.from_bytes(seed[:12], "big")) / 2**96 * 3 + self.mp.mpf("0.3")
    return -value if self.point >= 4 and seed[-1] % 2 else value

  def __call__(self, node: Node):
    """The value of `node`: a real or complex number of `mp`."""
    mp = self.mp
    if isinstance(node, Num):
      return mp.mpf(node.value.numerator) / node.value.denominator
    if isinstance(node, Quantity):
      return self(node.value)
    if isinstance(node, Sym):
      if node.name in ("pi", "e"):
        return +getattr(mp, node.name)
      return {"i": mp.mpc(0, 1), "oo": mp.inf}.get(node.name) or self.variable(node.name)
    if not isinstance(node, Op):
      raise Unreadable("not a scalar")
    if node.kind.startswith("call:"):
      return self._opaque(node)
    if node.kind in ("fact", "binom", "floor", "ceil", "base", "fn:gcd", "fn:lcm"):
      try:
        value = exact(node)
        return mp.mpf(value.numerator) / value.denominator
      except NotExact:
        return self._special(node)
    args = [self(arg) for arg in node.args]
    try:
      return self._apply(node.kind, args, node)
    except (ZeroDivisionError, ValueError, OverflowError) as error:
      if isinstance(error, TooBig | Unreadable):
        raise
      raise Undefined(str(error)) from None

  def _opaque(self, node: Op):
    """An unknown function: a number that depends on its name and its arguments' values."""
    key = [node.kind, str(self.point)]
    for arg in node.args:
      value = self.mp.mpmathify(self(arg))
      key.append(self.mp.nstr(value.real, 25) + "," + self.mp.nstr(value.imag, 25))
    return self.variable("|".join(key))

  def _special(self, node: Op):
    """Factorials, binomials and roundings of something that is not a plain natural number."""
    if node.kind in ("floor", "ceil"):
      value = self._real(self(node.args[0]))
      if abs(value) > MAX_ANGLE:
        raise TooBig("rounding of a huge number")
      return getattr(self.mp, node.kind)(value)
    return self._opaque(Op("call:" + node.kind, node.args))

  def _real(self, value):
    if self.mp.im(value) != 0:
      raise Undefined("a complex number where a real one is needed")
    return self.mp.re(value)

  def _apply(self, kind: str, args: list, node: Op):
    mp = self.mp
    if kind == "add":
      return mp.fsum(args)
    if kind == "mul":
      return mp.fprod(args)
    if kind in ("div", "ratio"):
      if len(args) != 2:
        raise Unreadable("a ratio of more than two terms is no number")
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
    if kind in ("fn:max", "fn:min"):
      return (max if kind == "fn:max" else min)(map(self._real, args))
    if kind.startswith("fn:"):
      return self._function(kind[3:], args)
    raise Unreadable(f"{kind} is no operation on numbers")

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
    if len(args) > 2 or (len(args) == 2 and name not in ("log", "lg")):
      raise Unreadable(f"{name} of {len(args)} arguments")
    if name in ("log", "ln", "lg"):
      if x == 0:
        raise Undefined("the logarithm of 0")
      base = args[1] if len(args) == 2 else 10 if name == "lg" or self._tens(name) else None
      return mp.log(x) if base is None else mp.log(x) / mp.log(base)
    if not abs(x) < (MAX_EXPONENT_SIZE if name in vocabulary.GROWING else MAX_ANGLE):
      raise TooBig(f"{name} of a huge number")
    name = name.replace("arc", "a") if name.startswith("arc") else name
    if name not in vocabulary.ELEMENTARY:
      raise Unreadable(f"the function {name} is not known")
    return getattr(mp, name)(x)

  def _tens(self, name: str) -> bool:
    return name == "log" and self.log_base == "10"


def uses(node: Node, *names: str) -> bool:
  """Whether a symbol or operation called one of `names` stands anywhere in `node`."""
  return any(getattr(n, "name", getattr(n, "kind", None)) in names for n in nodes.walk(node))


def is_scalar(node: Node) -> bool:
  """Whether `node` is a number or an expression, and no list, set, relation or text."""
  others = Seq | Rel | nodes.Union | nodes.Matrix | nodes.Text
  return not any(isinstance(below, others) for below in nodes.walk(node))


def equal(a: Node, b: Node) -> bool | None:
  """Whether two scalars have the same value; `None` where no test point decides.

  `\\log` may mean the natural or the decimal logarithm; both sides are read the same way.
  """
  try:
    return exact(a) == exact(b)
  except (NotExact, Undefined):
    pass
  logs = uses(a, "fn:log") or uses(b, "fn:log")
  verdicts = [_equal_numbers(a, b, base) for base in (("e", "10") if logs else ("e",))]
  return True if True in verdicts else verdicts[0]


def _equal_numbers(a: Node, b: Node, log_base: str) -> bool | None:
  variables = nodes.symbols(a) | nodes.symbols(b)
  both = nodes.walk(Op("add", (a, b)))
  opaque = any(isinstance(node, Op) and node.kind.startswith("call:") for node in both)
  if not variables and not opaque:
    return agree(a, b, CONSTANT_DIGITS, 0, CONSTANT_CLOSE, log_base, complex_too=True)
  imaginary = uses(a, "i") or uses(b, "i")
  seen = []
  # Points 0 to 3 are positive, 4 to 7 have both signs: there sqrt(x^2) is told from x.
  for point in range(8):
    seen.append(agree(a, b, DIGITS, point, CLOSE, log_base, complex_too=imaginary))
    if seen[-1] is False:
      return False
  if seen.count(True) >= 2:
    return True
  # Nowhere real on both sides: compare as complex numbers.
  seen = [agree(a, b, DIGITS, point, CLOSE, log_base, complex_too=True) for point in range(4)]
  return None if not any(s is not None for s in seen) else all(s is not False for s in seen)


def agree(
  a: Node, b: Node, digits: int, point: int, close: int, log_base: str, *, complex_too: bool
) -> bool | None:
  """Whether `a` and `b` agree at one point; `None` where one of them has no (real) value there."""
  for _ in range(2):
    evaluate = Evaluator(digits, point, log_base)
    mp = evaluate.mp
    try:
      x, y = evaluate(a), evaluate(b)
    except Undefined:
      return None
    if mp.isnan(x) or mp.isnan(y):
      return None
    if mp.isinf(x) or mp.isinf(y):
      return bool(x == y)
    size = max(abs(x), abs(y))
    if size < 10**10:
      break
    # Large values get digits for their whole part too, so that n and n + 1 differ at any size.
    extra = 60 * math.ceil(float(mp.log10(size)) / 60)
    if extra > MAX_EXTRA_DIGITS:
      return None
    digits += extra
  tiny = mp.mpf(10) ** -close
  for value in (x, y):
    if not complex_too and abs(mp.im(value)) > tiny * max(1, abs(value)):
      return None
  # What is left of terms that cancel is noise in the last digits, whatever the values' size.
  noise = mp.mpf(10) ** -(close + 15)
  return bool(abs(x - y) <= max(tiny * min(size, 1), noise))

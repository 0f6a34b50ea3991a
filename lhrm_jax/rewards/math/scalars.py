"""Equality of single values: numbers and expressions, with units, percent, degrees and bases."""

from __future__ import annotations

from fractions import Fraction

from lhrm_jax.rewards.math import evaluate, nodes, rounding, units, words
from lhrm_jax.rewards.math.exact import Undefined
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Quantity, Text, Unreadable
from lhrm_jax.rewards.math.three_valued import all_true, any_true

# A decimal this long was truncated: it stands for the values that round to it.
ROUNDED_DIGITS = 10
_HUNDREDTH = Num(Fraction(1, 100))


def same_scalars(gold: Node, answer: Node) -> bool | None:
  gold, unit = _measured(gold)
  answer, other = _measured(answer)
  if isinstance(gold, Text) or isinstance(answer, Text):
    if isinstance(gold, Text) and isinstance(answer, Text):
      return words.same(gold.text, answer.text)
    return _spelled(gold) == _spelled(answer) is not None
  if not evaluate.is_scalar(gold) or not evaluate.is_scalar(answer):
    return False
  if any(u and _percent(bare) is not None for u, bare in ((unit, answer), (other, gold))):
    return False  # 5 dollars are not 5 %
  if unit and other:
    known, known_too = units.measure(unit), units.measure(other)
    if known and known_too:
      if known[0] != known_too[0]:
        return False
      if known[1] != known_too[1]:
        gold, answer = Op("mul", (gold, Num(known[1]))), Op("mul", (answer, Num(known_too[1])))
    elif (known or known_too) and not (units.is_count(unit) or units.is_count(other)):
      return None if any_true(_same_numbers(g, a) for g, a in _readings(gold, answer)) else False
  radians = any((units.measure(u or "") or "")[:1] == ("radian",) for u in (unit, other))
  return any_true(_same_numbers(g, a) for g, a in _readings(gold, answer, radians=radians))


def _spelled(node: Node) -> Fraction | None:
  """The number a word such as `twelve` names, or a whole number itself."""
  if isinstance(node, Text):
    return words.spelled(node.text)
  return node.value if isinstance(node, Num) else None


def _measured(node: Node) -> tuple[Node, str | None]:
  """The bare value, and the unit behind it if there is one."""
  quantities = [n for n in nodes.walk(node) if isinstance(n, Quantity)]
  if not quantities or isinstance(node, Text):
    return node, None
  if len({units.measure(q.unit) or q.unit for q in quantities}) > 1:
    raise Unreadable("several units in one value")
  unit = quantities[0].unit if len(quantities) == 1 else None
  return _bare(node), unit


def _bare(node: Node) -> Node:
  inner = tuple(_bare(child) for child in nodes.children(node))
  return inner[0] if isinstance(node, Quantity) else nodes.rebuild(node, inner)


def _readings(gold: Node, answer: Node, *, radians: bool = False):
  """The pairs to compare, by the conventions for percent and degrees.

  A percent sign on both sides is left out of both; on one side only, the other may be the number
  before the sign or its hundredth. Degrees are the number before the sign, or its radians.
  """
  percents = [_percent(gold), _percent(answer)]
  if all(p is not None for p in percents):
    yield tuple(percents)
    return
  for bare, other, swap in ((percents[0], answer, False), (percents[1], gold, True)):
    if bare is not None:
      for value in (bare, Op("mul", (bare, _HUNDREDTH))):
        yield (other, value) if swap else (value, other)
      return
  yield gold, answer
  if not radians and evaluate.uses(gold, "deg") != evaluate.uses(answer, "deg"):
    yield _bare_degrees(gold), _bare_degrees(answer)


def _percent(node: Node) -> Node | None:
  if isinstance(node, Op) and node.kind == "pct":
    return node.args[0]
  if isinstance(node, Op) and node.kind == "neg":
    inner = _percent(node.args[0])
    return None if inner is None else Op("neg", (inner,))
  return None


def _bare_degrees(node: Node) -> Node:
  if isinstance(node, Op) and node.kind == "deg":
    return node.args[0]
  if isinstance(node, Op) and node.kind.startswith("fn:"):
    return node
  return nodes.rebuild(node, tuple(_bare_degrees(child) for child in nodes.children(node)))


def _same_numbers(gold: Node, answer: Node) -> bool | None:
  if any(isinstance(n, Op) and n.kind == "ratio" and len(n.args) > 2 for n in (gold, answer)):
    return _same_ratios(gold, answer)
  based = gold.kind == "base" if isinstance(gold, Op) else False
  if based and not (isinstance(answer, Op) and answer.kind == "base"):
    # The base of the gold may be omitted, but its value in base ten is a different answer.
    return isinstance(answer, Num) and _digits_of(gold) == str(answer.value)
  if based and gold.args[1] != answer.args[1]:
    return False
  verdict = rounding.equal(gold, answer)
  if verdict is False and (_rounds(gold, answer) or _rounds(answer, gold)):
    return True
  return verdict


def _digits_of(node: Op) -> str:
  """The digits of a number in the base it was written in."""
  value, base, out = int(node.args[0].value), int(node.args[1].value), ""
  while value:
    value, digit = divmod(value, base)
    out = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + out
  return out or "0"


def _same_ratios(gold: Node, answer: Node) -> bool | None:
  """Whether two ratios are proportional, as `1:2:3` and `2:4:6`."""
  if not all(isinstance(n, Op) and n.kind == "ratio" for n in (gold, answer)):
    return False
  if len(gold.args) != len(answer.args):
    return False
  pairs = zip(gold.args[1:], answer.args[1:], strict=True)
  first = gold.args[0], answer.args[0]
  return all_true(
    rounding.equal(Op("mul", (a, first[1])), Op("mul", (b, first[0]))) for a, b in pairs
  )


def _places(decimal: Num) -> int:
  """Digits behind the point as written: zeros at the end claim as much as others."""
  if whole := int(decimal.value):
    return decimal.digits - len(str(whole))
  value, zeros = decimal.value, 0
  while 0 < value * 10 < 1:
    value, zeros = value * 10, zeros + 1
  return decimal.digits + zeros


def _rounds(decimal: Node, other: Node) -> bool:
  """Whether `decimal`, written with many digits, is `other` truncated or rounded."""
  sign = 1
  if isinstance(decimal, Op) and decimal.kind == "neg":
    decimal, sign = decimal.args[0], -1
  plain = other.args[0] if isinstance(other, Op) and other.kind == "neg" else other
  if not isinstance(decimal, Num) or decimal.digits < ROUNDED_DIGITS or isinstance(plain, Num):
    return False
  if nodes.symbols(other) or any(isinstance(n, Num) and n.digits for n in nodes.walk(other)):
    return False
  step = Fraction(1, 10 ** _places(decimal))
  try:
    number = evaluate.constant(other)
  except Undefined:
    return False
  mp = evaluate.context(evaluate.DIGITS)
  target = mp.mpf(sign * decimal.value.numerator) / decimal.value.denominator
  return bool(abs(number - target) < mp.mpf(step.numerator) / step.denominator)

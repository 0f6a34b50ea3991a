"""Units and words behind values."""

from __future__ import annotations

import re
from fractions import Fraction

from lhrm_jax.rewards.math import nodes, remarks, units
from lhrm_jax.rewards.math.cursor import Grammar
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Quantity, Unreadable

_MULTIPLIERS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
                "trillion": 10**12, "dozen": 12}  # fmt: skip


def annotated(node: Node, text: str, parser: Grammar) -> Node:
  """`node` followed by the words `text`, which must not change its value."""
  if units.is_percent(text):
    return Op("pct", (node,))
  if units.is_time_of_day(text):
    raise Unreadable("a time of day is compared as text")
  first, _, rest = text.strip().partition(" ")
  if first.lower() in _MULTIPLIERS:
    node = Op("mul", (node, Num(Fraction(_MULTIPLIERS[first.lower()]))))
    if not rest.strip():
      return node
    text = rest
  while parser.peek().text == "/" and parser.peek(1).kind == "text":
    parser.skip(1)
    text += "/" + parser.next().text
  if parser.take("^"):  # \text{cm}^2
    power = parser.exponent()
    if isinstance(power, Num | Op):
      text += f"^{_whole_exponent(power)}"
  if isinstance(node, Quantity):
    text = f"{node.unit} {text}"
    node = node.value
  known = units.measure(text) is not None
  if not known and (remarks.changes_value(text) or re.fullmatch(r"\W*[A-Z]{2,3}\W*", text)):
    raise Unreadable(f"{text!r} may change the value")
  if not known and not units.is_count(text) and nodes.symbols(node):
    raise Unreadable(f"{text!r} behind an expression")
  return Quantity(node, text)


def _whole_exponent(node: Node) -> int:
  negative = isinstance(node, Op) and node.kind == "neg"
  inner = node.args[0] if negative else node
  if not isinstance(inner, Num) or inner.value.denominator != 1:
    raise Unreadable("a unit to this power")
  return -int(inner.value) if negative else int(inner.value)


def measured_sum(node: Node) -> Node:
  r"""`2 \text{ h } 15 \text{ min}` as a sum; any other product as it is."""
  if not (isinstance(node, Op) and node.kind == "mul"):
    return node
  if not all(isinstance(arg, Quantity) and isinstance(arg.value, Num) for arg in node.args):
    return node
  known = [units.measure(arg.unit) for arg in node.args]
  if None in known or len({unit[0] for unit in known}) > 1:
    return node
  sizes = [unit[1] for unit in known]
  if sorted(set(sizes), reverse=True) != sizes:
    return node
  total = sum(arg.value.value * size for arg, size in zip(node.args, sizes, strict=True))
  return Quantity(Num(total / sizes[-1]), node.args[-1].unit)

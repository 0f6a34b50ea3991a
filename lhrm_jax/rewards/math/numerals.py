"""Numbers of the grammar: decimals, repeating decimals and integers in another base."""

from __future__ import annotations

from fractions import Fraction

from lhrm_jax.rewards.math import words
from lhrm_jax.rewards.math.cursor import Cursor
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Unreadable


def number(p: Cursor) -> Node:
  text = p.next().text
  whole, dot, decimals = text.partition(".")
  # 0.1\overline{6} and 0.\overline{3}; the tokenizer leaves the dot of the second alone.
  if p.peek().text in (r"\overline", r"\bar", r"\dot") and dot:
    return _repeating(p, whole, decimals)
  if p.peek().text == "_":
    return based(p, text)
  digits = len((whole + decimals).lstrip("0")) if dot else 0
  return Num(Fraction(text), digits)


def _repeating(p: Cursor, whole: str, decimals: str) -> Node:
  p.next()
  block = _digits_argument(p)
  shift = 10 ** len(decimals)
  start = Fraction(int((whole + decimals) or "0"), shift)
  return Num(start + Fraction(int(block), shift * (10 ** len(block) - 1)))


def _digits_argument(p: Cursor) -> str:
  braced = p.take("{")
  token = p.next()
  if token.kind != "num" or not token.text.isdigit():
    raise Unreadable("only digits repeat")
  if braced:
    p.expect("}")
  return token.text


def based(p: Cursor, text: str) -> Node:
  """`204_5`: an integer written in another base."""
  p.expect("_")
  base = _base_argument(p)
  if not 2 <= base <= 36:
    raise Unreadable(f"{base} is not the base of a number")
  try:
    value = int(text, base)
  except ValueError:
    raise Unreadable(f"{text} is not a number in base {base}") from None
  return Op("base", (Num(Fraction(value)), Num(Fraction(base))))


def _base_argument(p: Cursor) -> int:
  r"""The 8 of `_8`, `_{(8)}` and `_{\text{eight}}`."""
  if p.peek().text == "{" and (p.peek(1).kind == "text" or p.peek(1).text == "("):
    p.next()
    inside = p.next()
    if inside.kind == "text":
      named = words.spelled(inside.text)
      if named is None:
        raise Unreadable(f"{inside.text!r} is not a base")
      base = int(named)
    else:
      base = int(_digits_argument(p)[:3])
      p.expect(")")
    p.expect("}")
    return base
  return int(_digits_argument(p)[:3])

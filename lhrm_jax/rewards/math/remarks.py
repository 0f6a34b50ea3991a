r"""Removes words from an answer that say nothing about its value.

Works on tokens, so that only `\text{...}` and the like count as words. Nothing is dropped that may
change the value: a negation, a bound, a number word or an operation in words keeps its answer from
being read.
"""

from __future__ import annotations

import re

from lhrm_jax.rewards.math import vocabulary
from lhrm_jax.rewards.math.tokens import Token

_LEADING = vocabulary.words(
  """the a an answer answers is are there we get so thus hence therefore exactly only total of
  equals equal to value result number solution rs solutions final required it be final our in
  minimum maximum all"""
)
# Words before or after a number that change its value.
_CHANGING = vocabulary.words(
  """squared cubed factorial more less fewer least most no not non never neither nor than or half
  halves third thirds quarter quarters fourths fifth fifths tenths hundredths thousandths minus plus
  over under divided negative root mod modulo base above below except without between
  false wrong incorrect inverse reciprocal power times unless but if when zero
  maybe perhaps possibly probably presumably guess guessed unsure uncertain unknown impossible
  invalid fails failed larger smaller greater higher lower bigger exceeds beyond opposite complement
  excluding excluded anything something everything somewhat almost nearly ish pi bn mn mil tn lakh
  crore score gross
  one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundreds
  thousands infinite infinitely undefined double twice triple"""
)
_APPROXIMATELY = re.compile(
  r"^\W*(?:about|approx\w*|roughly|around|nearly|i\.?e\.?|which is)\b", re.I
)
_EVERYWHERE = re.compile(r"^\W*(?:for|where|with|all|any|every|each)\b", re.I)
_QUANTIFIERS = vocabulary.words(
  "all any every each some arbitrary constant constants real reals integer integers number numbers"
)
_DOMAIN_WORDS = _QUANTIFIERS | vocabulary.words(
  "positive values value natural and in of for where with a an is are be"
)
_WORD = re.compile(r"[a-z]+")


def changes_value(text: str) -> bool:
  """Whether words beside a number may change its value, or are not plainly a unit or a noun."""
  words = _WORD.findall(text.lower())
  return bool(_CHANGING & set(words)) or re.search(r"[^A-Za-z\s.,()'\-/°^*²³\d]", text) is not None


def strip(items: list[Token]) -> list[Token]:
  """`items` without labels, leading phrases, and closing remarks."""
  while _is_braced(items):
    items = items[1:-1]
  items = _without_remark(_with_integers(_with_joints(items)))
  out: list[Token] = []
  for i, token in enumerate(items):
    at_start = not out or out[-1].text in (",", ";", "and", "or", "\\\\", "=")
    continues = i + 1 < len(items)
    if token.kind == "text" and at_start and continues and _is_label(token.text):
      continue
    out.append(token)
  return out


def _is_braced(items: list[Token]) -> bool:
  """Whether one pair of braces holds all of `items`."""
  if len(items) < 2 or items[0].text != "{" or items[0].kind == "text":
    return False
  depth = 0
  for i, token in enumerate(items):
    if token.kind != "text":
      depth += {"{": 1, "}": -1}.get(token.text, 0)
    if depth == 0:
      return i == len(items) - 1
  return False


_JOINT = re.compile(r"^(.*\w)\s*(,|(?:,?\s+)(?:and|or))\s*$", re.S)


def _with_joints(items: list[Token]) -> list[Token]:
  r"""Separates the word that joins two counts from the noun before it: `8\text{ cats and }6`."""
  out: list[Token] = []
  for i, token in enumerate(items):
    joint = _JOINT.match(token.text) if token.kind == "text" and 0 < i < len(items) - 1 else None
    if joint and items[i - 1].kind == items[i + 1].kind == "num":
      mark = joint[2].strip(", ") or ","
      out += [Token("text", joint[1], token.spaced), Token("op" if mark == "," else "word", mark)]
    else:
      out.append(token)
  return out


_INTEGER = re.compile(r"^\W*(?:(?:is|are|be|being)\W+)?(?:an?|any|some)?\W*integers?\W*$", re.I)
_WHERE = re.compile(
  r"^\W*(?:where|with|for|and)?\W*(?:all|any|some|every|each|an)?\W*(integers?)?\W*$", re.I
)


def _with_integers(items: list[Token]) -> list[Token]:
  r"""Writes "where k is an integer" and "for any integer k" as `k \in \mathbb{Z}`."""
  for i, token in enumerate(items[:-1]):
    name, last = items[i + 1], items[-1]
    where = _WHERE.match(token.text) if token.kind == "text" else None
    if not where or name.kind != "word" or len(name.text) != 1:
      continue
    ends = (i + 2 == len(items) and where[1]) or (
      i + 3 == len(items) and last.kind == "text" and _INTEGER.match(last.text)
    )
    if ends:
      comma = [] if i and items[i - 1].text == "," else [Token("op", ",")]
      return [*items[:i], *comma, name, Token("cmd", r"\in"), Token("cmd", r"\RZ")]
  named = len(items) > 2 and items[-3].text == "," and items[-2].kind == "word"
  if named and items[-1].kind == "text" and _INTEGER.match(items[-1].text):
    return [*items[:-1], Token("cmd", r"\in"), Token("cmd", r"\RZ")]
  return items


def _is_label(text: str) -> bool:
  words = _WORD.findall(text.lower())
  if not words or changes_value(text.rstrip(": ")):
    return False
  return (text.rstrip().endswith(":") and len(words) <= 4) or set(words) <= _LEADING


def _without_remark(items: list[Token]) -> list[Token]:
  for i, token in enumerate(items):
    if token.kind != "text" or not i:
      continue
    rest = items[i + 1 :]
    if _EVERYWHERE.match(token.text) and (domain := _domain(token, rest)) is not None:
      return items[:i] + domain
    opened = i and items[i - 1].text == "("
    if _APPROXIMATELY.match(token.text) and (opened or token.text.lstrip().startswith("(")):
      last = rest[-1] if rest else token
      closes = last.text == ")" or (last.kind == "text" and last.text.rstrip().endswith(")"))
      inside = rest[:-1]
      if closes and all(t.kind in ("num", "text") or t.text == r"\%" for t in inside):
        return items[: i - 1 if opened else i]
  return items


def _domain(token: Token, rest: list[Token]) -> list[Token] | None:
  r"""What is left of a remark such as "for all real x"; `None` where it says anything else.

  Nothing is left where it only says that a name is any number or a constant. "For positive
  integers n" becomes the condition `n \in \mathbb{N}`.
  """
  texts = [token, *(t for t in rest if t.kind == "text")]
  words = {word for t in texts for word in _WORD.findall(t.text.lower())}
  names = [t for t in rest if t.kind == "word" and t.text not in ("and", "or")]
  marks = [t for t in rest if t.kind not in ("text", "word")]
  if not words <= _DOMAIN_WORDS or not words & _QUANTIFIERS:
    return None
  if len(names) > 2 or any(len(t.text) > 1 for t in names):
    return None
  if any(t.text not in (r"\in", r"\R", ",") for t in marks):
    return None
  if words & {"integer", "integers", "natural", "positive"}:
    if len(names) != 1 or marks:
      return None
    return [Token("op", ","), names[0], Token("cmd", r"\in"), Token("cmd", r"\RN")]
  return []

"""Equality of answers in words, and of notation that the grammar does not read."""

from __future__ import annotations

import re
from fractions import Fraction

from lhrm_jax.rewards.math import clean, vocabulary

_LOOK = re.compile(
  r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|mathrm|operatorname|mathbf|mathit)\s*\{[^{}]*[a-zA-Z]{2}"
)
_PHRASE = re.compile(r"[^\W\d_](?:[^\W\d_]|[\s,.'-])*")
_FONT = re.compile(r"\\(?:text[a-z]*|mbox|hbox|mathrm|mathbf|mathit)\s*\{([^{}]*)\}")
_LETTERS = re.compile(r"[^\W\d_]{2}")
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\d+|[a-zA-Z]+|\S")
# Words that may be written in capitals from first to last and are still no names of points.
_PLAIN = vocabulary.words("yes no true false even odd none both neither never always")
_TAGGED = re.compile(r"(?<=[a-zA-Z])\.|\.(?=[a-zA-Z])")


def normal(text: str) -> tuple[str, ...]:
  """The words of a phrase in small letters."""
  return tuple(re.findall(r"[a-z']+", clean.unwrap(text).lower()))


def same(a: str, b: str) -> bool:
  """Whether two pieces of text are the same but for case, spacing and closing marks."""
  return _notation(a, fold=True) == _notation(b, fold=True)


def same_words(gold: str, answer: str) -> bool:
  """Whether both answers are words, no formulas, and the same ones.

  Three letters or more in a row, or anything in `\\text{...}`, are words. In bare letters the case
  of a name counts, since ABC and abc may be products.
  """
  sides = []
  for text in (gold, answer):
    if not _LETTERS.search(text):
      return False
    bare = (
      clean.unwrap(clean.without_colour(text))
      .replace("{", " ")
      .replace("}", " ")
      .replace("$", " ")
      .strip(" .,;:*")
    )
    if not _PHRASE.fullmatch(bare):
      return False
    found = bare.split()
    explicit = _LOOK.search(text) is not None
    known = any(
      (len(word) > 2 and word not in vocabulary.FUNCTIONS)
      or word.lower() in _PLAIN
      or not word.isascii()
      for word in found
    )
    sides.append((explicit, explicit or known, [word.strip(".,") for word in found]))
  (loud, worded, ours), (loud_too, worded_too, theirs) = sides
  if not (worded and worded_too):
    return False
  if ours == theirs:
    return True
  if [w.casefold() for w in ours] != [w.casefold() for w in theirs]:
    return False
  return (
    loud
    or loud_too
    or len(ours) > 1
    or all(map(_may_change_case, ours))
    or all(map(_may_change_case, theirs))
  )


def _may_change_case(word: str) -> bool:
  return word.casefold() in _PLAIN or (len(word) > 3 and word.istitle())


def same_notation(gold: str, answer: str) -> bool:
  """Whether two answers are the same tokens, braces included."""
  ours = _notation(gold)
  return bool(ours) and ours == _notation(answer)


def _notation(text: str, *, fold: bool = False) -> tuple[str, ...]:
  """The tokens of `text` without fonts, spaces, delimiters and closing marks."""
  text = clean.normalise_unicode(text[: clean.MAX_RAW_CHARS])
  text = _FONT.sub(r" \1 ", clean.without_colour(text))
  text = clean.unwrap(text).replace("$", " ").strip().rstrip(".,;: ")
  text = _TAGGED.sub("", text)
  found = _TOKEN.findall(re.sub(r"\\(?:[,;:! ]|\(|\)|\[|\])", " ", text))
  same = {"\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\leq": "\\le",
          "\\geq": "\\ge", "\\dots": "\\ldots"}  # fmt: skip
  out: list[str] = []
  for token in found:
    word = token.isalpha() and len(token) > 1
    out.append(token.casefold() if fold or word else same.get(token, token))
    if len(out) > 2 and out[-1] == "}" and out[-3] == "{":
      out[-3:] = [out[-2]]  # a single symbol in braces
  while out[:1] == ["{"] and _closes_last(out):
    out = out[1:-1]
  return tuple(out)


def _closes_last(tokens: list[str]) -> bool:
  """Whether the brace that opens `tokens` is closed by their last."""
  depth = 0
  for i, token in enumerate(tokens):
    depth += {"{": 1, "}": -1}.get(token, 0)
    if depth == 0:
      return i == len(tokens) - 1
  return False


_UNITS = (
  "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
  "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def spelled(text: str) -> Fraction | None:
  """The whole number below a hundred that `text` names, `None` if it names none."""
  found = normal(text.replace("-", " "))
  if len(found) == 1 and found[0] in _UNITS:
    return Fraction(_UNITS.index(found[0]))
  if found and found[0] in _TENS and len(found) <= 2:
    ones = found[1:] and found[1] in _UNITS[1:10]
    if len(found) == 1 or ones:
      return Fraction(10 * (2 + _TENS.index(found[0])) + (_UNITS.index(found[1]) if ones else 0))
  return None

"""Equality of answers in words, and of notation outside the grammar."""

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
# Words that may be all capitals and still do not name points.
_PLAIN = vocabulary.words("yes no true false even odd none both neither never always")
_TAGGED = re.compile(r"(?<=[a-zA-Z])\.|\.(?=[a-zA-Z])")


def normal(text: str) -> tuple[str, ...]:
  """The words of a phrase in lower case."""
  return tuple(re.findall(r"[a-z']+", clean.unwrap(text).lower()))


def same(a: str, b: str) -> bool:
  """Whether two texts are the same but for case, spacing and closing marks."""
  return _notation(a, fold=True) == _notation(b, fold=True)


def same_words(gold: str, answer: str) -> bool:
  """Whether both answers are words, not formulas, and the same ones.

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
    if len(found) > 1 and found[0].lower() in ("a", "an", "the") and len(found[1]) > 2:
      del found[0]
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
  """Whether the brace that opens `tokens` is closed by the last of them."""
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


_PARTS = {
  "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4,
  "fourths": 4, "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7,
  "eighth": 8, "eighths": 8, "ninth": 9, "ninths": 9, "tenth": 10, "tenths": 10,
}  # fmt: skip
_ORDINALS = {
  "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
  "eighth": 8, "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12,
}  # fmt: skip


def spelled(text: str) -> Fraction | None:
  """The number `text` names, `None` if it names none.

  Whole numbers below a million (`twenty-one`, `three hundred and five`), ordinals to `twelfth` and
  fractions to tenths (`half`, `two thirds`).
  """
  found = normal(text.replace("-", " "))
  if len(found) == 1 and found[0] in _ORDINALS:
    return Fraction(_ORDINALS[found[0]])
  if found and found[-1] in _PARTS:
    count = 1 if found[:-1] in ((), ("a",)) else _counted(found[:-1])
    return Fraction(count, _PARTS[found[-1]]) if count and count < 20 else None
  whole = _counted(found)
  return None if whole is None else Fraction(whole)


def _counted(found: tuple[str, ...]) -> int | None:
  for name, size in (("thousand", 1000), ("hundred", 100)):
    if name in found:
      at = found.index(name)
      head = 1 if found[:at] in ((), ("a",)) else _counted(found[:at])
      tail = found[at + 1 :]
      rest = _counted(tail[1:] if tail[:1] == ("and",) else tail) if tail else 0
      fits = head and rest is not None and rest < size and (size == 1000 or head < 10)
      return head * size + rest if fits else None
  if len(found) == 1 and found[0] in _UNITS:
    return _UNITS.index(found[0])
  if found and found[0] in _TENS and len(found) <= 2:
    ones = found[1:] and found[1] in _UNITS[1:10]
    if len(found) == 1 or ones:
      return 10 * (2 + _TENS.index(found[0])) + (_UNITS.index(found[1]) if ones else 0)
  return None

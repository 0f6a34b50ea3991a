"""Units: which words are units, and how much of which dimension they mean."""

import re
from fractions import Fraction

from lhrm_jax.rewards.math import clean, vocabulary

_F = Fraction
# name: (dimension, size in the dimension's own unit)
_TABLE: dict[str, tuple[str, Fraction]] = {}


def _add(dimension: str, **sizes: str) -> None:
  for size, names in sizes.items():
    for name in names.split():
      _TABLE[name] = (dimension, _F(size.replace("_", "/").replace("s", "")))


_add("length", s1="m meter metre", s1_100="cm centimeter centimetre", s1_1000="mm millimeter",
     s1000="km kilometer kilometre", s254_10000="in inch", s3048_10000="ft foot",
     s9144_10000="yd yard", s1609344_1000="mi mile")  # fmt: skip
_add("mass", s1="g gram", s1000="kg kilogram kilo", s1_1000="mg milligram", s1000000="tonne",
     s45359237_100000="lb pound", s45359237_1600000="oz ounce")  # fmt: skip
_add("time", s1="s sec second", s60="min minute", s3600="h hr hour", s86400="day", s604800="week",
     s1_1000="ms millisecond")  # fmt: skip
_add("money", s100="dollar buck usd", s1="cent")
_add("volume", s1="l liter litre", s1_1000="ml milliliter millilitre")
_add("angle", s1="degree deg")
_POWER = re.compile(r"\^?\{?([23])\}?$")


def _singular(word: str) -> str:
  if word in _TABLE or word in vocabulary.COUNTS:
    return word
  for ending, replacement in (("ies", "y"), ("es", ""), ("s", "")):
    stem = word.removesuffix(ending) + replacement
    if word.endswith(ending) and (stem in _TABLE or stem in vocabulary.COUNTS):
      return stem
  return {"feet": "foot", "inches": "inch"}.get(word, word)


def is_unit_word(word: str) -> bool:
  """Whether a bare word of two letters or more behind a number is a unit and not a product."""
  word = _singular(word.lower())
  return len(word) > 1 and (word in _TABLE or word in vocabulary.COUNTS)


def measure(unit: str) -> tuple[str, Fraction] | None:
  """The dimension and size of a unit as written (`"square cm"`, `"m^2"`), `None` if not known."""
  text = clean.squash(unit.replace(" ", "_")).replace("_", " ").replace(".", "").strip().lower()
  power = 1
  match = _POWER.search(text)
  if match:
    power, text = int(match[1]), text[: match.start()].strip()
  for words, exponent in ((("square", "sq"), 2), (("cubic", "cu"), 3)):
    for word in words:
      if text.startswith(word + " "):
        power, text = exponent, text[len(word) :].strip()
  known = _TABLE.get(_singular(text))
  if known is None:
    return None
  dimension, size = known
  return (dimension if power == 1 else f"{dimension}^{power}", size**power)


def is_percent(unit: str) -> bool:
  return unit.strip().lower().rstrip(".").replace("per cent", "percent") in (
    "%", "percent", "percents", "percentage", "pct",
  )  # fmt: skip


def is_time_of_day(unit: str) -> bool:
  """`a.m.` and `p.m.` are part of the answer and no unit."""
  return re.fullmatch(r"\s*[ap]\.?\s?m\.?\s*", unit.lower()) is not None

"""Units: which words are units, with their dimensions and sizes."""

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
_add("euro", s1="euro eur")
_add("sterling", s1="sterling gbp")
_add("rupee", s1="rupee rs inr")
_add("yen", s1="yen jpy")
_add("volume", s1="l liter litre", s1_1000="ml milliliter millilitre")
_add("angle", s1="degree deg")
_add("radian", s1="radian rad")
_add("celsius", s1="degc celsius")
_add("fahrenheit", s1="degf fahrenheit")
_add("energy", s1="j joule", s1000="kj kilojoule")
_add("power", s1="w watt", s1000="kw kilowatt")
_add("force", s1="n newton")
_add("pressure", s1="pa pascal", s1000="kpa")
_add("frequency", s1="hz hertz", s1000="khz")
_add("voltage", s1="v volt")
_add("current", s1="a amp ampere")
_add("resistance", s1="ohm")
_add("temperature", s1="k kelvin")
_add("amount", s1="mol mole")
# Units written as one word.
_COMPOUND = {"mph": "mile/hour", "kmh": "km/hour", "kph": "km/hour", "fps": "ft/second"}
_OVER = re.compile(r"\s*(?:/|\bper\b)\s*")
_FACTOR = re.compile(
  r"(?:(square|sq|cubic|cu)\s+)?([a-z]+)\s*(?:\^?\{?(-?[1-4])\}?)?(?:\s+(squared|cubed))?"
)
_SHAPES = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}


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


def is_count(unit: str) -> bool:
  """Whether `unit` only counts: "units", "square units", "people"."""
  words = re.findall(r"[a-z]+", unit.lower())
  return bool(words) and all(_singular(word) in vocabulary.COUNTS for word in words)


def measure(unit: str) -> tuple[str, Fraction] | None:
  """The dimension and size of a unit as written; `None` if it is unknown.

  The dimension of `"km/h"` is `"length time^-1"`, that of `"square cm"` is `"length^2"`.
  """
  text = clean.unwrap(unit).replace(".", "").replace("\\", "").lower().strip(" ()$")
  text = _COMPOUND.get(text, text)
  powers: dict[str, int] = {}
  total = _F(1)
  for k, part in enumerate(_OVER.split(text)):
    at = 0
    part = part.replace("*", " ").replace("\u00b2", "^2").replace("\u00b3", "^3").strip(" ()")
    while at < len(part):
      match = _FACTOR.match(part, at)
      if match is None or not match[2]:
        return None
      at = match.end()
      while at < len(part) and part[at] in " -":
        at += 1
      known = _TABLE.get(_singular(match[2]))
      if known is None:
        return None
      power = _SHAPES.get(match[1] or match[4], 1) * int(match[3] or 1) * (-1 if k else 1)
      powers[known[0]] = powers.get(known[0], 0) + power
      total *= known[1] ** power
    if not part:
      return None
  shown = [
    name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items()) if power
  ]
  return " ".join(shown), total


def is_percent(unit: str) -> bool:
  return unit.strip().lower().rstrip(".").replace("per cent", "percent") in (
    "%", "percent", "percents", "percentage", "pct",
  )  # fmt: skip


def is_time_of_day(unit: str) -> bool:
  """Whether `unit` is a.m. or p.m., which is part of the answer and not a unit."""
  return re.fullmatch(r"\s*[ap]\.?\s?m\.?\s*", unit.lower()) is not None

"""Ranges of knobs: a test and the words for it."""

import dataclasses
import math
import numbers
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

# A larger number is a typing error: steps are counted in int32, and no machine holds a batch of so
# many rows or a sequence of so many tokens.
MOST_STEPS, MOST_ROWS, MOST_TOKENS, MOST_WIDTH = 2**31 - 1, 2**20, 2**24, 2**20
SHOWN = 80  # longest short text, in characters


@dataclasses.dataclass(frozen=True)
class Range:
  """The values that a knob may have.

  Attributes:
    holds: test of a value of any type.
    allowed: description that follows "must be".
  """

  holds: Callable[[Any], bool]
  allowed: str


def whole(least: int, most: int = MOST_STEPS) -> Range:
  """Whole numbers from `least` to `most`; `True` is not one."""
  return Range(
    lambda x: isinstance(x, numbers.Integral) and not isinstance(x, bool) and least <= x <= most,
    f"a whole number from {least} to {most:,}",
  )


def real(least: float = -math.inf, most: float = math.inf, *, above: bool = False) -> Range:
  """Finite numbers from `least` (excluded if `above`) to `most`."""
  words = "a finite number"
  if least > -math.inf:
    words += f" {'above' if above else 'of at least'} {least:g}"
  if most < math.inf:
    words += f" and at most {most:g}"
  return Range(
    lambda x: _finite(x) and (x > least if above else x >= least) and x <= most,
    words,
  )


def one_of(*values: Any) -> Range:
  """One of these values, of the same type: `True` is not 1."""
  return Range(
    lambda x: any(type(x) is type(value) and x == value for value in values),
    f"one of {', '.join(map(repr, values))}",
  )


def _table(holds: Callable[[Any], bool], allowed: str) -> Range:
  """Mappings whose keys are names and whose values all pass `holds`."""

  def all_hold(x: Any) -> bool:
    return isinstance(x, Mapping | ConfigDict) and all(
      isinstance(name, str) and holds(value) for name, value in x.items()
    )

  return Range(all_hold, allowed)


def _finite(x: Any) -> bool:
  if not isinstance(x, numbers.Real) or isinstance(x, bool):
    return False
  try:
    return math.isfinite(x)
  except OverflowError:  # a whole number larger than any float
    return False


def _text(x: Any) -> bool:
  return isinstance(x, str) and (not x or x.isprintable())


def _short_text(x: Any) -> bool:
  return _text(x) and len(x) <= SHOWN


def _path(path: str) -> bool:
  try:
    pathlib.Path(path).expanduser().exists()
  except (OSError, RuntimeError):  # too long a name, an unreadable folder; an unknown ~user
    return False
  return True


FLAG = one_of(False, True)
TEXT = Range(_text, "text without control characters")
SHORT = Range(_short_text, f"text of at most {SHOWN} characters")
NAME = Range(lambda x: _short_text(x) and bool(x.strip()), "a name")
PATH = Range(lambda x: _text(x) and _path(x), "a readable path")
NAMES = Range(
  lambda x: _text(x) and all(_path(name.strip()) for name in x.split(",")),
  "names or readable paths, separated by commas",
)
LEVELS = Range(
  lambda x: isinstance(x, list | tuple) and all(whole(0).holds(level) for level in x),
  "levels, whole numbers, as in (1, 2)",
)
WEIGHTS = _table(_finite, 'rewards with finite weights, as in ConfigDict({"math": 1.0})')
SHARES = _table(
  lambda x: _finite(x) and x > 0, 'names with numbers above 0, as in ConfigDict({"aime": 3.0})'
)
REWARDS = _table(
  lambda name: isinstance(name, str),
  'sources with the names of rewards, as in {"deepscaler": "math", "*": "reward_model"}',
)
OPTIONS = _table(
  lambda value: isinstance(value, str | bool) or _finite(value),
  'arguments with finite numbers, flags or texts, as in ConfigDict({"margin": 0.1})',
)
SOURCES = _table(
  lambda fields: isinstance(fields, Mapping | ConfigDict),
  'sources with their fields, as in {"mine": {"path": "mine.jsonl"}}',
)
SHARE = real(0, 1)
# Logits are divided by the temperature in float32.
TEMPERATURE = real(0.01, 100)
TEMPERATURE_OR_GREEDY = Range(
  lambda x: TEMPERATURE.holds(x) or (_finite(x) and x == 0),
  f"0 (greedy), or {TEMPERATURE.allowed}",
)
MESH_SIZE = Range(
  lambda x: whole(-1, MOST_ROWS).holds(x) and x != 0,
  "a number of devices, or -1 for the remaining ones",
)

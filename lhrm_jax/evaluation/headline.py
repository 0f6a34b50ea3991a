"""What a run learned and saves, as a sentence and four numbers: the first screen of its report."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lhrm_jax.evaluation.figures import STAGE_LABELS, accuracy_interval
from lhrm_jax.evaluation.hybrid_accuracy import wilson_interval

Interval = Sequence[float]
MINUS = "\u2212"


@dataclasses.dataclass(frozen=True)
class Fact:
  """A number of the first screen.

  Attributes:
    name: what it measures.
    value: formatted.
    interval: formatted; "" where it is not known.
    beside: what to read it beside, line by line.
  """

  name: str
  value: str
  interval: str
  beside: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Headline:
  """The first screen in words.

  Attributes:
    stage: name of the stage.
    title: one sentence.
    facts: numbers it rests on.
  """

  stage: str
  title: str
  facts: tuple[Fact, ...]


def headline(stage: str, summary: Mapping[str, Any]) -> Headline:
  """The first screen of the report of one stage.

  Args:
    stage: name of the stage.
    summary: as `Evaluator.evaluate` returns it; differences have intervals where it has
      "differences", which older runs lack.
  """
  free, think, no_think = (summary[mode] for mode in ("auto", "think", "no_think"))
  saved = 1 - free["mean_tokens"] / think["mean_tokens"] if think["mean_tokens"] else 0.0
  gained = free["accuracy"] - think["accuracy"]
  title = f"{STAGE_LABELS.get(stage, stage)}, {_cost(saved)}, {_apart(gained)}"
  tokens = Fact(
    "Tokens a reply",
    f"{free['mean_tokens']:,.1f}",
    _ends(free.get("interval", {}).get("mean_tokens"), ".1f"),
    (f"always thinking {think['mean_tokens']:,.1f}, never {no_think['mean_tokens']:,.1f}",),
  )
  return Headline(
    stage,
    title[0].upper() + title[1:],
    (_accuracy(summary), tokens, _think_rate(free), _better_mode(summary["hacc"])),
  )


def _cost(saved: float) -> str:
  if abs(saved) < 0.005:
    return "as many tokens as always thinking"
  return f"{percent(abs(saved), 0)} {'fewer' if saved > 0 else 'more'} tokens than always thinking"


def _apart(gained: float) -> str:
  points = abs(100 * gained)
  if points < 0.05:
    return "the same accuracy"
  unit = "point" if f"{points:.1f}" == "1.0" else "points"
  return f"{points:.1f} {unit} {'more' if gained > 0 else 'less'} accurate"


def _accuracy(summary: Mapping[str, Any]) -> Fact:
  free, parts = summary["auto"], []
  for name, mode in (("always", "think"), ("never", "no_think")):
    apart = free["accuracy"] - summary[mode]["accuracy"]
    part = f"{signed(100 * apart)} points vs. {name}"
    known = summary.get("differences", {}).get(f"auto-{mode}", {}).get("accuracy")
    if known:
      part += f" ({_ends([100 * end for end in known['interval']], '+.1f')})"
    parts.append(part)
  interval = accuracy_interval(free)
  return Fact("Accuracy", percent(free["accuracy"]), spoken(interval), parts)


def _think_rate(free: Mapping[str, Any]) -> Fact:
  levels = free.get("by_level", {})
  beside = []
  if len(levels) > 1:
    first, last = next(iter(levels)), list(levels)[-1]
    beside.append(
      f"{percent(levels[first]['think_rate'], 0)} at level {first}, "
      f"{percent(levels[last]['think_rate'], 0)} at level {last}"
    )
  prompts = free.get("prompts")
  interval = wilson_interval(free["think_rate"] * prompts, prompts) if prompts else None
  return Fact("Think rate", percent(free["think_rate"]), spoken(interval), beside)


def _better_mode(h: Mapping[str, Any]) -> Fact:
  beside = f"random choice {percent(h['random'])}"
  if h.get("ceiling") is not None and math.isfinite(h["ceiling"]):
    beside += f", ceiling {percent(h['ceiling'])}"
  return Fact("Better mode chosen", percent(h["score"]), spoken(h["interval"]), [beside])


def percent(share: float | None, digits: int = 1) -> str:
  """A share in percent; "n/a" where an older run lacks it."""
  if share is None or not math.isfinite(share):
    return "n/a"
  return f"{100 * share:.{digits}f}\u00a0%"


def spoken(interval: Interval | None, digits: int = 1) -> str:
  """An interval of a share, in percent; "" for none."""
  if not interval or None in interval:
    return ""
  return f"{_ends([100 * end for end in interval], f'.{digits}f')}\u00a0%"


def signed(value: float, form: str = "+.1f") -> str:
  """A difference, with a minus sign of the right width."""
  return f"{value:{form}}".replace("-", MINUS)


def _ends(interval: Interval | None, form: str) -> str:
  if not interval or None in interval:
    return ""
  return " to ".join(signed(end, form) for end in interval)

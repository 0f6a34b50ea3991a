"""What a run learned and saves, as a sentence and four numbers: the first screen of its report."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lhrm_jax.evaluation.figures import STAGE_LABELS, accuracy_interval
from lhrm_jax.evaluation.hybrid_accuracy import wilson_interval
from lhrm_jax.evaluation.sample_table import SampleTable
from lhrm_jax.evaluation.samples import FREE, NO_THINK, THINK

_Z = 1.959964  # of a 95 % interval
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Fact:
  """A number of the first screen.

  Attributes:
    name: what it measures.
    value: formatted.
    interval: formatted; "" where it is not known.
    beside: what to read it beside.
  """

  name: str
  value: str
  interval: str
  beside: str


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


def headline(stage: str, summary: Mapping[str, Any], table: SampleTable | None = None) -> Headline:
  """The first screen of the report of one stage.

  Args:
    stage: name of the stage.
    summary: as `Evaluator.evaluate` returns it.
    table: all replies, for intervals of paired differences; not those of an excerpt.
  """
  free, think, no_think = (summary[mode] for mode in ("auto", "think", "no_think"))
  saved = 1 - free["mean_tokens"] / think["mean_tokens"] if think["mean_tokens"] else 0.0
  gained = free["accuracy"] - think["accuracy"]
  title = f"{STAGE_LABELS.get(stage, stage)}, {_cost(saved)}, {_apart(gained)}"
  return Headline(
    stage,
    title[0].upper() + title[1:],
    (
      _accuracy(free, think, no_think, table),
      Fact(
        "Tokens a reply", f"{free['mean_tokens']:,.1f}", _saved_interval(table),
        f"always thinking {think['mean_tokens']:,.1f}, never {no_think['mean_tokens']:,.1f}",
      ),
      _think_rate(free),
      _better_mode(summary["hacc"]),
    ),
  )  # fmt: skip


def _cost(saved: float) -> str:
  if abs(saved) < 0.005:
    return "as many tokens as always thinking"
  return f"{abs(saved):.0%} {'fewer' if saved > 0 else 'more'} tokens than always thinking".replace("%", "\u00a0%")


def _apart(gained: float) -> str:
  points = abs(100 * gained)
  if points < 0.05:
    return "the same accuracy"
  unit = "point" if f"{points:.1f}" == "1.0" else "points"
  return f"{points:.1f} {unit} {'more' if gained > 0 else 'less'} accurate"


def _accuracy(free, think, no_think, table: SampleTable | None) -> Fact:
  parts = []
  for name, other, forced in (("always", think, THINK), ("never", no_think, NO_THINK)):
    apart = 100 * (free["accuracy"] - other["accuracy"])
    part = f"{apart:+.1f} points vs. {name} thinking".replace("-", "−")
    interval = _difference(table, forced)
    if interval is not None:
      low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in interval)
      part += f" ({low} to {high})"
    parts.append(part)
  interval = accuracy_interval(free)
  return Fact("Accuracy", percent(free["accuracy"]), spoken(interval), "; ".join(parts))


def _difference(table: SampleTable | None, forced: str) -> Interval | None:
  if table is None:
    return None
  apart = table.means(table.scores, FREE) - table.means(table.scores, forced)
  apart = apart[np.isfinite(apart)]
  return paired_interval(apart) if len(apart) else None


def _saved_interval(table: SampleTable | None) -> str:
  if table is None:
    return ""
  free, think = table.means(table.tokens, FREE), table.means(table.tokens, THINK)
  both = np.isfinite(free) & np.isfinite(think)
  if both.sum() < 2 or think[both].sum() <= 0:
    return ""
  low, high = ratio_interval(free[both], think[both])
  ends = sorted((100 * (1 - high), 100 * (1 - low)))
  return f"saves {ends[0]:.0f} to {ends[1]:.0f}\u00a0%".replace("-", "−")


def _think_rate(free: Mapping[str, Any]) -> Fact:
  levels = free.get("by_level", {})
  beside = ""
  if len(levels) > 1:
    first, last = list(levels)[0], list(levels)[-1]
    beside = (
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
  return Fact("Better mode chosen", percent(h["score"]), spoken(h["interval"]), beside)


def paired_interval(differences: np.ndarray) -> Interval:
  """95 % interval of the mean of `[K]` paired differences in [-1, 1], of use where none differs.

  Two pseudo-prompts, of which one is better by 1 and one is worse in half of the cases each, keep
  it wider than a point (A. Agresti and Y. Min, 2005, for differences of paired shares).
  """
  d = np.asarray(differences, np.float64)
  count = len(d) + 2
  mean = d.sum() / count
  half = _Z * math.sqrt(max(((d**2).sum() + 1) / count - mean**2, 0) / count)
  return mean - half, mean + half


def ratio_interval(above: np.ndarray, below: np.ndarray) -> Interval:
  """95 % interval of the ratio of two means over the same `[K]` prompts, by the delta method."""
  above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
  ratio = above.mean() / below.mean()
  rest = (above - ratio * below) / below.mean()
  half = _Z * rest.std(ddof=1) / math.sqrt(len(rest))
  return ratio - half, ratio + half


def percent(share: float | None, digits: int = 1) -> str:
  """A share in percent; "n/a" where an older run lacks it."""
  if share is None or not math.isfinite(share):
    return "n/a"
  return f"{100 * share:.{digits}f}\u00a0%"


def spoken(interval: Interval | None, digits: int = 1) -> str:
  """An interval of a share, in percent; "" for none."""
  if interval is None:
    return ""
  return f"{100 * interval[0]:.{digits}f} to {100 * interval[1]:.{digits}f}\u00a0%"

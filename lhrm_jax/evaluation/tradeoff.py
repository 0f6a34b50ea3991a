"""Accuracy against tokens of any rule that chooses a mode, from forced replies alone.

Both modes' replies to every prompt are known, so a rule that only chooses between them needs no
sampling of its own. `K` denotes prompts, `n` replies per mode. A rule is its shares `[K, 2]`: how
often it thinks, and answers directly, on each prompt. What is missing to 1 is in neither mode: it
scores 0, is never the better mode, and costs the mean of both modes' tokens.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lhrm_jax.evaluation import bootstrap
from lhrm_jax.evaluation.hybrid_accuracy import better_modes
from lhrm_jax.text import tags

RATES = tuple(np.linspace(0, 1, 21).round(2).tolist())  # think rates of a curve
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Outcomes:
  """What either mode brings on each prompt.

  Attributes:
    scores: `[K, 2]` mean scores.
    tokens: `[K, 2]` mean lengths in tokens.
    better: `[K]` better mode, by the rule of Hybrid Accuracy.
  """

  scores: np.ndarray
  tokens: np.ndarray
  better: np.ndarray

  @classmethod
  def of(cls, scores: np.ndarray, lengths: np.ndarray, *, margin: float = 0.0) -> "Outcomes":
    """Outcomes of forced replies, scores and lengths `[K, 2, n]`; see `hybrid_accuracy`."""
    scores, lengths = np.asarray(scores, np.float64), np.asarray(lengths, np.float64)
    return cls(scores.mean(2), lengths.mean(2), better_modes(scores, lengths, margin)[0])

  @property
  def gain(self) -> np.ndarray:
    """`[K]` mean score of thinking less that of not thinking."""
    return self.scores[:, tags.THINK] - self.scores[:, tags.NO_THINK]


@dataclasses.dataclass(frozen=True)
class Values:
  """What a rule brings on each of `K` prompts: score, tokens, share of the better mode."""

  accuracy: np.ndarray
  tokens: np.ndarray
  hacc: np.ndarray

  @classmethod
  def of(cls, outcomes: Outcomes, shares: np.ndarray) -> "Values":
    """The values of a rule's shares `[K, 2]`."""
    neither = 1.0 - shares.sum(1)
    return cls(
      accuracy=(shares * outcomes.scores).sum(1),
      tokens=(shares * outcomes.tokens).sum(1) + neither * outcomes.tokens.mean(1),
      hacc=shares[np.arange(len(shares)), outcomes.better],
    )


@dataclasses.dataclass(frozen=True)
class Point:
  """One point of accuracy against tokens; 95 % intervals over prompts.

  Attributes:
    think_rate: share of prompts thought about.
    accuracy: mean score.
    accuracy_interval: of the mean score.
    tokens: mean tokens per reply.
    tokens_interval: of the mean tokens.
    hacc: Hybrid Accuracy, the share of prompts in their better mode.
    hacc_interval: of Hybrid Accuracy.
  """

  think_rate: float
  accuracy: float
  accuracy_interval: Interval
  tokens: float
  tokens_interval: Interval
  hacc: float
  hacc_interval: Interval


def point(outcomes: Outcomes, shares: np.ndarray) -> Point:
  """Means of a rule's shares `[K, 2]`, with intervals."""
  values = Values.of(outcomes, shares)
  within = bool(((outcomes.scores >= 0) & (outcomes.scores <= 1)).all())
  of_scores = bootstrap.share_interval if within else bootstrap.interval
  return Point(
    think_rate=float(shares[:, tags.THINK].mean()),
    accuracy=float(values.accuracy.mean()),
    accuracy_interval=of_scores(values.accuracy[None]),
    tokens=float(values.tokens.mean()),
    tokens_interval=bootstrap.interval(values.tokens[None]),
    hacc=float(values.hacc.mean()),
    hacc_interval=bootstrap.share_interval(values.hacc[None]),
  )


def curve(outcomes: Outcomes, ranking: np.ndarray, rates: Sequence[float] = RATES) -> list[Point]:
  """Points of thinking on the highest of `ranking [K]`, for each think rate."""
  return [point(outcomes, shares_at(ranking, rate)) for rate in rates]


def shares_at(ranking: np.ndarray, think_rate: float) -> np.ndarray:
  """Shares `[K, 2]` of thinking on the highest of `ranking [K]`, at exactly this think rate.

  Equally high prompts at the edge share what is left, as if it were drawn among them.
  """
  ranking = np.asarray(ranking, np.float64)
  _, group, sizes = np.unique(-ranking, return_inverse=True, return_counts=True)
  before = np.cumsum(sizes) - sizes  # prompts ranked above each group
  think = np.clip((think_rate * len(ranking) - before) / sizes, 0.0, 1.0)[group]
  return np.stack([think, 1.0 - think], axis=1)


def shares_of_modes(modes: np.ndarray) -> np.ndarray:
  """Shares `[K, 2]` of modes `[K, n]` that were chosen: 0 think, 1 no_think, -1 neither."""
  modes = np.asarray(modes)
  return np.stack([(modes == mode).mean(1) for mode in (tags.THINK, tags.NO_THINK)], axis=1)


def shares_of_one(mode: int, prompts: int) -> np.ndarray:
  """Shares `[K, 2]` of always choosing one mode."""
  return np.tile(np.eye(2)[mode], (prompts, 1))

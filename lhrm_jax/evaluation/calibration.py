"""Calibration of p(think): does a policy think where thinking pays?

`K` denotes prompts. p(think) is the probability of `<think>` among the two tags; a prompt's outcome
is whether thinking is its better mode by the rule of Hybrid Accuracy, and its gain the difference
of the modes' mean scores.
"""

import dataclasses

import numpy as np

from lhrm_jax.evaluation.bootstrap import over_resamples
from lhrm_jax.evaluation.hybrid_accuracy import better_modes, wilson_interval
from lhrm_jax.text import tags

_BINS = 10


@dataclasses.dataclass(frozen=True)
class Bin:
  """One bar of a reliability diagram.

  Attributes:
    low: least p(think) of the bin.
    high: its upper end, which belongs to the next bin; 1 belongs to the last.
    prompts: number of prompts.
    p_think: their mean p(think).
    think_better: share of them that thinking serves better.
    interval: Wilson's 95 % interval of that share.
    gain: mean gain of thinking, in units of the score.
  """

  low: float
  high: float
  prompts: int
  p_think: float
  think_better: float
  interval: tuple[float, float]
  gain: float


@dataclasses.dataclass(frozen=True)
class Calibration:
  """How well p(think) predicts where thinking pays.

  Attributes:
    auroc: probability that a prompt that thinking serves better has the higher p(think) than one
      that it does not, ties counting half; NaN where all prompts are of one kind. 0.5 is chance.
    auroc_interval: 95 % percentile interval over prompts.
    auroc_decided: the same among the prompts whose modes differ in mean score.
    ece: expected calibration error, the mean distance of p(think) from the share of prompts that
      thinking serves better, by bin. It is above 0 by chance alone: for few prompts, read the bins.
    think_better: share of prompts that thinking serves better.
    bins: the bins that hold prompts, in order.
  """

  auroc: float
  auroc_interval: tuple[float, float]
  auroc_decided: float
  ece: float
  think_better: float
  bins: tuple[Bin, ...]


def p_think(first: np.ndarray) -> np.ndarray:
  """Probability `[K]` of `<think>` among the two tags, float64.

  Args:
    first: `[K, 2]` or wider, probabilities of `<think>` and `<no_think>` as a first token. Where
      both are 0, the result is 0.5.
  """
  think, no_think = np.asarray(first, np.float64)[:, : len(tags.MODES)].T
  both = think + no_think
  return np.where(both > 0, think / np.where(both > 0, both, 1.0), 0.5)


def gains(scores: np.ndarray) -> np.ndarray:
  """Mean score `[K]` of thinking less that of not thinking, of scores `[K, 2, n]`."""
  means = np.asarray(scores, np.float64).mean(axis=2)
  return means[:, tags.THINK] - means[:, tags.NO_THINK]


def calibration(
  p: np.ndarray, scores: np.ndarray, lengths: np.ndarray, *, margin: float = 0.0, bins: int = _BINS
) -> Calibration:
  """Measures p(think) `[K]` against forced replies.

  Args:
    p: `[K]` p(think), see `p_think`.
    scores: `[K, 2, n]` scores of replies with the mode forced.
    lengths: `[K, 2, n]` their lengths in tokens.
    margin: see `hybrid_accuracy`.
    bins: number of bins of equal width.

  Raises:
    ValueError: there are no prompts, or shapes disagree.
  """
  p = np.asarray(p, np.float64)
  if p.ndim != 1 or not len(p) or len(p) != len(scores) or np.shape(scores) != np.shape(lengths):
    raise ValueError(
      f"p {p.shape}, scores {np.shape(scores)} and lengths {np.shape(lengths)} disagree; expected "
      "[K], [K, 2, n] and [K, 2, n], with K at least 1."
    )
  better, tied = better_modes(scores, lengths, margin)
  outcome = better == tags.THINK
  found = reliability(p, outcome, gains(scores), bins)
  return Calibration(
    auroc=auroc(p, outcome),
    auroc_interval=auroc_interval(p, outcome),
    auroc_decided=auroc(p[~tied], outcome[~tied]),
    ece=sum(b.prompts * abs(b.p_think - b.think_better) for b in found) / len(p),
    think_better=float(outcome.mean()),
    bins=found,
  )


def auroc(p: np.ndarray, outcome: np.ndarray) -> float:
  """Area under the ROC curve of `p [K]` for `outcome [K]` bool; NaN where either kind lacks."""
  return float(_aurocs(p, outcome, np.ones((1, len(p))))[0])


def auroc_interval(p: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
  """95 % percentile interval of `auroc` over prompts; NaN where either kind lacks."""
  if not 0 < np.sum(outcome) < len(p):
    return float("nan"), float("nan")
  areas = over_resamples(lambda weights: _aurocs(p, outcome, weights), len(p))
  # A resample of few prompts may lack one kind: it says nothing.
  low, high = np.nanquantile(areas, (0.025, 0.975))
  return float(low), float(high)


def reliability(
  p: np.ndarray, outcome: np.ndarray, gain: np.ndarray, bins: int = _BINS
) -> tuple[Bin, ...]:
  """Bins of equal width over p(think), those without prompts left out.

  Args:
    p: `[K]` p(think).
    outcome: `[K]` bool, whether thinking is better.
    gain: `[K]` gain of thinking.
    bins: number of bins.
  """
  place = np.minimum((np.asarray(p) * bins).astype(int), bins - 1)
  found = []
  for i in np.unique(place):
    here = place == i
    right, count = int(outcome[here].sum()), int(here.sum())
    found.append(
      Bin(
        low=float(i / bins),
        high=float((i + 1) / bins),
        prompts=count,
        p_think=float(p[here].mean()),
        think_better=right / count,
        interval=wilson_interval(right, count),
        gain=float(gain[here].mean()),
      )
    )
  return tuple(found)


def _aurocs(p: np.ndarray, outcome: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Areas `[R]` with prompts weighted by each row of `weights [R, K]`."""
  if not len(p):
    return np.full(len(weights), np.nan)
  order = np.argsort(p, kind="stable")
  ranked, right = np.asarray(p)[order], np.asarray(outcome, bool)[order]
  begins = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # of groups of equal p
  in_order = weights[:, order]
  positive = np.add.reduceat(in_order * right, begins, axis=1)  # [R, groups]
  negative = np.add.reduceat(in_order * ~right, begins, axis=1)
  below = np.cumsum(negative, axis=1) - negative
  pairs = positive.sum(1) * negative.sum(1)
  won = np.sum(positive * (below + negative / 2), axis=1)
  return np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)

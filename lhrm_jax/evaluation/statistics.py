"""Statistics of repeated replies: avg@k, pass@k, maj@k, percentiles.

`K` denotes prompts and `n` replies to each. Prompts are a sample of all that could be asked, and
replies to one prompt are alike: so standard errors are over prompts, each with its mean.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lhrm_jax.evaluation.hybrid_accuracy import wilson_interval

_Z = 1.959964  # of a 95 % interval
PERCENTILES = (5, 25, 50, 75, 95, 99)
RIGHT = 0.5  # a higher score counts as right


@dataclasses.dataclass(frozen=True)
class AverageAtK:
  """The mean score of a prompt's replies, over prompts.

  Attributes:
    k: replies per prompt.
    mean: mean score, avg@k.
    standard_error: over other prompts and other replies; NaN for one prompt.
    sampling_error: over other replies to the same prompts; NaN for one reply.
    interval: 95 % interval of the mean: Wilson's over the prompts for scores in [0, 1], else the
      normal one.
  """

  k: int
  mean: float
  standard_error: float
  sampling_error: float
  interval: tuple[float, float]


def average_at_k(scores: np.ndarray) -> AverageAtK:
  """avg@k of scores `[K, n]`, with `k = n`.

  Raises:
    ValueError: `scores` is not `[K, n]` with K and n at least 1.
  """
  scores = _checked(scores)
  count, k = scores.shape
  means = scores.mean(axis=1)
  mean, nan = float(means.mean()), float("nan")
  error = float(means.std(ddof=1)) / math.sqrt(count) if count > 1 else nan
  within = float(np.sqrt(scores.var(axis=1, ddof=1).sum() / k)) / count if k > 1 else nan
  shares = scores.min() >= 0 and scores.max() <= 1
  return AverageAtK(k, mean, error, within, share_interval(means) if shares else interval(means))


def interval(values: np.ndarray) -> tuple[float, float]:
  """95 % normal interval of the mean of `[K]` values; NaN for one."""
  values = np.asarray(values, np.float64)
  if len(values) < 2:
    return math.nan, math.nan
  mean, half = float(values.mean()), _Z * float(values.std(ddof=1)) / math.sqrt(len(values))
  return mean - half, mean + half


def share_interval(values: np.ndarray) -> tuple[float, float]:
  """Wilson's 95 % interval of the mean of `[K]` values in [0, 1].

  Means of several replies vary less than single ones, so it is wide enough for them too.
  """
  values = np.asarray(values, np.float64)
  return wilson_interval(float(values.sum()), len(values))


def pass_at_k(scores: np.ndarray, k: int) -> float:
  """Expected share of prompts that at least one of `k` replies solves, unbiased.

  `1 - C(n - c, k) / C(n, k)` for `c` right ones of `n` (https://arxiv.org/abs/2107.03374, eq. 1).

  Args:
    scores: `[K, n]`; more than 0.5 is right.
    k: at most n.

  Raises:
    ValueError: `k` is not from 1 to n.
  """
  scores = _checked(scores)
  n = scores.shape[1]
  if not 1 <= k <= n:
    raise ValueError(f"pass@{k} of {n} replies: k must be from 1 to {n}.")
  right = (scores > RIGHT).sum(axis=1)
  failed = [math.comb(n - int(c), k) / math.comb(n, k) for c in right]
  return 1.0 - float(np.mean(failed))


def majority_at_k(scores: np.ndarray, answers: Sequence[Sequence[str | None]]) -> float:
  """Mean score of the most frequent answer, maj@k with `k = n`.

  Right replies all give the gold's value, so they are one answer however it is written; wrong ones
  are equal where their texts are. Replies without an answer are no votes. Answers with equally many
  votes count with their mean; a prompt without votes counts 0.

  Args:
    scores: `[K, n]`; more than 0.5 is right.
    answers: `[K][n]` texts, normalised; `None` for a reply without an answer, and unread for right
      ones.
  """
  scores = _checked(scores)
  found = []
  for row, texts in zip(scores, answers, strict=True):
    by_answer: dict[str, list[float]] = collections.defaultdict(list)
    for score, text in zip(row, texts, strict=True):
      if score > RIGHT:
        by_answer["right"].append(score)
      elif text is not None:
        by_answer[f"text:{text}"].append(score)
    most = max(map(len, by_answer.values()), default=0)
    tied = [np.mean(of) for of in by_answer.values() if len(of) == most]
    found.append(float(np.mean(tied)) if tied else 0.0)
  return float(np.mean(found))


def percentiles(values: np.ndarray) -> dict[str, float]:
  """`PERCENTILES` of all values, by number as text, interpolated linearly."""
  at = np.percentile(np.asarray(values, np.float64), PERCENTILES)
  return dict(zip(map(str, PERCENTILES), at.tolist(), strict=True))


def powers_up_to(n: int) -> list[int]:
  """1, 2, 4, ... up to `n`, and `n` itself: the k of a table of pass@k."""
  return sorted({*(2**i for i in range(n.bit_length())), n})


def _checked(scores: np.ndarray) -> np.ndarray:
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 2 or not scores.size:
    raise ValueError(f"scores must be [K, n] with K and n at least 1, got {scores.shape}.")
  return scores

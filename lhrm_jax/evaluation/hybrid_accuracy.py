"""Hybrid Accuracy: how often a model chooses the mode that serves it better.

Large Hybrid-Reasoning Models (https://arxiv.org/abs/2505.14631), the metric HAcc. `K` denotes
prompts, `n` sampled responses per mode; mode 0 = think, 1 = no_think.
"""

import dataclasses

import numpy as np

from lhrm_jax.text import tags

_BOOTSTRAP_DRAWS = 10_000
# Means of scores such as 0.1 carry rounding; differences below this are none.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class HybridAccuracy:
  """HAcc and what it must be read beside; shares in [0, 1].

  Attributes:
    score: prompts whose freely chosen mode is the better one; an invalid choice never is.
    always_think: the score of always thinking.
    always_no_think: the score of never thinking.
    random: expected score of choosing at random with the model's own rates of think and no_think.
    tie_frac: prompts whose mode means differ by no more than the margin, decided by length.
    decided_score: the score on the other prompts; NaN where there are none.
    invalid_frac: replies whose first token was no opening tag.
    interval: percentile bootstrap over prompts, 95 %, of `score`.
  """

  score: float
  always_think: float
  always_no_think: float
  random: float
  tie_frac: float
  decided_score: float
  invalid_frac: float
  interval: tuple[float, float]


def hybrid_accuracy(
  scores: np.ndarray, lengths: np.ndarray, chosen_mode: np.ndarray, *, margin: float = 0.0
) -> HybridAccuracy:
  """Computes Hybrid Accuracy.

  The better mode of a prompt is the one with the higher mean score; where the means differ by no
  more than `margin`, the one with the shorter mean response, and no_think where these are equal
  too.

  Args:
    scores: `[K, 2, n]`, of responses with the mode forced.
    lengths: `[K, 2, n]`, their tokens.
    chosen_mode: `[K]` int: 0 think, 1 no_think, -1 no valid tag.
    margin: in units of the score, at least 0.

  Raises:
    ValueError: shapes disagree, or there are no prompts.
  """
  scores, lengths = np.asarray(scores, np.float64), np.asarray(lengths, np.float64)
  chosen = np.asarray(chosen_mode)
  if scores.ndim != 3 or scores.shape[1] != 2 or 0 in scores.shape:
    raise ValueError(f"scores must be [K, 2, n] with K and n at least 1, got {scores.shape}.")
  if lengths.shape != scores.shape or chosen.shape != scores.shape[:1]:
    raise ValueError(
      f"scores {scores.shape}, lengths {lengths.shape} and chosen_mode {chosen.shape} disagree; "
      "expected [K, 2, n], [K, 2, n] and [K]."
    )
  lead = scores[:, tags.THINK].mean(1) - scores[:, tags.NO_THINK].mean(1)
  tie = np.abs(lead) <= margin + _ROUNDING
  shorter_to_think = lengths[:, tags.THINK].mean(1) < lengths[:, tags.NO_THINK].mean(1)
  think_better = np.where(tie, shorter_to_think, lead > 0)
  better = np.where(think_better, tags.THINK, tags.NO_THINK)

  right = chosen == better
  score = float(right.mean())
  think_share = float(think_better.mean())
  think_rate = float((chosen == tags.THINK).mean())
  no_think_rate = float((chosen == tags.NO_THINK).mean())
  # Resampling K outcomes of 0 or 1 with replacement is a binomial draw.
  resampled = np.random.default_rng(0).binomial(len(right), score, _BOOTSTRAP_DRAWS) / len(right)
  low, high = np.percentile(resampled, [2.5, 97.5])
  return HybridAccuracy(
    score=score,
    always_think=think_share,
    always_no_think=1.0 - think_share,
    random=think_rate * think_share + no_think_rate * (1.0 - think_share),
    tie_frac=float(tie.mean()),
    decided_score=float(right[~tie].mean()) if not tie.all() else float("nan"),
    invalid_frac=float((chosen == tags.INVALID_MODE).mean()),
    interval=(float(low), float(high)),
  )

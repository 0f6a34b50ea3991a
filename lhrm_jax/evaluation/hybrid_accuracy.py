"""Hybrid Accuracy: how often a model chooses the mode that serves it better.

Large Hybrid-Reasoning Models (https://arxiv.org/abs/2505.14631), the metric HAcc. `K` denotes
prompts, `n` sampled responses per mode; mode 0 = think, 1 = no_think.
"""

import dataclasses
import math

import numpy as np

from lhrm_jax.text import tags

_Z = 1.959964  # of a 95 % interval
# Means of float32 scores such as 0.1 carry rounding; differences below this are none.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class HybridAccuracy:
  """HAcc and the figures to read it beside; shares in [0, 1].

  Attributes:
    score: share of prompts whose freely chosen mode is the better one; an invalid choice never is.
    always_think: the score of always thinking.
    always_no_think: the score of never thinking.
    random: expected score of choosing at random with the model's own rates of think and no_think.
    tie_frac: share of prompts whose mode means are equal or differ by less than the margin, decided
      by length.
    decided_score: the score on the other prompts; NaN where there are none.
    invalid_frac: share of free replies without a mode: malformed, or without an opening tag.
    interval: Wilson's 95 % interval of `score`; wider than a point even at 0 and 1.
    expected_score: the score expected when the first token is sampled at temperature 1; NaN without
      its probabilities.
    ceiling: the score expected of an oracle that knows the better modes; see `ceiling`.
    regret_accuracy: mean score lost against always choosing the better mode; an invalid choice
      earns 0. Biased slightly upwards: the same samples determine the better mode.
    regret_tokens: mean tokens spent beyond those of the better mode, over valid choices; below 0
      where shorter and worse replies are chosen. NaN where no choice is valid.
  """

  score: float
  always_think: float
  always_no_think: float
  random: float
  tie_frac: float
  decided_score: float
  invalid_frac: float
  interval: tuple[float, float]
  expected_score: float
  ceiling: float
  regret_accuracy: float
  regret_tokens: float


def hybrid_accuracy(
  scores: np.ndarray, lengths: np.ndarray, chosen_mode: np.ndarray, *, margin: float = 0.0,
  mode_probs: np.ndarray | None = None,
) -> HybridAccuracy:  # fmt: skip
  """Computes Hybrid Accuracy.

  The better mode of a prompt is the one with the higher mean score; where the means are equal or
  differ by less than `margin`, the one with the shorter mean response, and no_think where these are
  equal too.

  Args:
    scores: `[K, 2, n]` scores of responses with the mode forced.
    lengths: `[K, 2, n]` lengths of these responses, in tokens.
    chosen_mode: `[K]` int: 0 think, 1 no_think, -1 none: malformed, or no valid tag.
    margin: least difference of mean scores that decides, in units of the score.
    mode_probs: `[K, 2]` or wider, first-token probabilities of `<think>` and `<no_think>`.

  Raises:
    ValueError: shapes disagree, there are no prompts, a mode is unknown, or the margin is below 0.
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
  if not np.isin(chosen, (tags.THINK, tags.NO_THINK, tags.INVALID_MODE)).all():
    raise ValueError(f"chosen_mode holds {np.unique(chosen)}; modes are 0, 1 and -1 for none.")
  if not margin >= 0:
    raise ValueError(f"margin={margin} is below 0.")
  better, tie = better_modes(scores, lengths, margin)

  right = chosen == better
  think_share = float((better == tags.THINK).mean())
  think_rate = float((chosen == tags.THINK).mean())
  no_think_rate = float((chosen == tags.NO_THINK).mean())
  prompts, valid = np.arange(len(chosen)), chosen != tags.INVALID_MODE
  mean_scores, mean_lengths = scores.mean(2), lengths.mean(2)  # [K, 2]
  earned = np.where(valid, mean_scores[prompts, chosen], 0.0)
  spent = mean_lengths[prompts, chosen] - mean_lengths[prompts, better]
  expected = np.nan if mode_probs is None else np.asarray(mode_probs)[prompts, better].mean()
  return HybridAccuracy(
    score=float(right.mean()),
    always_think=think_share,
    always_no_think=1.0 - think_share,
    random=think_rate * think_share + no_think_rate * (1.0 - think_share),
    tie_frac=float(tie.mean()),
    decided_score=float(right[~tie].mean()) if not tie.all() else float("nan"),
    invalid_frac=float((~valid).mean()),
    interval=wilson_interval(int(right.sum()), len(right)),
    expected_score=float(expected),
    ceiling=ceiling(scores, lengths, margin=margin),
    regret_accuracy=float((mean_scores[prompts, better] - earned).mean()),
    regret_tokens=float(spent[valid].mean()) if valid.any() else float("nan"),
  )


def ceiling(scores: np.ndarray, lengths: np.ndarray, *, margin: float = 0.0) -> float:
  """Split-half estimate of the Hybrid Accuracy of an oracle that knows the better modes.

  The better mode is estimated from `n` samples, with error: not even an oracle agrees with every
  estimate. If each half of the samples is right with probability `q`, the halves agree with
  probability `a = q^2 + (1 - q)^2`, so `q = (1 + sqrt(2 a - 1)) / 2`. Because `q` varies between
  prompts, this is too high for half the samples and about right for all of them: on simulated
  populations within 0.09 of the oracle's score at `n = 4`, and within 0.03 from 16 on.

  Args:
    scores: `[K, 2, n]` scores.
    lengths: `[K, 2, n]` lengths in tokens.
    margin: see `hybrid_accuracy`.

  Returns:
    A share in [0.5, 1]; NaN for fewer than two samples.
  """
  half = scores.shape[2] // 2
  if not half:
    return float("nan")
  first, _ = better_modes(scores[:, :, :half], lengths[:, :, :half], margin)
  second, _ = better_modes(scores[:, :, -half:], lengths[:, :, -half:], margin)
  agreement = float((first == second).mean())
  return 0.5 + 0.5 * math.sqrt(max(2.0 * agreement - 1.0, 0.0))


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
  """Wilson's score interval of a share, 95 % (E. B. Wilson, 1927)."""
  share, z2 = successes / trials, _Z**2
  centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
  spread = math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
  half = _Z * spread / (1 + z2 / trials)
  low = 0.0 if successes == 0 else centre - half
  return low, 1.0 if successes == trials else centre + half


def better_modes(
  scores: np.ndarray, lengths: np.ndarray, margin: float
) -> tuple[np.ndarray, np.ndarray]:
  """The better mode of each prompt, and whether length decided it, `[K]` int and bool.

  See `hybrid_accuracy` for the arguments.
  """
  lead = scores[:, tags.THINK].mean(1) - scores[:, tags.NO_THINK].mean(1)
  # Exactly a margin apart is decided; rounding counts for neither side.
  tie = (np.abs(lead) < margin - _ROUNDING) | (np.abs(lead) <= _ROUNDING)
  shorter_to_think = lengths[:, tags.THINK].mean(1) < lengths[:, tags.NO_THINK].mean(1)
  think = np.where(tie, shorter_to_think, lead > 0)
  return np.where(think, tags.THINK, tags.NO_THINK), tie

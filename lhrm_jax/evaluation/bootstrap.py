"""Intervals of means over seeds and prompts.

Every seed's policy answers the same evaluation prompts: `S` denotes seeds, `K` prompts, and values
are `[S, K]`. Seeds and prompts are resampled apart from each other, since both vary (A. Owen, the
pigeonhole bootstrap, https://arxiv.org/abs/0712.1111). The interval is slightly
conservative. One seed says nothing of other seeds: its interval is over prompts alone.
"""

import functools

import numpy as np

from lhrm_jax.evaluation.hybrid_accuracy import wilson_interval

_REPEATS = 4000
_SEED = 0


def interval(values: np.ndarray) -> tuple[float, float]:
  """95 % percentile interval of the mean; of a difference, where `values` are paired differences.

  Args:
    values: `[S, K]`.

  Raises:
    ValueError: `values` is not `[S, K]`, with S and K at least 1.
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 2 or not values.size:
    raise ValueError(f"values must be [S, K] with S and K at least 1, got {values.shape}.")
  of_seeds, of_prompts = _weights(*values.shape)
  means = np.sum((of_seeds @ values) * of_prompts, axis=1)
  low, high = np.quantile(means, (0.025, 0.975))
  return float(low), float(high)


def share_interval(values: np.ndarray) -> tuple[float, float]:
  """`interval` of values from 0 to 1, at least as wide as Wilson's interval over the `K` prompts.

  The bootstrap alone is a point where all values are 1: nothing that was seen varies.
  """
  low, high = interval(values)
  prompts = np.shape(values)[1]
  # Scores between 0 and 1 vary less than a share with their mean, so this is wide enough.
  least, most = wilson_interval(float(np.mean(values)) * prompts, prompts)
  return min(low, least), max(high, most)


def resampled(prompts: int) -> np.ndarray:
  """Shares `[R, K]` in which each of `R` resamples draws the `K` prompts, the same ones each time.

  Statistics of the same prompts are paired by weighting them with the same rows.
  """
  return _weights(1, prompts)[1]


@functools.lru_cache(maxsize=16)
def _weights(seeds: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
  """How often each seed and each prompt is drawn, as shares, `[R, S]` and `[R, K]`."""
  rng = np.random.default_rng(_SEED)
  drawn = (rng.multinomial(n, np.full(n, 1 / n), _REPEATS) / n for n in (seeds, prompts))
  of_seeds, of_prompts = drawn
  return of_seeds, of_prompts

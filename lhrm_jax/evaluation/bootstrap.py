"""Intervals of means over seeds and prompts.

Every seed's policy answers the same evaluation prompts: `S` denotes seeds, `K` prompts, and values
are `[S, K]`. Seeds and prompts are resampled apart from each other, since both vary (A. Owen, the
pigeonhole bootstrap, https://arxiv.org/abs/0712.1111). The interval is slightly
conservative. One seed says nothing of other seeds: its interval is over prompts alone.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np

from lhrm_jax.evaluation.hybrid_accuracy import wilson_interval

_REPEATS = 4000
_SEED = 0
_CHUNK = 2**22  # shares that exist at one time


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
  chunks = _weights(*values.shape)
  means = [np.sum((of_seeds @ values) * of_prompts, axis=1) for of_seeds, of_prompts in chunks]
  low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
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


def over_resamples(statistic: Callable[[np.ndarray], np.ndarray], prompts: int) -> np.ndarray:
  """A statistic `[R]` of `R` resamples of the `K` prompts, which are the same ones each time.

  Args:
    statistic: takes weights `[r, K]`, the share of each prompt in some of the resamples, and gives
      their `r` values. Statistics of the same prompts are paired by weighting them with the same
      rows.
    prompts: `K`.
  """
  return np.concatenate([statistic(of_prompts) for _, of_prompts in _weights(1, prompts)])


def _weights(seeds: int, prompts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """How often each seed and each prompt is drawn, as shares `[r, S]` and `[r, K]`, in chunks."""
  of_seeds, of_prompts = _counts(seeds, prompts)
  for rows in _chunks(prompts):
    yield of_seeds[rows] / seeds, of_prompts[rows] / prompts


@functools.lru_cache(maxsize=4)
def _counts(seeds: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
  """How often each seed and each prompt is drawn, `[R, S]` and `[R, K]`.

  One byte each: 0.4 GB at 100,000 prompts.
  """
  rng = np.random.default_rng(_SEED)
  of_seeds, of_prompts = (np.empty((_REPEATS, n), np.uint8) for n in (seeds, prompts))
  for counts in (of_seeds, of_prompts):
    n = counts.shape[1]
    for rows in _chunks(n):
      # More than 255 of one would need that many draws of it where one is expected.
      counts[rows] = rng.multinomial(n, np.full(n, 1 / n), len(counts[rows]))
  return of_seeds, of_prompts


def _chunks(prompts: int) -> list[slice]:
  """Slices of the resamples with at most 32 MB of floats each."""
  size = max(1, _CHUNK // prompts)
  return [slice(at, at + size) for at in range(0, _REPEATS, size)]

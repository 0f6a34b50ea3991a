"""Scales of a reward model's logits; `hgpo.delta` is in their units."""

import math

import numpy as np

# Scales relative to the mean and deviation of a reference set's logits.
OF_REFERENCE = ("standardised", "percentile")
SCALES = ("raw", "sigmoid", *OF_REFERENCE)


def apply(scale: str, logits: np.ndarray, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
  """Scores on one of `SCALES`.

  Args:
    scale: `raw` leaves the logits; `sigmoid` puts them between 0 and 1; `standardised` counts in
      standard deviations from the mean of a reference set; `percentile` is the share of a normal
      distribution with that mean and deviation that lies below, between 0 and 1.
    logits: `[N]`.
    mean: of the reference set's logits.
    std: their standard deviation.

  Returns:
    `[N]` float64; not finite where a logit is not and the scale is unbounded.
  """
  logits = np.asarray(logits, np.float64)
  if scale == "raw":
    return logits
  if scale == "sigmoid":
    return _sigmoid(logits)
  standard = (logits - mean) / std
  if scale == "standardised":
    return standard
  return 0.5 * np.vectorize(math.erfc, otypes=[float])(-standard / math.sqrt(2))


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 0.5 * (1.0 + np.tanh(0.5 * x))  # cannot overflow


def reference_of(logits: np.ndarray) -> tuple[float, float]:
  """Mean and standard deviation of a reference set's logits.

  Raises:
    ValueError: there are fewer than two, all are equal, or one is not finite.
  """
  logits = np.asarray(logits, np.float64)
  if len(logits) < 2 or not np.isfinite(logits).all() or np.ptp(logits) == 0:
    raise ValueError(
      f"a reference set needs at least two finite and different logits; its {len(logits)} are "
      f"{logits[:5].tolist()}"
    )
  return float(logits.mean()), float(logits.std())

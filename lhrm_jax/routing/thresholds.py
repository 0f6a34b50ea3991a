"""Thresholds on a probability of thinking, calibrated to a wanted think rate.

The same serves routers and the policy's own p(think); see `sampling.Dials`.
"""

import dataclasses

import numpy as np

RATES = 100  # thresholds are kept for every hundredth of think rate, from 0 to 1


def threshold_for(p: np.ndarray, think_rate: float) -> float:
  """The threshold that `p [K]` reaches on the wanted share of prompts.

  It lies midway between neighbours, so that rounding decides nothing. Equal probabilities are not
  told apart: the share is then the nearest one possible.

  Args:
    p: `[K]` probabilities in [0, 1], of prompts like those to come.
    think_rate: wanted share, in [0, 1].

  Raises:
    ValueError: there are no probabilities, or values lie outside of [0, 1].
  """
  p = np.sort(np.asarray(p, np.float64))
  if not len(p) or p[0] < 0 or not p[-1] <= 1 or not 0 <= think_rate <= 1:
    raise ValueError(
      f"{len(p)} probabilities and think_rate={think_rate}: expected at least one, all in [0, 1]."
    )
  # Prompts below each possible cut: none, all, or those before a step.
  cuts = np.r_[0, np.flatnonzero(np.diff(p)) + 1, len(p)]
  cut = cuts[np.argmin(np.abs(cuts - (1 - think_rate) * len(p)))]
  below, above = (p[cut - 1] if cut else 0.0), (p[cut] if cut < len(p) else 1.0)
  return 0.0 if cut == 0 else float((below + above) / 2)


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """Thresholds for think rates of 0, 0.01, ..., 1.

  Attributes:
    values: `RATES + 1` thresholds, by rate.
    prompts: number of prompts they were calibrated on.
  """

  values: tuple[float, ...]
  prompts: int

  @classmethod
  def of(cls, p: np.ndarray) -> "Thresholds":
    """Calibrates on probabilities `[K]`; see `threshold_for`."""
    return cls(tuple(threshold_for(p, i / RATES) for i in range(RATES + 1)), len(p))

  def at(self, think_rate: float) -> float:
    """The threshold for a think rate, to the nearest hundredth.

    Raises:
      ValueError: the rate lies outside of [0, 1].
    """
    if not 0 <= think_rate <= 1:
      raise ValueError(f"think_rate={think_rate} must be a share, from 0 to 1.")
    return self.values[round(think_rate * RATES)]

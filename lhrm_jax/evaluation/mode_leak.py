"""Does a policy think inside `<no_think>`? Markers of reasoning, and lengths that drift.

`K` denotes prompts, `n` forced replies per mode.
"""

import dataclasses

import numpy as np

from lhrm_jax.evaluation.bootstrap import over_resamples, share_interval
from lhrm_jax.text import form, tags

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ModeLeak:
  """Signs of reasoning in direct replies; 95 % intervals over prompts.

  Attributes:
    marker_rate: share of direct replies with one of `form.REASONING_MARKERS`.
    marker_interval: of that share.
    long_rate: share of direct replies at least as long as the prompt's mean thinking reply.
    long_interval: of that share.
    length_ratio: mean tokens of direct replies, as a share of those of thinking replies.
    length_interval: of that ratio.
    drift: mean tokens of direct replies, relative to those of the reference policy on the same
      prompts; NaN without one. Far above 1, reasoning has moved into direct replies.
    drift_interval: of that ratio.
  """

  marker_rate: float
  marker_interval: Interval
  long_rate: float
  long_interval: Interval
  length_ratio: float
  length_interval: Interval
  drift: float
  drift_interval: Interval


def mode_leak(
  texts: np.ndarray, lengths: np.ndarray, reference: np.ndarray | None = None
) -> ModeLeak:
  """Measures forced replies.

  Args:
    texts: `[K, n]` str objects, the direct replies.
    lengths: `[K, 2, n]` tokens of both modes.
    reference: `[K, any]` tokens of the direct replies of the policy that training started from, to
      the same prompts.

  Raises:
    ValueError: the reference answered other prompts.
  """
  lengths = np.asarray(lengths, np.float64)
  think, direct = lengths[:, tags.THINK].mean(1), lengths[:, tags.NO_THINK].mean(1)
  if reference is not None and len(reference) != len(direct):
    raise ValueError(f"{len(reference)} prompts of the reference are not the {len(direct)} here.")
  marked = np.vectorize(form.leaks, otypes=[float])(texts).mean(1)
  long = (lengths[:, tags.NO_THINK] >= think[:, None]).mean(1)
  nothing = (float("nan"), (float("nan"), float("nan")))
  drift = nothing if reference is None else _ratio(direct, np.asarray(reference, float).mean(1))
  return ModeLeak(
    float(marked.mean()), share_interval(marked[None]), float(long.mean()),
    share_interval(long[None]), *_ratio(direct, think), *drift,
  )  # fmt: skip


def _ratio(over: np.ndarray, under: np.ndarray) -> tuple[float, Interval]:
  """Ratio of the means of `[K]` pairs, with its interval."""
  ratios = over_resamples(lambda weights: (weights @ over) / (weights @ under), len(over))
  low, high = np.quantile(ratios, (0.025, 0.975))
  return float(over.mean() / under.mean()), (float(low), float(high))

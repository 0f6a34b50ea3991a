"""One checkpoint's dials, swept: accuracy against tokens.

A bias and a threshold only change the choice of mode, so forced replies and the probabilities of
the first token are enough. A budget changes the thoughts: its replies are sampled.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lhrm_jax.evaluation.calibration import p_think
from lhrm_jax.evaluation.tradeoff import RATES, Outcomes, point, shares_of_one
from lhrm_jax.routing.thresholds import threshold_for
from lhrm_jax.text import tags

BIASES = tuple(np.linspace(-8, 8, 17).tolist())


def sweep(
  outcomes: Outcomes, first: np.ndarray, *, biases: Sequence[float] = BIASES,
  thresholds: Sequence[float] | None = None,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
  """Points of accuracy against tokens along two dials.

  Args:
    outcomes: of forced replies.
    first: `[K, 3]` probabilities of `<think>`, `<no_think>` and neither as a first token.
    biases: values of `tag_bias`; the tag is drawn at temperature 1 from the whole vocabulary.
    thresholds: values of `threshold`; those that make every twentieth of think rate by default.

  Returns:
    "tag_bias" and "threshold", each a list of `tradeoff.Point` as plain values, with the dial's
    value under its name.
  """
  p = p_think(first)
  if thresholds is None:
    thresholds = sorted({threshold_for(p, rate) for rate in RATES}, reverse=True)
  return {
    "tag_bias": [_at(outcomes, shares_with_bias(first, b), tag_bias=b) for b in biases],
    "threshold": [_at(outcomes, shares_with_threshold(p, t), threshold=t) for t in thresholds],
  }


def sweep_budgets(
  outcomes: Outcomes, by_budget: Mapping[int, Outcomes], chosen: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
  """Points of accuracy against tokens along the budget, 0 for none.

  Args:
    outcomes: of forced replies without a budget.
    by_budget: of forced replies with each budget.
    chosen: `[K, 2]` shares of the policy's choice of mode.

  Returns:
    "budget" with the policy's own choice, and "budget_think" of always thinking, as in `sweep`.
  """
  of = dict(sorted(by_budget.items())) | {0: outcomes}
  always = shares_of_one(tags.THINK, len(chosen))
  return {
    name: [_at(found, shares, budget=budget) for budget, found in of.items()]
    for name, shares in (("budget", chosen), ("budget_think", always))
  }


def shares_with_bias(first: np.ndarray, bias: float) -> np.ndarray:
  """Shares `[K, 2]` of the modes, with a bias on the logit of `<think>`; see `sweep`."""
  # By factors of at most 1, so that no bias overflows.
  think, others = np.exp(min(bias, 0.0)), np.exp(-max(bias, 0.0))
  weighted = np.asarray(first, np.float64) * [think, others, others]
  return weighted[:, :2] / weighted.sum(1, keepdims=True)


def shares_with_threshold(p: np.ndarray, threshold: float) -> np.ndarray:
  """Shares `[K, 2]` of thinking exactly where `p [K]` reaches the threshold."""
  think = (np.asarray(p) >= threshold) & (threshold < 1)
  return np.stack([think, ~think], axis=1).astype(float)


def _at(outcomes: Outcomes, shares: np.ndarray, **dial: float) -> dict[str, Any]:
  return {**dial, **dataclasses.asdict(point(outcomes, shares))}

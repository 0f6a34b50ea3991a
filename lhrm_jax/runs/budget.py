"""What a run has spent, counted alike for every method, so that budgets can be matched."""

import math
from collections.abc import Sequence
from typing import Any

from lhrm_jax.rewards.scored_rollouts import ScoredRollouts

SAMPLES, TOKENS = "rollout/samples_total", "rollout/tokens_total"


class Budget:
  """Sampled responses and their tokens so far.

  Attributes:
    samples: responses.
    tokens: of them, prompts not counted.
  """

  def __init__(self, logged: Sequence[dict[str, Any]] = ()):
    """Args:
    logged: metrics of the steps before, of a resumed run. Totals are NaN where it is older than
      they are.
    """
    steps = [row for row in logged if "loss" in row]
    self.samples = steps[-1].get(SAMPLES, math.nan) if steps else 0
    self.tokens = steps[-1].get(TOKENS, math.nan) if steps else 0

  def add(self, scored: ScoredRollouts) -> None:
    """Counts rollouts."""
    self.samples += scored.lengths.size
    self.tokens += int(scored.lengths.sum())

  def metrics(self, updates: int) -> dict[str, float]:
    """The totals, beside the updates made so far."""
    return {SAMPLES: self.samples, TOKENS: self.tokens, "updates": updates}

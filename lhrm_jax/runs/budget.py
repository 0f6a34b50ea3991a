"""Sampled responses and tokens that a baseline trains on, under the names of HGPO's totals."""

from lhrm_jax.rewards.scored_rollouts import ScoredRollouts

SAMPLES, TOKENS = "rollout/samples_total", "rollout/tokens_total"


class Budget:
  """Sampled responses and their tokens so far.

  Attributes:
    samples: responses.
    tokens: of them, prompts not counted.
  """

  def __init__(self):
    self.samples = self.tokens = 0

  def add(self, scored: ScoredRollouts) -> None:
    """Counts rollouts."""
    self.samples += scored.lengths.size
    self.tokens += int(scored.lengths.sum())

  def metrics(self, updates: int) -> dict[str, float]:
    """The totals, beside the updates made so far."""
    return {SAMPLES: self.samples, TOKENS: self.tokens, "updates": updates}

"""What a baseline has sampled and computed, under the names of HGPO's totals."""

from collections.abc import Mapping, Sequence

from lhrm_jax.planning.flops import rollout_flops
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts

SAMPLES, TOKENS, FLOPS = "rollout/samples_total", "rollout/tokens_total", "perf/flops_total"


class Budget:
  """Sampled responses, their tokens, and all FLOPs so far.

  Attributes:
    samples: responses.
    tokens: of them, prompts not counted.
    flops: of sampling and of all that is added.
  """

  def __init__(self, config: PolicyConfig):
    self._config = config
    self.samples = self.tokens = 0
    self.flops = 0.0

  def add(self, scored: ScoredRollouts) -> None:
    """Counts rollouts."""
    self.samples += scored.lengths.size
    self.tokens += int(scored.lengths.sum())
    self.flops += rollout_flops(self._config, scored.rollouts)

  def resumed(self, logged: Sequence[Mapping[str, float]]) -> "Budget":
    """Goes on with the FLOPs of the last metrics that a run logged, if any; returns itself."""
    self.flops = next((row[FLOPS] for row in reversed(logged) if FLOPS in row), self.flops)
    return self

  def metrics(self, updates: int) -> dict[str, float]:
    """The totals, beside the updates made so far."""
    return {SAMPLES: self.samples, TOKENS: self.tokens, FLOPS: self.flops, "updates": updates}

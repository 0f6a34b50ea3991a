"""What fine-tuning on given responses shares: its knobs, and which of them a step takes."""

import dataclasses

import numpy as np

from lhrm_jax.config import MOST_ROWS, knob, one_of, real, together, whole
from lhrm_jax.training.packed import PackingConfig
from lhrm_jax.training.state import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class OfflineConfig(PackingConfig, OptimizerConfig):
  """Knobs of training on rollouts that are there before it starts."""

  steps: int = knob(100, whole(0), "Training steps, an update each.")
  eval_every: int = knob(10, whole(0), "Steps between evaluations in training; 0 for none.")


@dataclasses.dataclass(frozen=True)
class RFTConfig(OfflineConfig):
  """Knobs of rejection-sampled fine-tuning (HFT-RFT), the section `rft` of a config."""

  responses_per_step: int = knob(256, whole(1, MOST_ROWS), "Responses of a step.")
  best_of: str = knob(
    "query",
    one_of("query", "mode"),
    '"query" trains on the best of all responses to a query, "mode" on the best of each mode.',
  )
  ties: str = knob(
    "random",
    one_of("random", "shortest", "all"),
    "Which of equally good responses: one at random, the shortest, or all of them.",
  )
  above: float = knob(0.0, real(), "Score that a response must exceed.")
  balance: str = knob(
    "as_sampled",
    one_of("as_sampled", "equal"),
    '"equal" takes half of each step from each mode, "as_sampled" as many as there are.',
  )


@together(RFTConfig, "balance", "responses_per_step")
def _halves(c: RFTConfig) -> str:
  if c.balance != "equal" or c.responses_per_step % 2 == 0:
    return ""
  return (
    f"rft.balance='equal' takes half of rft.responses_per_step={c.responses_per_step} from each "
    "mode: choose an even number."
  )


def drawn(seed: int, step: int, count: int, total: int) -> np.ndarray:
  """Places of the items that a step takes: all of them in a new order, again and again.

  Args:
    seed: of the run.
    step: from 0.
    count: items of a step.
    total: items there are.

  Returns:
    `[count]`, a function of the arguments alone.
  """
  at = np.arange(step * count, (step + 1) * count)
  orders = {
    epoch: np.random.default_rng([seed, epoch]).permutation(total)
    for epoch in np.unique(at // total).tolist()
  }
  return np.array([orders[i // total][i % total] for i in at.tolist()])

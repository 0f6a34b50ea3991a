"""The Hybrid Fine-Tuning step (https://arxiv.org/abs/2505.14631, stage I)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import policy
from lhrm_jax.config import (
  LEVELS,
  MOST_ROWS,
  SHARE,
  knob,
  section,
  together,
  whole,
  with_default,
)
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.objectives import losses
from lhrm_jax.objectives.masked import SumCount, masked_sum_count
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.training.packed import PackingConfig, padding_share, score_targets
from lhrm_jax.training.state import OptimizerConfig, TrainState
from lhrm_jax.training.update import (
  Metrics,
  accumulate_rows,
  apply_gradients,
  jit_step,
  summed_over_devices,
)

HFTStep = Callable[[TrainState, TokenBatch], tuple[TrainState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class UntilConfig:
  """Knobs of the greedy accuracies on the evaluation prompts that end the cold start early."""

  think: float = knob(0.0, SHARE, "Accuracy of forced thinking to reach; 0 never stops.")
  no_think: float = knob(0.0, SHARE, "Accuracy of forced no-think to reach; 0 never stops.")
  no_think_levels: tuple[int, ...] = knob(
    (1, 2), LEVELS, "Levels of the prompts that no-think accuracy is measured on."
  )
  check_every: int = knob(100, whole(1), "Steps between measurements.")


@dataclasses.dataclass(frozen=True)
class HFTConfig(PackingConfig, OptimizerConfig):
  """Knobs of stage I, the section `hft` of a config."""

  steps: int = knob(1000, whole(0), "Training steps, at most; `hft.until` may end them early.")
  think_per_step: int = knob(64, whole(0, MOST_ROWS), "Thinking demonstrations per step.")
  no_think_per_step: int = knob(64, whole(0, MOST_ROWS), "Direct demonstrations per step.")
  learning_rate: float = with_default(OptimizerConfig, "learning_rate", 1e-4)
  learning_rate_end: float = with_default(OptimizerConfig, "learning_rate_end", 0.1)
  warmup_steps: int = with_default(OptimizerConfig, "warmup_steps", 100)
  weight_decay: float = with_default(OptimizerConfig, "weight_decay", 0.01)
  until: UntilConfig = section(UntilConfig)


@together(HFTConfig, "think_per_step", "no_think_per_step")
def _something_to_train_on(c: HFTConfig) -> str:
  if c.think_per_step or c.no_think_per_step:
    return ""
  return (
    "hft.think_per_step=0 and hft.no_think_per_step=0 leave nothing to train on: raise one. To "
    "skip fine-tuning, set hft.steps=0."
  )


def hft_loss(
  config: PolicyConfig, params: policy.Params, batch: TokenBatch
) -> tuple[SumCount, Metrics]:
  """Returns the weighted cross-entropy of the response tokens, and metrics."""
  targets = score_targets(config, params, batch)
  mask = targets.weights > 0
  loss = losses.cross_entropy(targets.scored.logprobs, mask, targets.weights)
  return loss, {
    "entropy": masked_sum_count(targets.scored.entropy, mask),
    "perf/padding_share": padding_share(batch.segment_ids),
  }


def make_hft_step(
  config: PolicyConfig,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
  at_a_time: int = 0,
) -> HFTStep:
  """Returns the jitted step: one update over rows of sequences, packed or not.

  The gradient is that of the weighted mean over all tokens, so it does not depend on how they lie
  in rows and blocks. The state is donated.

  Args:
    config: static part of the policy.
    optimizer: optimiser of the parameters.
    schedule: its learning rate, for metrics.
    mesh: mesh of the update.
    at_a_time: see `update.accumulate_rows`.
  """

  def gradients_of(params: policy.Params, batch: TokenBatch):
    return accumulate_rows(functools.partial(hft_loss, config), params, batch, at_a_time)

  def step(state: TrainState, batch: TokenBatch) -> tuple[TrainState, Any]:
    total = summed_over_devices(gradients_of, mesh)(state.params, batch)
    return apply_gradients(optimizer, schedule, state, *total)

  return jit_step(step, config, optimizer, mesh)

"""The Hybrid Fine-Tuning step (https://arxiv.org/abs/2505.14631, stage I)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import policy
from lhrm_jax.config import (
  LEVELS,
  MOST_ROWS,
  MOST_TOKENS,
  SHARE,
  idle,
  knob,
  section,
  together,
  whole,
  with_default,
)
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.objectives import losses
from lhrm_jax.objectives.masked import SumCount
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.training.state import OptimizerConfig, TrainState
from lhrm_jax.training.update import accumulate, apply_gradients, jit_step

HFTStep = Callable[[TrainState, Sequence[TokenBatch]], tuple[TrainState, dict[str, Array]]]


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
class HFTConfig(OptimizerConfig):
  """Knobs of stage I, the section `hft` of a config."""

  steps: int = knob(1000, whole(0), "Training steps, at most; `hft.until` may end them early.")
  think_per_step: int = knob(64, whole(0, MOST_ROWS), "Thinking demonstrations per step.")
  no_think_per_step: int = knob(64, whole(0, MOST_ROWS), "Direct demonstrations per step.")
  packed_length: int = knob(
    0,
    whole(0, MOST_TOKENS),
    "Tokens per row of packed demonstrations; 0 gives each demonstration its own row, and thinking "
    "and direct ones separate micro-batches of different widths.",
  )
  micro_batch_rows: int = knob(
    8,
    whole(1, MOST_ROWS),
    "Packed rows per micro-batch, a multiple of the devices along `mesh.data` and `mesh.fsdp`.",
  )
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


@idle(HFTConfig, "micro_batch_rows")
def _rows_of_their_own(c: HFTConfig) -> str:
  return "" if c.packed_length else "hft.packed_length=0 (rows are not packed)"


def hft_loss(
  config: PolicyConfig, params: policy.Params, batch: TokenBatch
) -> tuple[SumCount, dict[str, SumCount]]:
  """Returns the weighted cross-entropy of the response tokens, and metrics."""
  hidden, _ = policy.apply(config, params, batch.tokens, batch.positions, batch.segment_ids)
  scored = policy.token_logprobs(config, params, hidden, batch.targets)
  mask = batch.weights > 0
  loss = losses.cross_entropy(scored.logprobs, mask, batch.weights)
  return loss, {"entropy": losses.masked_sum_count(scored.entropy, mask)}


def make_hft_step(
  config: PolicyConfig,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
) -> HFTStep:
  """Returns the jitted step: one update over micro-batches, whose shapes may differ.

  The gradient is that of the weighted mean over all tokens of all micro-batches, so it does not
  depend on how they are split. The state is donated.
  """

  def step(state: TrainState, micro_batches: Sequence[TokenBatch]) -> tuple[TrainState, Any]:
    def loss_fn(params: policy.Params, batch: TokenBatch):
      return hft_loss(config, params, batch)

    loss, grads, metrics = accumulate(loss_fn, state.params, micro_batches)
    return apply_gradients(optimizer, schedule, state, loss, grads, metrics)

  return jit_step(step, config, optimizer, mesh)

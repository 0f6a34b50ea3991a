"""The Hybrid Fine-Tuning step (https://arxiv.org/abs/2505.14631, stage I)."""

from collections.abc import Callable, Sequence
from typing import Any

import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import policy
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.objectives import losses
from lhrm_jax.objectives.masked import SumCount
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.training.state import TrainState
from lhrm_jax.training.update import accumulate, apply_gradients, jit_step

HFTStep = Callable[[TrainState, Sequence[TokenBatch]], tuple[TrainState, dict[str, Array]]]


def hft_loss(
  config: PolicyConfig, params: policy.Params, batch: TokenBatch
) -> tuple[SumCount, dict[str, SumCount]]:
  """Weighted cross-entropy of the response tokens, and metrics."""
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
  """Builds the jitted step: one update over micro-batches, whose shapes may differ.

  The gradient is that of the weighted mean over all tokens of all micro-batches, however they are
  cut. The state is donated.
  """

  def step(state: TrainState, micro_batches: Sequence[TokenBatch]) -> tuple[TrainState, Any]:
    def loss_fn(params: policy.Params, batch: TokenBatch):
      return hft_loss(config, params, batch)

    loss, grads, metrics = accumulate(loss_fn, state.params, micro_batches)
    return apply_gradients(optimizer, schedule, state, loss, grads, metrics)

  return jit_step(step, config, optimizer, mesh)

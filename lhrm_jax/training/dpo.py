"""The DPO step: pairs of responses, packed into rows, against log-probabilities of a reference."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.config import FLAG, MOST_ROWS, knob, real, whole
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.data.pairs import PairBatch
from lhrm_jax.objectives.masked import SumCount, masked_sum, masked_sum_count
from lhrm_jax.objectives.preference import dpo_loss
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.training.offline import OfflineConfig
from lhrm_jax.training.state import TrainState
from lhrm_jax.training.update import Metrics, accumulate, apply_gradients, jit_step


@dataclasses.dataclass(frozen=True)
class DPOConfig(OfflineConfig):
  """Knobs of HFT-DPO, the section `dpo` of a config."""

  beta: float = knob(
    0.1, real(0, above=True), "Weight of the divergence from the reference policy."
  )
  pairs_per_step: int = knob(256, whole(1, MOST_ROWS), "Pairs of a step.")
  length_normalised: bool = knob(
    False, FLAG, "Divide the log-ratio of a response by its tokens, as Tulu 3 does."
  )


def response_logprobs(
  config: PolicyConfig, params: policy.Params, batch: TokenBatch, segments: int
) -> tuple[Array, Array, policy.TokenLogprobs]:
  """Log-probabilities of whole responses, summed over their tokens.

  Args:
    config: of the policy.
    params: of the policy.
    batch: `[R, T]` packed sequences.
    segments: `S`, the most of a row.

  Returns:
    `[R, S]` log-probabilities, `[R, S]` numbers of tokens, and those of single tokens.
  """
  hidden, _ = policy.apply(config, params, batch.tokens, batch.positions, batch.segment_ids)
  scored = policy.token_logprobs(config, params, hidden, batch.targets)
  of_segment = batch.segment_ids[..., None] == jnp.arange(1, segments + 1)  # [R, T, S]
  of_segment &= batch.weights[..., None] > 0
  sums = masked_sum(jnp.broadcast_to(scored.logprobs[..., None], of_segment.shape), of_segment, 1)
  return sums, jnp.sum(of_segment, axis=1), scored


def dpo_batch_loss(
  config: PolicyConfig, c: DPOConfig, params: policy.Params, batch: PairBatch
) -> tuple[SumCount, Metrics]:
  """The loss over one micro-batch of pairs, and metrics under TRL's names."""
  rows, most = batch.mask.shape
  sums, lengths, scored = response_logprobs(config, params, batch.sequences, 2 * most)
  of_pair = (rows * most, 2)
  logprobs, mask = sums.reshape(of_pair), batch.mask.reshape(-1)
  found = dpo_loss(
    logprobs, batch.ref_logprobs.reshape(of_pair), mask, beta=c.beta,
    lengths=lengths.reshape(of_pair) if c.length_normalised else None,
  )  # fmt: skip
  return found.loss, {
    "rewards/chosen": found.chosen,
    "rewards/rejected": found.rejected,
    "rewards/accuracies": found.accuracy,
    "rewards/margins": found.margin,
    "logps/chosen": masked_sum_count(logprobs[:, 0], mask),
    "logps/rejected": masked_sum_count(logprobs[:, 1], mask),
    "entropy": masked_sum_count(scored.entropy, batch.sequences.weights > 0),
  }


def make_pair_logprobs(
  config: PolicyConfig, mesh: Mesh
) -> Callable[[policy.Params, PairBatch], Array]:
  """The jitted scoring of a micro-batch: `[R, K, 2]`, whole on every process."""

  def score(params: policy.Params, batch: PairBatch) -> Array:
    rows, most = batch.mask.shape
    with parallel.over(mesh):
      sums, _, _ = response_logprobs(config, params, batch.sequences, 2 * most)
    return sums.reshape(rows, most, 2)

  return jax.jit(score, out_shardings=parallel.replicated(mesh))


def make_dpo_step(
  config: PolicyConfig,
  c: DPOConfig,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
) -> Callable[[TrainState, Sequence[PairBatch]], tuple[TrainState, dict[str, Array]]]:
  """Builds the jitted update over micro-batches; the state is donated.

  The gradient is that of the mean over all pairs of all micro-batches, however they are cut.
  """

  def loss_fn(params: policy.Params, batch: PairBatch) -> tuple[SumCount, Metrics]:
    return dpo_batch_loss(config, c, params, batch)

  def step(state: TrainState, micro_batches: Sequence[PairBatch]) -> tuple[TrainState, Any]:
    loss, grads, metrics = accumulate(loss_fn, state.params, micro_batches)
    return apply_gradients(optimizer, schedule, state, loss, grads, metrics)

  return jit_step(step, config, optimizer, mesh)

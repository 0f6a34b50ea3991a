"""The DPO step: pairs of responses, packed into rows, against log-probabilities of a reference."""

import dataclasses
import functools
from collections.abc import Callable
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
from lhrm_jax.objectives.masked import SumCount, masked_sum_count
from lhrm_jax.objectives.preference import dpo_loss
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.training.offline import OfflineConfig
from lhrm_jax.training.packed import Targets, padding_share, score_targets
from lhrm_jax.training.state import TrainState
from lhrm_jax.training.update import (
  Metrics,
  accumulate_rows,
  apply_gradients,
  jit_step,
  map_rows,
  summed_over_devices,
)


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
) -> tuple[Array, Array, Targets]:
  """Log-probabilities of whole responses, summed over their tokens.

  Args:
    config: of the policy.
    params: of the policy.
    batch: `[R, T]` packed sequences.
    segments: `S`, the most of a row.

  Returns:
    `[R, S]` log-probabilities, `[R, S]` numbers of tokens, and single targets.
  """
  targets = score_targets(config, params, batch)
  ids = jnp.take_along_axis(batch.segment_ids, targets.places, axis=1)
  counts = targets.weights > 0
  # The others come last, as a segment of their own; so the places are sorted by segment.
  of_segment = jax.vmap(
    lambda x, ids: jax.ops.segment_sum(x, ids, segments + 1, indices_are_sorted=True)[:segments]
  )
  places = jnp.where(counts, ids - 1, segments)
  sums = of_segment(jnp.where(counts, targets.scored.logprobs, 0.0), places)
  return sums, of_segment(counts.astype(jnp.int32), places), targets


def dpo_batch_loss(
  config: PolicyConfig, c: DPOConfig, params: policy.Params, batch: PairBatch
) -> tuple[SumCount, Metrics]:
  """The loss over rows of pairs, and metrics under TRL's names."""
  rows, most = batch.mask.shape
  sums, lengths, targets = response_logprobs(config, params, batch.sequences, 2 * most)
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
    "entropy": masked_sum_count(targets.scored.entropy, targets.weights > 0),
    "perf/padding_share": padding_share(batch.sequences.segment_ids),
  }


def make_pair_logprobs(
  config: PolicyConfig, mesh: Mesh, at_a_time: int = 0
) -> Callable[[policy.Params, PairBatch], Array]:
  """The jitted scoring of rows of pairs: `[N, K, 2]`, whole on every process.

  Args:
    config: static part of the policy.
    mesh: mesh of parameters and pairs.
    at_a_time: see `update.accumulate_rows`.
  """

  def of_block(params: policy.Params, batch: PairBatch) -> Array:
    rows, most = batch.mask.shape
    sums, _, _ = response_logprobs(config, params, batch.sequences, 2 * most)
    return sums.reshape(rows, most, 2)

  def score(params: policy.Params, batch: PairBatch) -> Array:
    with parallel.over(mesh):
      return map_rows(functools.partial(of_block, params), batch, at_a_time)

  return jax.jit(score, out_shardings=parallel.replicated(mesh))


def make_dpo_step(
  config: PolicyConfig,
  c: DPOConfig,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
  at_a_time: int = 0,
) -> Callable[[TrainState, PairBatch], tuple[TrainState, dict[str, Array]]]:
  """Builds the jitted update over rows of pairs; the state is donated.

  The gradient is that of the mean over all pairs, however they lie in rows and blocks.
  """

  def gradients_of(params: policy.Params, batch: PairBatch):
    return accumulate_rows(functools.partial(dpo_batch_loss, config, c), params, batch, at_a_time)

  def step(state: TrainState, batch: PairBatch) -> tuple[TrainState, Any]:
    total = summed_over_devices(gradients_of, mesh)(state.params, batch)
    return apply_gradients(optimizer, schedule, state, *total)

  return jit_step(step, config, optimizer, mesh)

"""The HGPO update (https://arxiv.org/abs/2505.14631, stage II).

Gradients over length buckets, micro-batches and devices, for any objective
(`objectives.objective`). The gradient with respect to the prompts' keys and values is summed over
the buckets of responses, and goes back through the prompts once.
"""

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
from lhrm_jax.objectives import losses, objective
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.objectives.masked import Maximum, SumCount, masked, masked_sum_count
from lhrm_jax.objectives.objective import Objective, ObjectivePrompts, ObjectiveRows, RowLogprobs
from lhrm_jax.objectives.policy_losses import count_per_sequence
from lhrm_jax.objectives.policy_objective import loss_weights
from lhrm_jax.parallel import take_rows
from lhrm_jax.policy import KVCache, PolicyConfig, lora
from lhrm_jax.sampling import LENGTH, Rollouts, mode_logprobs, prefill
from lhrm_jax.sampling.sampler import forced_modes
from lhrm_jax.training.hgpo_config import HGPOConfig
from lhrm_jax.training.length_buckets import Buckets, add_over, bucket_widths
from lhrm_jax.training.rollout_logprobs import RolloutLogprobs, by_row, score_rows
from lhrm_jax.training.state import TrainState
from lhrm_jax.training.update import (
  Metrics,
  accumulate_scan,
  add_sums,
  apply_gradients,
  jit_step,
  summed_over_devices,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HGPOBatch:
  """One update's input.

  Attributes:
    rollouts: `[B, M, G, T]`.
    advantages: `[B, M, G]`.
    ref: log-probabilities of the rollouts under the reference policy.
    old: under the policy that sampled, by the trainer; `None` on the only update from these
      rollouts, where the learning policy is that policy.
    per_sequence: see `ObjectiveRows`; set by the update.
  """

  rollouts: Rollouts
  advantages: Advantages
  ref: RolloutLogprobs
  old: RolloutLogprobs | None = None
  per_sequence: Array | None = None


def hgpo_gradients(
  config: PolicyConfig, c: HGPOConfig, opening: tuple[int, int], params: policy.Params,
  batch: HGPOBatch, objective_fn: Objective | None = None,
) -> tuple[SumCount, policy.Params, Metrics]:  # fmt: skip
  """The loss over one micro-batch, the gradient of its sum, and metrics.

  Responses are computed bucket by bucket. The prompts run forward once before and backward once
  after them, with what all buckets say of their keys and values.

  Args:
    config: of the policy.
    c: temperature, buckets, and what the objective reads.
    opening: ids of the two opening tags.
    params: of the policy.
    batch: `B` prompts with their responses.
    objective_fn: what to minimise; HGPO's by default.
  """
  objective_fn = objective_fn or objective.get("hgpo")
  rollouts, prompts = batch.rollouts, batch.rollouts.prompts
  b, m, g, t = rollouts.responses.shape
  widths = bucket_widths(t)
  params, frozen = lora.split(params)

  def run_prompts(params: policy.Params) -> _RunPrompts:
    params = lora.join(params, frozen)
    last, prefix = prefill(config, params, prompts)
    logits = policy.next_token_logits(config, params, last) / c.temperature
    return _RunPrompts(last, prefix.keys, prefix.values, mode_logprobs(logits, opening))

  given, through_prompts = jax.vjp(run_prompts, params)
  bucket_loss = _bucket_loss(config, c, objective_fn, batch, frozen)
  differentiate = jax.grad(bucket_loss, argnums=(0, 1), has_aux=True)

  def add(total, rows: Array, lengths: Array, width: int):
    (grads, given_grads), more = differentiate(params, given, rows, lengths, width)
    with jax.named_scope("accumulate"):
      # In float32, also what will be handed back to the prompts in the compute dtype.
      sums = jax.tree.map(lambda a, b: a + b.astype(a.dtype), total[:2], (grads, given_grads))
      return *sums, add_sums(total[2], more)

  lengths = _counted_lengths(c, rollouts)
  computed = _computed_lengths(c, lengths, batch.advantages)
  buckets = Buckets.of(computed, c.length_buckets, widths, parallel.batch_parts(b))
  rows = buckets.rows[0]
  _, more = jax.eval_shape(lambda r, k: bucket_loss(params, given, r, k, t), rows, rows.reshape(-1))
  start = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (params, given, more))
  grads, given_grads, (loss, metrics) = add_over(buckets, widths, add, start)

  if objective_fn.of_prompts is not None:

    def prompts_loss(modes: Array) -> tuple[Array, Any]:
      mask = (jnp.arange(t) < lengths[:, None]).reshape(b, -1, t)
      seen = ObjectivePrompts(
        modes, batch.ref.mode_logprobs, mask, c.forced(m * g) / (m * g), batch.per_sequence
      )
      of_prompts, more = objective_fn.of_prompts(c, seen)
      return of_prompts.total, (of_prompts, more)

    tag_grads, (of_prompts, more) = jax.grad(prompts_loss, has_aux=True)(given.modes)
    loss, metrics = loss + of_prompts, metrics | more
    given_grads = dataclasses.replace(given_grads, modes=given_grads.modes + tag_grads)

  with jax.named_scope("prompts_backward"):
    given_grads = jax.tree.map(lambda x, like: x.astype(like.dtype), given_grads, given)
    grads = jax.tree.map(jnp.add, grads, through_prompts(given_grads)[0])
  if c.skip_zero_advantages:  # what is left out still counts in the divisor
    skipped = jnp.arange(t) < (lengths - computed)[:, None]
    _, count = loss_weights(c, skipped, t, batch.per_sequence)
    loss += SumCount(jnp.float32(0), count)
  prompt_slots = jnp.float32(prompts.tokens.size)
  metrics |= _mode_metrics(given.modes, batch.ref)
  metrics["perf/padding_share"] = buckets.padding(widths) + SumCount(
    prompt_slots - jnp.sum(prompts.lengths), prompt_slots
  )
  return loss, grads, metrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _RunPrompts:
  """What responses take from the prompts before them: the gradient goes back through these.

  Attributes:
    last: `[B, d]` hidden states of the last tokens.
    keys: of the prompts' cache.
    values: likewise.
    modes: `[B, 3]`, see `mode_logprobs`.
  """

  last: Array
  keys: policy.cache.PerLayer
  values: policy.cache.PerLayer
  modes: Array


def _counted_lengths(c: HGPOConfig, rollouts: Rollouts) -> Array:
  """`[N]` lengths of the responses, 0 for those that the loss does not count."""
  lengths = by_row(rollouts.lengths)
  if not c.mask_truncated:
    return lengths
  return jnp.where(by_row(rollouts.finish_reason) == LENGTH, 0, lengths)


def _computed_lengths(c: HGPOConfig, lengths: Array, advantages: Advantages) -> Array:
  """`[N]` lengths of the responses, 0 for those that are left out of the update."""
  if not c.skip_zero_advantages:
    return lengths
  tag, body = by_row(advantages.tag), by_row(advantages.body)
  return jnp.where((tag != 0) | (body != 0), lengths, 0)


def _per_sequence(c: HGPOConfig, rollouts: Rollouts) -> Array:
  """`count_per_sequence` of the whole update, which micro-batches and devices cannot see."""
  t = rollouts.responses.shape[-1]
  mask = jnp.arange(t) < _counted_lengths(c, rollouts)[:, None]
  return count_per_sequence(mask, c.aggregation, t)


def _bucket_loss(
  config: PolicyConfig, c: HGPOConfig, objective_fn: Objective, batch: HGPOBatch,
  frozen: policy.Params,
) -> Callable[..., tuple[Array, tuple[SumCount, Metrics]]]:  # fmt: skip
  """`loss(params, run_prompts, rows [P, R], lengths [P * R], width)` of a bucket's rows."""
  rollouts = batch.rollouts
  _, m, g, t = rollouts.responses.shape
  forced = forced_modes(m, g, c.forced(m * g))
  responses, sampled = by_row(rollouts.responses), by_row(rollouts.logprobs)
  tag, body = by_row(batch.advantages.tag), by_row(batch.advantages.body)

  def loss(params: policy.Params, given: _RunPrompts, rows: Array, lengths: Array, width: int):
    params = lora.join(params, frozen)
    prompt_of = rows // (m * g)
    mode = jnp.array(forced)[rows.reshape(-1) % (m * g)] if max(forced) >= 0 else None
    prefix = KVCache(given.keys, given.values, rollouts.prompts.lengths)
    scored = score_rows(
      config, params, (given.last, prefix), prompt_of, take_rows(responses[:, :width], rows),
      lengths, c.temperature,
    )  # fmt: skip

    def of_rows(logprobs: Array, entropy: Array, modes: Array) -> RowLogprobs:
      tags = None
      if mode is not None:
        by_prompt = take_rows(losses.tag_logprobs(modes), prompt_of)
        tags = jnp.take_along_axis(by_prompt, jnp.maximum(mode, 0)[:, None], axis=1)[:, 0]
      return RowLogprobs(logprobs, entropy, take_rows(modes, prompt_of), tags)

    def given_by(policy_: RolloutLogprobs) -> RowLogprobs:
      per_token = (
        take_rows(by_row(x)[:, :width], rows) for x in (policy_.logprobs, policy_.entropy)
      )
      return of_rows(*per_token, policy_.mode_logprobs)

    new = of_rows(scored.logprobs, scored.entropy, given.modes)
    seen = ObjectiveRows(
      new=new,
      old=jax.lax.stop_gradient(new) if batch.old is None else given_by(batch.old),
      ref=given_by(batch.ref),
      sampler_logprobs=take_rows(sampled[:, :width], rows),
      tag=take_rows(tag, rows),
      body=take_rows(body, rows),
      mask=jnp.arange(width) < lengths[:, None],
      lengths=lengths,
      mode=mode,
      max_tokens=t,
      per_sequence=batch.per_sequence,
    )
    total, metrics = objective_fn.of_rows(c, seen)
    return total.total, (total, metrics | _row_metrics(seen))

  return loss


@functools.partial(jax.jit, static_argnums=(1, 2))
def mini_batches(batch: HGPOBatch, count: int, mesh: Mesh) -> tuple[HGPOBatch, ...]:
  """Cuts a batch of `B` queries into `count` of whole queries, each device's share by itself.

  Args:
    batch: laid out over the mesh.
    count: divides `B`.
    mesh: over these devices.
  """
  with parallel.over(mesh):
    stacked = _stack_queries(batch, count)
    return tuple(jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count))


def _stack_queries(batch: HGPOBatch, count: int) -> HGPOBatch:
  """A batch's queries as `count` equal parts, stacked on a new leading axis."""
  parts = parallel.batch_parts(batch.rollouts.lengths.shape[0] // count)
  return jax.tree.map(
    # The policy's version is one scalar; every part carries it.
    lambda x: parallel.stack_rows(x, count, parts) if x.ndim else jnp.broadcast_to(x, (count,)),
    batch,
  )


def make_hgpo_step(
  config: PolicyConfig,
  c: HGPOConfig,
  opening: tuple[int, int],
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
  objective_fn: Objective | None = None,
) -> Callable[[TrainState, HGPOBatch], tuple[TrainState, dict[str, Array]]]:
  """Builds the jitted update; the state is donated.

  The batch is cut into `c.micro_batches` along `B`, on each device by itself; sums and counts are
  added over them, so the cut changes memory and nothing else.

  Args:
    config: of the policy.
    c: knobs of the update and of the objective.
    opening: ids of the two opening tags.
    optimizer: of the parameters.
    schedule: its learning rate, for metrics.
    mesh: over these devices.
    objective_fn: what to minimise; HGPO's by default.

  Raises:
    ValueError: rows without advantage are to be left out, and have a gradient.
  """
  if c.skip_zero_advantages and (c.beta or c.entropy_bonus):
    raise ValueError(
      f"skip_zero_advantages with beta={c.beta} and entropy_bonus={c.entropy_bonus}: these give "
      "every response a gradient, advantage or not. Set both to 0, or skip none."
    )

  def gradients_of(params: policy.Params, batch: HGPOBatch):
    return accumulate_scan(
      lambda micro_batch: hgpo_gradients(config, c, opening, params, micro_batch, objective_fn),
      _stack_queries(batch, c.micro_batches),
    )

  def step(state: TrainState, batch: HGPOBatch) -> tuple[TrainState, dict[str, Array]]:
    rows = batch.rollouts.lengths.shape[0]
    if c.separate_tag:
      batch = dataclasses.replace(batch, per_sequence=_per_sequence(c, batch.rollouts))
    apart = rows % (mesh.shape["data"] * c.micro_batches) == 0  # each device has its share
    total = (summed_over_devices(gradients_of, mesh) if apart else gradients_of)(
      state.params, batch
    )
    return apply_gradients(optimizer, schedule, state, *total)

  return jit_step(step, config, optimizer, mesh)


def _row_metrics(rows: ObjectiveRows) -> Metrics:
  """Metrics of rows under any objective, under TRL's names."""
  mismatch = jnp.abs(rows.new.logprobs - rows.sampler_logprobs)
  body = rows.mask & (jnp.arange(rows.mask.shape[1]) > 0)
  return {
    "entropy": masked_sum_count(rows.new.entropy, body),
    "sampling/sampling_logp_difference/mean": masked_sum_count(mismatch, rows.mask),
    "sampling/sampling_logp_difference/max": Maximum(jnp.max(masked(mismatch, rows.mask))),
  }


def _mode_metrics(logprobs: Array, ref: RolloutLogprobs) -> Metrics:
  """The choice of a mode, query by query, from `[B, 3]` log-probabilities of the first token."""
  probs = jnp.exp(logprobs)
  # p log p is 0 at p = 0, where log p may be -inf.
  terms = jnp.where(probs > 0, probs * logprobs, 0.0)
  every_query = jnp.ones(len(probs), bool)
  kl = losses.categorical_kl(logprobs, ref.mode_logprobs)
  return {
    "mode/tag_kl": masked_sum_count(kl, every_query),
    "mode/tag_entropy": masked_sum_count(-jnp.sum(terms, axis=-1), every_query),
    "mode/think_prob": masked_sum_count(probs[:, 0], every_query),
    "mode/neither_prob": masked_sum_count(probs[:, 2], every_query),
    "mode/neither_prob/max": Maximum(jnp.max(probs[:, 2])),
  }

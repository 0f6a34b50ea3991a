"""The HGPO update (https://arxiv.org/abs/2505.14631, stage II).

The trainer scores rollouts the way the sampler made them: each prompt runs once, and all of its
responses attend to its one cache. Responses run in buckets of like length (`length_buckets`), one
at a time; the gradient with respect to the prompts' keys and values is summed over them, and goes
back through the prompts once.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.objectives import losses
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.objectives.masked import Maximum, SumCount, masked, masked_sum_count
from lhrm_jax.parallel import take_rows
from lhrm_jax.policy import KVCache, PolicyConfig
from lhrm_jax.policy.cache import PerLayer
from lhrm_jax.sampling.rollouts import Rollouts
from lhrm_jax.sampling.sampler import prefill
from lhrm_jax.training.length_buckets import Buckets, add_over, bucket_widths, map_over
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
class Scored:
  """What a policy says of given rollouts.

  Attributes:
    logprobs: `[B, M, G, T]` float32 of the response tokens.
    entropy: `[B, M, G, T]` float32, nats.
    mode_logprobs: `[B, 3]` float32: first token `<think>`, `<no_think>`, or any other.
  """

  logprobs: Array
  entropy: Array
  mode_logprobs: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HGPOBatch:
  """One update's input.

  Attributes:
    rollouts: `[B, M, G, T]`.
    advantages: `[B, M, G]`.
    ref: what the reference policy says of the rollouts.
    old_logprobs: `[B, M, G, T]` of the policy that sampled, scored by the trainer; `None` on the
      first update from these rollouts, where the learning policy is that policy.
  """

  rollouts: Rollouts
  advantages: Advantages
  ref: Scored
  old_logprobs: Array | None = None


@dataclasses.dataclass(frozen=True)
class HGPOSpec:
  """What is compiled into an update.

  Attributes:
    clip_low: see `losses.policy_loss`, as for the next four.
    clip_high: likewise.
    beta: likewise.
    aggregation: likewise.
    tag_weight: likewise.
    gamma: see `losses.token_advantages`.
    temperature: the rollouts were sampled at.
    opening: ids of the two opening tags.
    micro_batches: parts that the prompts are cut into; memory is that of one.
    length_buckets: parts that the responses of a micro-batch, sorted by length, are cut into; each
      is computed as wide as its longest response needs.
    skip_zero_advantages: leave out responses whose advantage is 0 on every token. With `beta` at 0
      they have no gradient; they still count in the loss's divisor, but not in the metrics.
  """

  clip_low: float
  clip_high: float
  beta: float
  aggregation: str
  tag_weight: float
  gamma: float
  temperature: float
  opening: tuple[int, int]
  micro_batches: int = 1
  length_buckets: int = 8
  skip_zero_advantages: bool = False

  def __post_init__(self):
    if self.skip_zero_advantages and self.beta:
      raise ValueError(
        f"skip_zero_advantages with beta={self.beta}: the KL penalty gives every response a "
        "gradient, advantage or not. Set beta to 0, or skip none."
      )


def make_score(
  config: PolicyConfig,
  opening: tuple[int, int],
  temperature: float,
  length_buckets: int = 8,
  mesh: Mesh | None = None,
) -> Callable[[policy.Params, Rollouts], Scored]:
  """The jitted scoring of sampled ids, for reference and old log-probabilities.

  Args:
    config: of the policy.
    opening: ids of the two opening tags.
    temperature: the rollouts were sampled at.
    length_buckets: see `HGPOSpec`.
    mesh: that parameters and rollouts lie on, where it has several devices.
  """

  def score(params: policy.Params, rollouts: Rollouts) -> Scored:
    b, m, g, t = rollouts.responses.shape
    widths = bucket_widths(t)
    last, prefix = prefill(config, params, rollouts.prompts)
    responses = _by_row(rollouts.responses)

    def of_bucket(rows: Array, lengths: Array, width: int) -> policy.TokenLogprobs:
      return _score_rows(
        config, params, last, prefix, rows // (m * g), take_rows(responses[:, :width], rows),
        lengths, temperature,
      )  # fmt: skip

    parts = parallel.batch_parts(b)
    buckets = Buckets.of(_by_row(rollouts.lengths), length_buckets, widths, parts)
    scored = map_over(buckets, widths, of_bucket, b * m * g)
    return Scored(
      scored.logprobs.reshape(b, m, g, t),
      scored.entropy.reshape(b, m, g, t),
      _mode_logprobs(config, params, last, opening, temperature),
    )

  @jax.jit
  def score_over_mesh(params: policy.Params, rollouts: Rollouts) -> Scored:
    with parallel.over(mesh) if mesh else contextlib.nullcontext():
      return score(params, rollouts)

  return score_over_mesh


def hgpo_gradients(
  config: PolicyConfig, spec: HGPOSpec, params: policy.Params, batch: HGPOBatch
) -> tuple[SumCount, policy.Params, Metrics]:
  """The negated objective over one micro-batch, the gradient of its sum, and metrics.

  Responses are computed bucket by bucket. The prompts run forward once before and backward once
  after them, with what all buckets say of their keys and values.
  """
  rollouts = batch.rollouts
  b, m, g, t = rollouts.responses.shape
  widths = bucket_widths(t)
  prompts = rollouts.prompts

  def run_prompts(params: policy.Params) -> tuple[Array, PerLayer, PerLayer]:
    last, prefix = prefill(config, params, prompts)
    return last, prefix.keys, prefix.values

  given, through_prompts = jax.vjp(run_prompts, params)

  responses, sampled = _by_row(rollouts.responses), _by_row(rollouts.logprobs)
  tag, body = _by_row(batch.advantages.tag), _by_row(batch.advantages.body)
  ref = _by_row(batch.ref.logprobs)
  old = None if batch.old_logprobs is None else _by_row(batch.old_logprobs)
  all_lengths = _by_row(rollouts.lengths)

  def bucket_loss(params, given, rows: Array, lengths: Array, width: int):
    last, keys, values = given
    new = _score_rows(
      config, params, last, KVCache(keys, values, prompts.lengths), rows // (m * g),
      take_rows(responses[:, :width], rows), lengths, spec.temperature,
    )  # fmt: skip
    per_token = losses.token_advantages(
      take_rows(tag, rows), take_rows(body, rows), width, spec.gamma, lengths
    )
    before, of_ref, of_sampler = (
      None if x is None else take_rows(x[:, :width], rows) for x in (old, ref, sampled)
    )
    if before is None:
      before = jax.lax.stop_gradient(new.logprobs)
    mask = jnp.arange(width) < lengths[:, None]
    loss, metrics = _loss(spec, new, before, of_ref, of_sampler, per_token, mask,
                          constant_length=t)  # fmt: skip
    return loss.total, (loss, metrics)

  differentiate = jax.grad(bucket_loss, argnums=(0, 1), has_aux=True)

  def add(total, rows: Array, lengths: Array, width: int):
    (grads, given_grads), more = differentiate(params, given, rows, lengths, width)
    with jax.named_scope("accumulate"):
      # In float32, also what will be handed back to the prompts in the compute dtype.
      sums = jax.tree.map(lambda a, b: a + b.astype(a.dtype), total[:2], (grads, given_grads))
      return *sums, add_sums(total[2], more)

  computed = all_lengths
  if spec.skip_zero_advantages:
    computed = jnp.where((tag != 0) | (body != 0), all_lengths, 0)
  buckets = Buckets.of(computed, spec.length_buckets, widths, parallel.batch_parts(b))
  rows = buckets.rows[0]
  _, more = jax.eval_shape(lambda r, k: bucket_loss(params, given, r, k, t), rows, rows.reshape(-1))
  start = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (params, given, more))
  grads, given_grads, (loss, metrics) = add_over(buckets, widths, add, start)

  with jax.named_scope("prompts_backward"):
    given_grads = jax.tree.map(lambda x, like: x.astype(like.dtype), given_grads, given)
    grads = jax.tree.map(jnp.add, grads, through_prompts(given_grads)[0])
  if spec.skip_zero_advantages:
    skipped = jnp.arange(t) < (all_lengths - computed)[:, None]
    _, count = losses.aggregation_weights(skipped, spec.aggregation, t)
    loss += SumCount(jnp.float32(0), count)
  prompt_slots = jnp.float32(prompts.tokens.size)
  metrics |= _mode_metrics(config, spec, params, given[0], batch.ref)
  metrics["perf/padding_share"] = buckets.padding(widths) + SumCount(
    prompt_slots - jnp.sum(prompts.lengths), prompt_slots
  )
  return loss, grads, metrics


def make_hgpo_step(
  config: PolicyConfig,
  spec: HGPOSpec,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
) -> Callable[[TrainState, HGPOBatch], tuple[TrainState, dict[str, Array]]]:
  """Builds the jitted update; the state is donated.

  The batch is cut into `spec.micro_batches` along `B`, on each device by itself; sums and counts
  are added over them, so the cut changes memory and nothing else.
  """

  def gradients_of(params: policy.Params, batch: HGPOBatch):
    # policy_version is one scalar for the batch; every micro-batch carries it.
    version = jnp.broadcast_to(batch.rollouts.policy_version, (spec.micro_batches,))
    rollouts = dataclasses.replace(batch.rollouts, policy_version=version)
    parts = parallel.batch_parts(batch.rollouts.lengths.shape[0] // spec.micro_batches)
    stacked = jax.tree.map(
      lambda x: x if x is version else parallel.stack_rows(x, spec.micro_batches, parts),
      dataclasses.replace(batch, rollouts=rollouts),
    )
    return accumulate_scan(
      lambda micro_batch: hgpo_gradients(config, spec, params, micro_batch), stacked
    )

  def step(state: TrainState, batch: HGPOBatch) -> tuple[TrainState, dict[str, Array]]:
    rows = batch.rollouts.lengths.shape[0]
    apart = rows % (mesh.shape["data"] * spec.micro_batches) == 0  # each device has its share
    total = (summed_over_devices(gradients_of, mesh) if apart else gradients_of)(
      state.params, batch
    )
    return apply_gradients(optimizer, schedule, state, *total)

  return jit_step(step, config, optimizer, mesh)


def _by_row(x: Array) -> Array:
  """`[B, M, G, ...]` to `[N, ...]`."""
  return x.reshape(-1, *x.shape[3:])


def _score_rows(
  config: PolicyConfig, params: policy.Params, last: Array, prefix: KVCache, prompt_of: Array,
  responses: Array, lengths: Array, temperature: float,
) -> policy.TokenLogprobs:  # fmt: skip
  """Teacher-forced scores `[P * R, width]` of some responses.

  Args:
    config: of the policy.
    params: of the policy.
    last: `[B, d]` hidden state of each prompt's last token.
    prefix: the prompts' cache.
    prompt_of: `[P, R]`, which prompt of its part each response answers.
    responses: `[P * R, width]`.
    lengths: `[P * R]`.
    temperature: of the distribution.
  """
  width = responses.shape[1]
  positions = take_rows(prefix.lengths, prompt_of)[:, None] + jnp.arange(width - 1)
  segment_ids = (jnp.arange(1, width) < lengths[:, None]).astype(jnp.int32)
  context = (policy.cache.take(prefix, prompt_of),)
  hidden, _ = policy.apply(config, params, responses[:, :-1], positions, segment_ids, context)
  # The prompt's last token predicts the tag, each response token the next one.
  hidden = jnp.concatenate([take_rows(last, prompt_of)[:, None], hidden], axis=1)
  return policy.token_logprobs(config, params, hidden, responses, temperature)


def _mode_logprobs(
  config: PolicyConfig, params: policy.Params, last: Array, opening: tuple[int, int],
  temperature: float,
) -> Array:  # fmt: skip
  """`[B, 3]` log-probability that the first token is `<think>`, `<no_think>`, or any other."""
  logits = policy.next_token_logits(config, params, last) / temperature  # [B, V]
  is_tag = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(opening))
  other = jax.nn.logsumexp(jnp.where(is_tag, -jnp.inf, logits), axis=-1, keepdims=True)
  modes = jnp.concatenate([logits[:, jnp.array(opening)], other], axis=-1)
  return jax.nn.log_softmax(modes)


def _loss(
  spec: HGPOSpec, new: policy.TokenLogprobs, old: Array, ref: Array, sampled: Array,
  advantages: Array, mask: Array, constant_length: int,
) -> tuple[SumCount, Metrics]:  # fmt: skip
  """The negated objective over rows `[P * R, width]`, and its metrics under TRL's names."""
  parts = losses.policy_loss(
    new.logprobs, old, ref, advantages, mask,
    clip_low=spec.clip_low, clip_high=spec.clip_high, beta=spec.beta,
    aggregation=spec.aggregation, constant_length=constant_length, tag_weight=spec.tag_weight,
  )  # fmt: skip
  mismatch = jnp.abs(new.logprobs - sampled)
  return parts.loss, {
    "kl": parts.kl,
    "entropy": masked_sum_count(new.entropy, mask & (jnp.arange(mask.shape[1]) > 0)),
    "clip_ratio/low_mean": parts.low_clip,
    "clip_ratio/high_mean": parts.high_clip,
    "importance_ratio/mean": parts.ratio,
    "sampling/sampling_logp_difference/mean": masked_sum_count(mismatch, mask),
    "sampling/sampling_logp_difference/max": Maximum(jnp.max(masked(mismatch, mask))),
  }


def _mode_metrics(
  config: PolicyConfig, spec: HGPOSpec, params: policy.Params, last: Array, ref: Scored
) -> Metrics:
  """What becomes of the choice of a mode, prompt by prompt."""
  logprobs = _mode_logprobs(config, params, last, spec.opening, spec.temperature)
  probs = jnp.exp(logprobs)
  # p log p is 0 at p = 0, where log p may be -inf.
  terms = jnp.where(probs > 0, probs * logprobs, 0.0)
  every_query = jnp.ones(last.shape[0], bool)
  kl = losses.categorical_kl(logprobs, ref.mode_logprobs)
  return {
    "mode/tag_kl": masked_sum_count(kl, every_query),
    "mode/tag_entropy": masked_sum_count(-jnp.sum(terms, axis=-1), every_query),
    "mode/think_prob": masked_sum_count(probs[:, 0], every_query),
  }

"""The HGPO update (https://arxiv.org/abs/2505.14631, stage II).

The trainer scores rollouts the way the sampler made them: each prompt runs once, and all of its
responses attend to its one cache. Responses run in buckets of like length (`length_buckets`), one
at a time; the gradient with respect to the prompts' keys and values is summed over them, and goes
back through the prompts once.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.config import FLAG, MOST_ROWS, NAME, OPTIONS, knob, one_of, whole
from lhrm_jax.objectives import losses
from lhrm_jax.objectives.hgpo import Advantages, HGPOAdvantageConfig
from lhrm_jax.objectives.losses import PolicyLossConfig
from lhrm_jax.objectives.masked import Maximum, SumCount, masked, masked_sum_count
from lhrm_jax.parallel import take_rows
from lhrm_jax.policy import KVCache, PolicyConfig
from lhrm_jax.policy.cache import PerLayer
from lhrm_jax.rewards.scales import SCALES
from lhrm_jax.sampling.rollouts import Rollouts
from lhrm_jax.sampling.sampler import RolloutConfig, prefill
from lhrm_jax.training.length_buckets import Buckets, add_over, bucket_widths, map_over
from lhrm_jax.training.state import OptimizerConfig, TrainState
from lhrm_jax.training.update import (
  Metrics,
  accumulate_scan,
  add_sums,
  apply_gradients,
  jit_step,
  summed_over_devices,
)

TAG_NORMALISATIONS = ("tags", "vocabulary")
TAG_KLS = ("k3", "exact")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scored:
  """Log-probabilities and entropies of given rollouts under one policy.

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
    ref: scores of the rollouts by the reference policy.
    old: scores by the policy that sampled, made by the trainer; `None` on the only update from
      these rollouts, where the learning policy is that policy.
  """

  rollouts: Rollouts
  advantages: Advantages
  ref: Scored
  old: Scored | None = None


@dataclasses.dataclass(frozen=True)
class HGPOConfig(PolicyLossConfig, HGPOAdvantageConfig, RolloutConfig, OptimizerConfig):
  """Knobs of stage II, the section `hgpo` of a config."""

  steps: int = knob(100, whole(0), "Training steps; 0 ends the run after HFT.")
  prompts_per_step: int = knob(256, whole(1, MOST_ROWS), "Prompts sampled in a step.")
  reward_workers: int = knob(
    2,
    whole(1, 1024),
    "Processes that judge `math` and `multiple_choice`; twice as many sandboxes run at a time.",
  )
  advantage: str = knob("hgpo", NAME, "Registered advantage function (docs/method.md).")
  advantage_options: Mapping[str, Any] = knob(
    {}, OPTIONS, "Arguments of an advantage function beyond the keys here."
  )
  reward_scale: str = knob(
    "",
    one_of("", *SCALES),
    'Scale of a reward model\'s scores; "" is the one that the model was made with.',
  )
  updates_per_rollout: int = knob(
    1, whole(1, 10_000), "Updates from a step's rollouts, a mini-batch of whole prompts each."
  )
  epochs: int = knob(
    1,
    whole(1, 10_000),
    "Passes over a step's rollouts.",
    # Each of a step's updates took all of its prompts.
    before=lambda c: 1 if c.updates_per_rollout == 1 else None,
  )
  micro_batches: int = knob(
    1, whole(1, MOST_ROWS), "Parts that an update's prompts are computed in; memory is that of one."
  )
  length_buckets: int = knob(
    8,
    whole(1, 2**16),
    "Parts that the responses of a micro-batch, sorted by length, are computed in, each as wide as "
    "its longest response. Each adds up a gradient of all parameters, over all devices.",
  )
  skip_zero_advantages: bool = knob(
    False, FLAG, "Leave responses without advantage out of the update; needs beta=0."
  )
  eval_every: int = knob(10, whole(0), "Steps between evaluations in training; 0 for none.")


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
    every_token: likewise.
    tag_normalisation: distribution that a forced tag's log-probability is taken from, in ratio,
      surrogate and k3: "tags", the two opening tags (`losses.tag_logprobs`), or "vocabulary", the
      literal form. Where the policy chose its first token itself, it is always the vocabulary.
    tag_kl: divergence of the first token from the reference: "k3", the literal form, or "exact"
      (`losses.tag_regulariser`).
    neither_penalty: see `losses.tag_regulariser`. Of forced tags only: where the policy chooses its
      first token, those that are neither are sampled, score 0 and are pushed down.
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
  every_token: bool = False
  tag_normalisation: str = "tags"
  tag_kl: str = "k3"
  neither_penalty: float = 10.0
  micro_batches: int = 1
  length_buckets: int = 8
  skip_zero_advantages: bool = False

  def __post_init__(self):
    for name, choices in (("tag_normalisation", TAG_NORMALISATIONS), ("tag_kl", TAG_KLS)):
      if getattr(self, name) not in choices:
        raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(choices)}.")
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

  def run_prompts(params: policy.Params) -> tuple[Array, PerLayer, PerLayer, Array]:
    last, prefix = prefill(config, params, prompts)
    modes = _mode_logprobs(config, params, last, spec.opening, spec.temperature)
    return last, prefix.keys, prefix.values, modes

  given, through_prompts = jax.vjp(run_prompts, params)

  responses, sampled = _by_row(rollouts.responses), _by_row(rollouts.logprobs)
  tag, body = _by_row(batch.advantages.tag), _by_row(batch.advantages.body)
  all_lengths = _by_row(rollouts.lengths)
  among_tags = m == 2 and spec.tag_normalisation == "tags"

  def bucket_loss(params, given, rows: Array, lengths: Array, width: int):
    last, keys, values, modes = given
    prompt_of = rows // (m * g)
    new = _score_rows(
      config, params, last, KVCache(keys, values, prompts.lengths), prompt_of,
      take_rows(responses[:, :width], rows), lengths, spec.temperature,
    )  # fmt: skip

    def of_rows(logprobs: Array, mode_logprobs: Array) -> Array:
      if not among_tags:
        return logprobs
      by_prompt = take_rows(losses.tag_logprobs(mode_logprobs), prompt_of)
      mode = (rows.reshape(-1, 1) // g) % m
      return logprobs.at[:, 0].set(jnp.take_along_axis(by_prompt, mode, axis=1)[:, 0])

    def given_by(scored: Scored) -> Array:
      return of_rows(take_rows(_by_row(scored.logprobs)[:, :width], rows), scored.mode_logprobs)

    per_token = losses.token_advantages(
      take_rows(tag, rows), take_rows(body, rows), width, spec.gamma, lengths,
      every_token=spec.every_token,
    )  # fmt: skip
    logprobs = of_rows(new.logprobs, modes)
    old = jax.lax.stop_gradient(logprobs) if batch.old is None else given_by(batch.old)
    mask = jnp.arange(width) < lengths[:, None]
    parts = losses.policy_loss(
      logprobs, old, given_by(batch.ref), per_token, mask,
      clip_low=spec.clip_low, clip_high=spec.clip_high, beta=spec.beta,
      aggregation=spec.aggregation, constant_length=t, tag_weight=spec.tag_weight,
      tag_kl=spec.tag_kl == "k3",
    )  # fmt: skip
    metrics = _metrics(parts, new, take_rows(sampled[:, :width], rows), mask)
    return parts.loss.total, (parts.loss, metrics)

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

  tag_loss, tag_grads = jax.value_and_grad(
    lambda modes: _tag_loss(spec, modes, batch.ref.mode_logprobs, rollouts)
  )(given[-1])
  loss += SumCount(tag_loss, jnp.float32(0))
  given_grads = (*given_grads[:-1], given_grads[-1] + tag_grads)

  with jax.named_scope("prompts_backward"):
    given_grads = jax.tree.map(lambda x, like: x.astype(like.dtype), given_grads, given)
    grads = jax.tree.map(jnp.add, grads, through_prompts(given_grads)[0])
  if spec.skip_zero_advantages:
    skipped = jnp.arange(t) < (all_lengths - computed)[:, None]
    _, count = losses.aggregation_weights(skipped, spec.aggregation, t)
    loss += SumCount(jnp.float32(0), count)
  prompt_slots = jnp.float32(prompts.tokens.size)
  metrics |= _mode_metrics(given[-1], batch.ref)
  metrics["perf/padding_share"] = buckets.padding(widths) + SumCount(
    prompt_slots - jnp.sum(prompts.lengths), prompt_slots
  )
  return loss, grads, metrics


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
    return accumulate_scan(
      lambda micro_batch: hgpo_gradients(config, spec, params, micro_batch),
      _stack_queries(batch, spec.micro_batches),
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


def _tag_loss(spec: HGPOSpec, modes: Array, ref_modes: Array, rollouts: Rollouts) -> Array:
  """`losses.tag_regulariser` summed with the weights that the first tokens have in the loss."""
  forced = rollouts.lengths.shape[1] == 2
  per_query = losses.tag_regulariser(
    modes, ref_modes,
    beta=spec.beta if spec.tag_kl == "exact" else 0.0,
    neither_penalty=spec.neither_penalty if forced else 0.0,
  )  # fmt: skip
  mask = _by_row(rollouts.mask)
  weights, _ = losses.aggregation_weights(mask, spec.aggregation, mask.shape[1])
  return jnp.sum(per_query * spec.tag_weight * weights[:, 0].reshape(len(per_query), -1).sum(1))


def _metrics(
  parts: losses.PolicyLoss, new: policy.TokenLogprobs, sampled: Array, mask: Array
) -> Metrics:
  """Metrics of rows `[P * R, width]` under TRL's names."""
  mismatch = jnp.abs(new.logprobs - sampled)
  return {
    "kl": parts.kl,
    "entropy": masked_sum_count(new.entropy, mask & (jnp.arange(mask.shape[1]) > 0)),
    "clip_ratio/low_mean": parts.low_clip,
    "clip_ratio/high_mean": parts.high_clip,
    "importance_ratio/mean": parts.ratio,
    "sampling/sampling_logp_difference/mean": masked_sum_count(mismatch, mask),
    "sampling/sampling_logp_difference/max": Maximum(jnp.max(masked(mismatch, mask))),
  }


def _mode_metrics(logprobs: Array, ref: Scored) -> Metrics:
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

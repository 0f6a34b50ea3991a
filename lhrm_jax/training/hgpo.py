"""The HGPO update (https://arxiv.org/abs/2505.14631, stage II).

The trainer scores rollouts the way the sampler made them: each prompt runs once, and all of its
responses attend to its one cache.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import policy
from lhrm_jax.objectives import losses
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.objectives.masked import Maximum, SumCount, masked, masked_sum_count
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling.rollouts import Rollouts
from lhrm_jax.sampling.sampler import prefill
from lhrm_jax.training.state import TrainState
from lhrm_jax.training.update import Metrics, accumulate_scan, apply_gradients, jit_step


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
  """Options of the objective that are compiled in; see `losses.policy_loss`."""

  clip_low: float
  clip_high: float
  beta: float
  aggregation: str
  tag_weight: float
  gamma: float
  temperature: float
  micro_batches: int
  opening: tuple[int, int]


def score_rollouts(
  config: PolicyConfig,
  params: policy.Params,
  rollouts: Rollouts,
  opening: tuple[int, int],
  temperature: float,
) -> Scored:
  """Teacher-forced scores of the sampled ids, at the temperature they were sampled with."""
  b, m, g, t = rollouts.responses.shape
  responses = rollouts.responses.reshape(b * m * g, t)
  last, prefix = prefill(config, params, rollouts.prompts)

  positions = jnp.repeat(rollouts.prompts.lengths, m * g)[:, None] + jnp.arange(t - 1)
  segment_ids = rollouts.mask.reshape(b * m * g, t)[:, 1:].astype(jnp.int32)
  hidden, _ = policy.apply(
    config, params, responses[:, :-1], positions, segment_ids, context=(prefix,)
  )
  # The prompt's last token predicts the tag, each response token the next one.
  hidden = jnp.concatenate([jnp.repeat(last, m * g, axis=0)[:, None], hidden], axis=1)
  scored = policy.token_logprobs(config, params, hidden, responses, temperature)

  logits = policy.next_token_logits(config, params, last) / temperature  # [B, V]
  is_tag = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(opening))
  other = jax.nn.logsumexp(jnp.where(is_tag, -jnp.inf, logits), axis=-1, keepdims=True)
  modes = jnp.concatenate([logits[:, jnp.array(opening)], other], axis=-1)
  return Scored(
    scored.logprobs.reshape(b, m, g, t),
    scored.entropy.reshape(b, m, g, t),
    jax.nn.log_softmax(modes),
  )


def make_score(
  config: PolicyConfig, opening: tuple[int, int], temperature: float
) -> Callable[[policy.Params, Rollouts], Scored]:
  """The jitted `score_rollouts`, for reference and old log-probabilities."""
  return jax.jit(lambda params, rollouts: score_rollouts(
    config, params, rollouts, opening, temperature))  # fmt: skip


def hgpo_loss(
  config: PolicyConfig, spec: HGPOSpec, params: policy.Params, batch: HGPOBatch
) -> tuple[SumCount, Metrics]:
  """The negated objective over one micro-batch, and its metrics under TRL's names."""
  rollouts = batch.rollouts
  b, m, g, t = rollouts.responses.shape
  new = score_rollouts(config, params, rollouts, spec.opening, spec.temperature)
  old = jax.lax.stop_gradient(new.logprobs) if batch.old_logprobs is None else batch.old_logprobs

  def flat(x: Array) -> Array:
    return x.reshape(b * m * g, *x.shape[3:])

  mask = flat(rollouts.mask)
  per_token = losses.token_advantages(
    flat(batch.advantages.tag), flat(batch.advantages.body), t, spec.gamma, flat(rollouts.lengths)
  )
  parts = losses.policy_loss(
    flat(new.logprobs), flat(old), flat(batch.ref.logprobs), per_token, mask,
    clip_low=spec.clip_low, clip_high=spec.clip_high, beta=spec.beta,
    aggregation=spec.aggregation, constant_length=t, tag_weight=spec.tag_weight,
  )  # fmt: skip
  every_query = jnp.ones(b, bool)
  mode_kl = losses.categorical_kl(new.mode_logprobs, batch.ref.mode_logprobs)
  mode_probs = jnp.exp(new.mode_logprobs)
  # p log p is 0 at p = 0, where log p may be -inf.
  mode_terms = jnp.where(mode_probs > 0, mode_probs * new.mode_logprobs, 0.0)
  mismatch = jnp.abs(flat(new.logprobs) - flat(rollouts.logprobs))
  return parts.loss, {
    "kl": parts.kl,
    "mode/tag_kl": masked_sum_count(mode_kl, every_query),
    "mode/tag_entropy": masked_sum_count(-jnp.sum(mode_terms, axis=-1), every_query),
    "mode/think_prob": masked_sum_count(mode_probs[:, 0], every_query),
    "entropy": masked_sum_count(flat(new.entropy), mask & (jnp.arange(t) > 0)),
    "clip_ratio/low_mean": parts.low_clip,
    "clip_ratio/high_mean": parts.high_clip,
    "importance_ratio/mean": parts.ratio,
    "sampling/sampling_logp_difference/mean": masked_sum_count(mismatch, mask),
    "sampling/sampling_logp_difference/max": Maximum(jnp.max(masked(mismatch, mask))),
  }


def make_hgpo_step(
  config: PolicyConfig,
  spec: HGPOSpec,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
) -> Callable[[TrainState, HGPOBatch], tuple[TrainState, dict[str, Array]]]:
  """Builds the jitted update; the state is donated.

  The batch is cut into `spec.micro_batches` along `B`; sums and counts are added over them, so the
  cut changes memory and nothing else.
  """

  def loss_fn(params: policy.Params, batch: HGPOBatch):
    return hgpo_loss(config, spec, params, batch)

  def step(state: TrainState, batch: HGPOBatch) -> tuple[TrainState, dict[str, Array]]:
    # policy_version is one scalar for the batch; every micro-batch carries it.
    version = jnp.broadcast_to(batch.rollouts.policy_version, (spec.micro_batches,))
    rollouts = dataclasses.replace(batch.rollouts, policy_version=version)
    stacked = jax.tree.map(
      lambda x: x if x is version else x.reshape(spec.micro_batches, -1, *x.shape[1:]),
      dataclasses.replace(batch, rollouts=rollouts),
    )
    loss, grads, metrics = accumulate_scan(loss_fn, state.params, stacked)
    return apply_gradients(optimizer, schedule, state, loss, grads, metrics)

  return jit_step(step, config, optimizer, mesh)

"""Losses over tokens: supervised, clipped policy gradient, KL. Pure functions on arrays.

`N` denotes sequences and `T` response tokens. Masks are bool and derive from lengths. Each loss is
a `SumCount`, divided once after all micro-batches and devices.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.config import SHARE, knob, one_of, real
from lhrm_jax.objectives.masked import SumCount, masked, masked_sum, masked_sum_count

AGGREGATIONS = ("sequence_sum", "token_mean", "sequence_mean", "constant_length")

TAG_NORMALISATIONS = ("tags", "vocabulary")
TAG_KLS = ("k3", "exact")

# exp() of a larger log-ratio would overflow or drown every other token; such a ratio is clipped by
# any sensible epsilon anyway.
MAX_LOG_RATIO = 20.0


@dataclasses.dataclass(frozen=True)
class PolicyLossConfig:
  """Knobs of the clipped policy-gradient loss and of the loss on the opening tag."""

  beta: float = knob(0.001, real(0), "Weight of the KL penalty against the reference policy.")
  clip_low: float = knob(0.5, SHARE, "Clip range of the importance ratio below 1.")
  clip_high: float = knob(0.5, real(0), "Clip range of the importance ratio above 1.")
  aggregation: str = knob(
    "sequence_sum", one_of(*AGGREGATIONS), "How the loss of tokens becomes one number."
  )
  tag_weight: float = knob(1.0, real(0), "Factor on the loss of the opening tag.")
  tag_normalisation: str = knob(
    "tags",
    one_of(*TAG_NORMALISATIONS),
    "Distribution that a forced tag's log-probability is taken from: the two opening tags, or the "
    "whole vocabulary (the literal form).",
    before="vocabulary",
  )
  tag_kl: str = knob(
    "k3", one_of(*TAG_KLS), "Divergence of the opening tag from the reference policy."
  )
  neither_penalty: float = knob(
    10.0,
    real(0),
    "Weight of the penalty on -log(p_think + p_no_think), where tags are forced, in units of an "
    "advantage.",
    before=0.0,
  )


def cross_entropy(logprobs: Array, mask: Array, weights: Array | float = 1.0) -> SumCount:
  """`L_HFT = -sum_t w_t log pi(y_t)` over response tokens (https://arxiv.org/abs/2505.14631).

  Args:
    logprobs: `[N, T]` of the target tokens.
    mask: `[N, T]` bool.
    weights: `[N, T]` or a scalar; the count is their sum.
  """
  return masked_sum_count(-logprobs, mask, weights)


def log_ratio(logprobs: Array, other: Array) -> Array:
  """`logprobs - other`, clamped so that its exponential is finite."""
  return jnp.clip(logprobs - other, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def k3_divergence(logprobs: Array, ref_logprobs: Array) -> Array:
  """Per-token `pi_ref/pi - log(pi_ref/pi) - 1`, at least 0 (http://joschu.net/blog/kl-approx.html).

  Unbiased for `KL(pi || pi_ref)` on tokens sampled from `pi`; on a forced token it is a penalty,
  not an estimate (`categorical_kl` gives the exact value there).
  """
  x = log_ratio(ref_logprobs, logprobs)
  return jnp.exp(x) - x - 1.0


def categorical_kl(logits: Array, ref_logits: Array) -> Array:
  """Exact `KL(pi || pi_ref)` in nats over the last axis, for logits `[..., V]`."""
  logp, ref_logp = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref_logits)
  return jnp.sum(jnp.exp(logp) * (logp - ref_logp), axis=-1)


def tag_logprobs(mode_logprobs: Array) -> Array:
  """Log-probabilities of the two opening tags given that the first token is one of them.

  Forced tags say nothing about first tokens that are neither: none is ever sampled, so none is ever
  pushed down, while pushing the losing tag down lifts them. Ratio and loss over the two tags leave
  that mass to `tag_regulariser`.

  Args:
    mode_logprobs: `[B, 3]`: first token `<think>`, `<no_think>`, or any other.

  Returns:
    `[B, 2]`.
  """
  return jax.nn.log_softmax(mode_logprobs[:, :2])


def tag_regulariser(
  mode_logprobs: Array, ref_mode_logprobs: Array, *, beta: float, neither_penalty: float
) -> Array:
  """What the choice of the first token costs, query by query, beside the surrogate.

  `beta * KL(pi || pi_ref)` over `<think>`, `<no_think>` and any other token, exact, plus
  `-neither_penalty * log(p_think + p_no_think)`, whose gradient vanishes as p(neither) does.

  Args:
    mode_logprobs: `[B, 3]`, see `tag_logprobs`.
    ref_mode_logprobs: `[B, 3]` of the reference.
    beta: weight of the divergence.
    neither_penalty: weight of the penalty, in units of an advantage.

  Returns:
    `[B]`, nats.
  """
  outside = -jax.nn.logsumexp(mode_logprobs[:, :2], axis=-1)
  return beta * categorical_kl(mode_logprobs, ref_mode_logprobs) + neither_penalty * outside


def token_advantages(
  tag: Array, body: Array, tokens: int, gamma: float = 1.0, lengths: Array | None = None,
  *, every_token: bool = False,
) -> Array:  # fmt: skip
  """Spreads the two parts of `Advantages` over tokens: the tag is the first token.

  Args:
    tag: `[N]`.
    body: `[N]`.
    tokens: `T`.
    gamma: discount of the body term as a reward at the last token (REINFORCE++, 0.99 in the paper).
    lengths: `[N]`, needed with `gamma` below 1 or `every_token`.
    every_token: the body term is a reward at every token, whose advantage is the discounted sum of
      those left, its own included (eq. 22 as printed).

  Returns:
    `[N, T]`.
  """
  first = jnp.arange(tokens) == 0
  if gamma == 1.0 and not every_token:
    return jnp.where(first, tag[:, None], body[:, None])
  after = jnp.maximum(lengths[:, None] - 1 - jnp.arange(tokens), 0)  # [N, T], tokens still to come
  if not every_token:
    weight = gamma**after
  elif gamma == 1.0:
    weight = after + 1
  else:
    weight = (1 - gamma ** (after + 1)) / (1 - gamma)
  return body[:, None] * weight + jnp.where(first, (tag - body)[:, None], 0.0)


def aggregation_weights(mask: Array, how: str, constant_length: int = 1) -> tuple[Array, Array]:
  """How much each token counts, and by what the sum is divided.

  Args:
    mask: `[N, T]` bool.
    how: "sequence_sum": sum of tokens, over sequences (the paper); "token_mean": over tokens
      (DAPO); "sequence_mean": mean of each sequence, over sequences (GRPO); "constant_length": sum
      of tokens, over sequences times `constant_length` (Dr. GRPO).
    constant_length: tokens.

  Returns:
    Weights `[N, T]` and a scalar count. Sequences without tokens count nowhere.

  Raises:
    ValueError: `how` is unknown.
  """
  lengths = jnp.sum(mask, axis=1)
  sequences = jnp.sum(lengths > 0).astype(jnp.float32)
  ones = mask.astype(jnp.float32)
  if how == "sequence_sum":
    return ones, sequences
  if how == "token_mean":
    return ones, jnp.sum(ones)
  if how == "sequence_mean":
    return ones / jnp.maximum(lengths, 1)[:, None], sequences
  if how == "constant_length":
    return ones, sequences * constant_length
  raise ValueError(f"aggregation={how!r} is none of {', '.join(AGGREGATIONS)}.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyLoss:
  """The HGPO objective, negated, with what is watched beside it; each a `SumCount`.

  Attributes:
    loss: to be minimised.
    kl: k3 over the body tokens.
    low_clip: share of body tokens whose ratio was clipped from below where it mattered.
    high_clip: likewise from above.
    ratio: mean importance ratio over all response tokens.
  """

  loss: SumCount
  kl: SumCount
  low_clip: SumCount
  high_clip: SumCount
  ratio: SumCount


def policy_loss(
  config: PolicyLossConfig,
  logprobs: Array,
  old_logprobs: Array,
  ref_logprobs: Array,
  advantages: Array,
  mask: Array,
  *,
  constant_length: int = 1,
) -> PolicyLoss:
  """Clipped objective with a KL penalty (https://arxiv.org/abs/2505.14631), negated.

  `J = sum_t [ min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) - beta * k3 ]`, aggregated as
  named. The opening tag is in it with the policy's own old log-probability, although it was forced.
  Eq. 11 prints the HFT policy in the ratio's denominator; Algorithm 1 refreshes it, as here.

  Args:
    config: clip range, `beta`, `aggregation` and `tag_weight`. With `tag_kl` at "exact" the first
      token has no k3 term: `tag_regulariser` holds its divergence.
    logprobs: `[N, T]` of the policy that learns.
    old_logprobs: `[N, T]` of the policy that sampled.
    ref_logprobs: `[N, T]` of the reference.
    advantages: `[N, T]`, see `token_advantages`.
    mask: `[N, T]` bool; elsewhere the other arrays may hold anything.
    constant_length: see `aggregation_weights`.

  Returns:
    `PolicyLoss`.
  """
  chex.assert_equal_shape([logprobs, old_logprobs, ref_logprobs, advantages, mask])
  # Hidden slots are set to harmless values first: a NaN there would pass through any later `where`
  # on the way back.
  logprobs, old_logprobs, ref_logprobs, advantages = (
    masked(x, mask) for x in (logprobs, old_logprobs, ref_logprobs, advantages)
  )
  ratio = jnp.exp(log_ratio(logprobs, old_logprobs))
  clipped = jnp.clip(ratio, 1.0 - config.clip_low, 1.0 + config.clip_high)
  surrogate = jnp.minimum(ratio * advantages, clipped * advantages)
  k3 = k3_divergence(logprobs, ref_logprobs)

  weights, count = aggregation_weights(mask, config.aggregation, constant_length)
  is_tag = jnp.arange(mask.shape[1]) == 0
  weights = jnp.where(is_tag, config.tag_weight * weights, weights)
  body = mask & ~is_tag
  penalty = config.beta * (k3 if config.tag_kl == "k3" else masked(k3, body))
  total = masked_sum((penalty - surrogate) * weights, mask)

  low = (ratio < 1.0 - config.clip_low) & (advantages < 0)
  high = (ratio > 1.0 + config.clip_high) & (advantages > 0)
  return PolicyLoss(
    loss=SumCount(total, count),
    kl=masked_sum_count(k3, body),
    low_clip=masked_sum_count(low.astype(jnp.float32), body),
    high_clip=masked_sum_count(high.astype(jnp.float32), body),
    ratio=masked_sum_count(ratio, mask),
  )

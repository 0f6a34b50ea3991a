"""Parts that a policy-gradient objective is put together from. Pure functions on arrays.

`N` denotes sequences and `T` response tokens, the opening tag first. Surrogates are losses per
token, to be minimised and aggregated by `losses.aggregation_weights` or `separate_tag_weights`.
`policy_objective.policy_objective` puts them together. Where a mask is taken, what it hides must be
finite (`masked.masked`).
"""

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.objectives.losses import (
  MAX_LOG_RATIO,
  aggregation_weights,
  k3_divergence,
  log_ratio,
)
from lhrm_jax.objectives.masked import masked, masked_sum

RATIOS = ("token", "sequence", "sequence_token", "product")
KL_ESTIMATORS = ("k1", "k2", "k3")
CORRECTIONS = ("token", "sequence")


def importance_ratio(
  logprobs: Array, old_logprobs: Array, mask: Array, *, level: str = "token"
) -> Array:
  """`pi / pi_old` of each token, or one ratio for all tokens of a sequence.

  Args:
    logprobs: `[N, T]` of the policy that learns.
    old_logprobs: `[N, T]` of the policy that sampled.
    mask: `[N, T]` bool.
    level: "token"; "sequence", the geometric mean over a sequence's tokens, of GSPO
      (https://arxiv.org/abs/2507.18071, eq. 7) and of AdaptThink's code; "sequence_token", that
      value with the gradient of each token's own log-probability (GSPO-token, eq. 14); "product",
      the ratio of the sequences' probabilities (AdaptThink, https://arxiv.org/abs/2505.13417,
      eq. 9). One ratio per sequence stands on each of its tokens, so that "sequence_mean" counts
      it once.

  Returns:
    `[N, T]`.

  Raises:
    ValueError: `level` is unknown.
  """
  if level not in RATIOS:
    raise ValueError(f"ratio={level!r} is none of {', '.join(RATIOS)}.")
  per_token = log_ratio(logprobs, old_logprobs)
  if level == "token":
    return jnp.exp(per_token)
  whole = masked_sum(per_token, mask, axis=1)[:, None]
  if level == "product":
    whole = jnp.clip(whole, -MAX_LOG_RATIO, MAX_LOG_RATIO)
  else:
    whole /= jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
  whole = jnp.broadcast_to(whole, mask.shape)
  if level == "sequence_token":
    whole = jax.lax.stop_gradient(whole - logprobs) + logprobs
  return jnp.exp(whole)


def with_tag_logprobs(logprobs: Array, tag_logprobs: Array | float) -> Array:
  """`logprobs` with another opening tag's, as given among the two tags, or as it was drawn.

  AdaptThink forces each tag on half of the responses and takes `log 0.5` for the old one, so that
  the ratio corrects for the forcing (https://arxiv.org/abs/2505.13417, eq. 8).

  Args:
    logprobs: `[N, T]`.
    tag_logprobs: `[N]` or a scalar.
  """
  return logprobs.at[:, 0].set(tag_logprobs)


def clipped_loss(
  ratio: Array,
  advantages: Array,
  *,
  clip_low: float,
  clip_high: float,
  dual_clip: float = 0.0,
) -> Array:
  """`-min(rho A, clip(rho, 1 - low, 1 + high) A)`, per token.

  Two ranges are DAPO's clip-higher (https://arxiv.org/abs/2503.14476, section 3.1).

  Args:
    ratio: `[N, T]`, see `importance_ratio`.
    advantages: `[N, T]`.
    clip_low: epsilon below 1.
    clip_high: epsilon above 1.
    dual_clip: above 1, bounds the loss of a negative advantage by `dual_clip * |A|`, where a ratio
      that exploded would have no bound (dual-clip PPO, https://arxiv.org/abs/1912.09729).
      0 for none.

  Raises:
    ValueError: `dual_clip` is not above 1 and not 0.
  """
  clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  surrogate = jnp.minimum(ratio * advantages, clipped * advantages)
  if dual_clip:
    if dual_clip <= 1:
      raise ValueError(f"dual_clip={dual_clip} must be above 1, or 0 for none.")
    bounded = jnp.maximum(surrogate, dual_clip * advantages)
    surrogate = jnp.where(advantages < 0, bounded, surrogate)
  return -surrogate


def cispo_loss(
  logprobs: Array, ratio: Array, advantages: Array, *, clip_low: float, clip_high: float
) -> Array:
  """`-stop_gradient(clip(rho, 1 - low, 1 + high)) A log pi`, per token.

  CISPO (https://arxiv.org/abs/2506.13585, eqs. 4, 5): no token loses its gradient, however far
  its ratio is. The authors leave the lower bound out (`clip_low` of 1).
  """
  weights = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  return -jax.lax.stop_gradient(weights) * advantages * logprobs


def kl_estimate(logprobs: Array, ref_logprobs: Array, *, estimator: str = "k3") -> Array:
  """Per-token estimates of `KL(pi || pi_ref)` (http://joschu.net/blog/kl-approx.html).

  All are of the divergence's value. As a term of the loss their gradients on sampled tokens differ,
  in expectation and with what came before each token held fixed: "k1" has none, "k2" has the
  gradient of `KL(pi || pi_ref)`, "k3" that of `KL(pi_ref || pi)`.

  Args:
    logprobs: `[N, T]`.
    ref_logprobs: `[N, T]`.
    estimator: with `x = log pi - log pi_ref`, "k1" is `x`, "k2" `x^2 / 2`, "k3" `exp(-x) + x - 1`.

  Raises:
    ValueError: `estimator` is unknown.
  """
  if estimator == "k1":
    return log_ratio(logprobs, ref_logprobs)
  if estimator == "k2":
    return jnp.square(log_ratio(logprobs, ref_logprobs)) / 2.0
  if estimator == "k3":
    return k3_divergence(logprobs, ref_logprobs)
  raise ValueError(f"kl_estimator={estimator!r} is none of {', '.join(KL_ESTIMATORS)}.")


def divergence_to_go(divergence: Array, mask: Array) -> Array:
  """A sequence's divergence from each token on, its own included, without a gradient: `[N, T]`.

  `beta` times it comes off the advantages where the KL penalty is a part of the reward. With "k1"
  that is an unbiased gradient of the divergence between whole sequences.
  """
  seen = jax.lax.stop_gradient(masked(divergence, mask))
  return jnp.flip(jnp.cumsum(jnp.flip(seen, axis=1), axis=1), axis=1)


def sampler_weights(
  logprobs: Array, sampler_logprobs: Array, mask: Array, *, level: str, cap: float
) -> Array:
  """Truncated importance weights from the sampler's probabilities to the trainer's, no gradient.

  Decoding and training compute the same probabilities in different ways; `min(pi / mu, cap)` as a
  factor on the loss corrects for it. The weight of whole sequences has no bias but for the cap; the
  weight of a token leaves out how likely the tokens before it were.

  Args:
    logprobs: `[N, T]` of the policy that sampled, computed by the trainer.
    sampler_logprobs: `[N, T]`, as the sampler computed them.
    mask: `[N, T]` bool.
    level: "token", or "sequence", the product over a sequence's tokens.
    cap: largest weight.

  Returns:
    `[N, T]`, at most `cap`.

  Raises:
    ValueError: `level` is unknown.
  """
  if level not in CORRECTIONS:
    raise ValueError(f"sampler_correction={level!r} is none of {', '.join(CORRECTIONS)}.")
  log_weights = log_ratio(logprobs, sampler_logprobs)
  if level == "sequence":
    summed = masked_sum(log_weights, mask, axis=1)[:, None]
    summed = jnp.clip(summed, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    log_weights = jnp.broadcast_to(summed, mask.shape)
  return jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_weights), cap))


def count_per_sequence(mask: Array, how: str, constant_length: int = 1) -> Array:
  """Divisor of an update's other tokens per sequence, for `separate_tag_weights`.

  Args:
    mask: `[N, T]` bool, of all sequences of the update.
    how: aggregation of the tokens behind the tag, see `losses.aggregation_weights`.
    constant_length: likewise.
  """
  _, count = aggregation_weights(_behind_tag(mask), how, constant_length)
  return count / jnp.maximum(jnp.sum(mask[:, 0]), 1)


def separate_tag_weights(
  mask: Array,
  how: str,
  *,
  tag_weight: float,
  per_sequence: Array | float,
  constant_length: int = 1,
) -> tuple[Array, Array]:
  """Weights for `tag_weight * mean over sequences (tag) + aggregate(other tokens)`.

  With `how="token_mean"` and a weight of 0.001 this is DeGRPO's decoupled loss (Thinkless,
  https://arxiv.org/abs/2505.13379, its authors' code): neither the number of tokens that follow a
  tag nor their aggregation changes what the tag's term weighs. Sums and counts may be added over
  parts of an update.

  Args:
    mask: `[N, T]` bool; a sequence that shows any token shows its first.
    how: aggregation of the other tokens, see `losses.aggregation_weights`.
    tag_weight: weight of the tag's term.
    per_sequence: `count_per_sequence` of the whole update.
    constant_length: see `losses.aggregation_weights`.

  Returns:
    Weights `[N, T]` and a scalar count, as `losses.aggregation_weights`.
  """
  weights, count = aggregation_weights(_behind_tag(mask), how, constant_length)
  is_tag = jnp.arange(mask.shape[1]) == 0
  return jnp.where(is_tag & mask, tag_weight * per_sequence, weights), count


def _behind_tag(mask: Array) -> Array:
  return mask & (jnp.arange(mask.shape[1]) > 0)

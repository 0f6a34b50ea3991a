"""Losses and divergences over tokens, and how they are weighed. Pure functions on arrays.

`N` denotes sequences and `T` response tokens. Masks are bool and derive from lengths. Each loss is
a `SumCount`, divided once after all blocks of rows and devices.
"""

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.objectives.masked import SumCount, masked_sum_count

AGGREGATIONS = ("sequence_sum", "token_mean", "sequence_mean", "constant_length")

# exp() of a larger log-ratio would overflow or drown every other token; such a ratio is clipped by
# any sensible epsilon anyway.
MAX_LOG_RATIO = 20.0


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
    gamma: discount of the body term as a reward at the last token (0.99 in HGPO's paper).
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

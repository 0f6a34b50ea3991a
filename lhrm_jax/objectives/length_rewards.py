"""Rewards that depend on the length of a response, in tokens."""

import jax.numpy as jnp
from jax import Array


def overlong_penalty(lengths: Array, *, max_length: int, buffer: int) -> Array:
  """Soft overlong punishment, from 0 to -1 (https://arxiv.org/abs/2503.14476, eq. 13).

  Args:
    lengths: response tokens, any shape.
    max_length: tokens at which the penalty reaches -1.
    buffer: tokens before `max_length` over which it grows linearly.

  Raises:
    ValueError: `buffer` is not within 1 and `max_length`.
  """
  if not 0 < buffer <= max_length:
    raise ValueError(f"overlong_buffer={buffer} must be from 1 to max_length={max_length}.")
  return jnp.clip((max_length - buffer - lengths) / buffer, -1.0, 0.0)


def exact_length_reward(
  scores: Array, lengths: Array, *, target_length: float, length_weight: float
) -> Array:
  """`r - w |n - L|`, LCPO-Exact (https://arxiv.org/abs/2503.04697, eq. 1), for target `n`."""
  return scores - length_weight * jnp.abs(target_length - lengths)


def max_length_reward(
  scores: Array, lengths: Array, *, target_length: float, length_weight: float
) -> Array:
  """`r (clip(w (n - L), -1, 1) + 1) / 2`, LCPO-Max as its authors' code has it, with `w = 1/500`.

  The paper prints `r clip(w (n - L) + 0.5, 0, 1)` (https://arxiv.org/abs/2503.04697, eq. 2), the
  same with half the weight, and gives `w` as 0.0003.
  """
  return scores * (jnp.clip(length_weight * (target_length - lengths), -1.0, 1.0) + 1.0) / 2.0


def relative_length_reward(
  right: Array, lengths: Array, *, axis: int | tuple[int, ...], strength: float
) -> Array:
  """What a right response gains by being short and a wrong one by being long.

  AutoThink's third stage (https://arxiv.org/abs/2505.10832, its authors' code): with `z` the
  length's z-score among the group's right responses, or among its wrong ones, `exp(-s z) - 1` for
  a right response and `1 - exp(-s z)` for a wrong one. The deviation is the sample's.

  Args:
    right: bool, which responses are right.
    lengths: shaped like `right`, response tokens.
    axis: the axes that make up a group.
    strength: `s`; 0 gives 0.

  Returns:
    float32 shaped like `right`; 0 where a response has no company or all are as long.
  """
  lengths = jnp.asarray(lengths, jnp.float32)
  gain = jnp.zeros(lengths.shape, jnp.float32)
  for members, sign in ((right, 1.0), (~right, -1.0)):
    count = jnp.sum(members, axis=axis, keepdims=True)
    mean = jnp.sum(jnp.where(members, lengths, 0.0), axis=axis, keepdims=True)
    centred = jnp.where(members, lengths - mean / jnp.maximum(count, 1), 0.0)
    squares = jnp.sum(jnp.square(centred), axis=axis, keepdims=True)
    std = jnp.sqrt(squares / jnp.maximum(count - 1, 1))
    # Rounding in the mean of equal lengths is no spread; lengths are whole numbers.
    z = centred / jnp.where(std > 1e-3, std, jnp.inf)
    gain += jnp.where(members, sign * jnp.expm1(-strength * z), 0.0)
  return gain

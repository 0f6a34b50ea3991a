"""Masked reductions, and sums that are divided once, at the end.

Every loss of this project is a `SumCount`: blocks of rows and devices add theirs, and the division
happens once, so that the result does not depend on how a batch was cut. What a mask hides may hold
anything, NaN included.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SumCount:
  """A sum, and the count (or total weight) it will be divided by; both float32 scalars."""

  total: Array
  count: Array

  def __add__(self, other: "SumCount") -> "SumCount":
    return SumCount(self.total + other.total, self.count + other.count)

  def mean(self) -> Array:
    """`total / count`; 0 where nothing was counted."""
    empty = self.count == 0
    return jnp.where(empty, 0.0, self.total / jnp.where(empty, 1.0, self.count))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Maximum:
  """A largest value, at least 0; adding two keeps the larger. The companion of `SumCount`."""

  value: Array

  def __add__(self, other: "Maximum") -> "Maximum":
    return Maximum(jnp.maximum(self.value, other.value))

  def mean(self) -> Array:
    """The value: what a metric of this kind reports."""
    return self.value


def masked(x: Array, mask: Array) -> Array:
  """`x` where `mask` holds, 0 elsewhere; gradients and values of the rest never pass."""
  return jnp.where(mask, x, jnp.zeros_like(x))


def masked_sum(x: Array, mask: Array, axis: int | tuple[int, ...] | None = None) -> Array:
  """Sum of the `x` that `mask` (broadcastable, bool) shows."""
  return jnp.sum(masked(x, jnp.broadcast_to(mask, x.shape)), axis=axis)


def masked_sum_count(x: Array, mask: Array, weights: Array | float = 1.0) -> SumCount:
  """Weighted sum of the visible `x` and the weights' own sum.

  Args:
    x: any shape.
    mask: bool, broadcastable to `x`.
    weights: broadcastable to `x`, at least 0.
  """
  weights = masked(jnp.broadcast_to(jnp.asarray(weights, jnp.float32), x.shape),
                   jnp.broadcast_to(mask, x.shape))  # fmt: skip
  # Masked before the product: 0 * NaN is NaN, in the value and in the gradient.
  return SumCount(jnp.sum(masked(x, weights > 0) * weights), jnp.sum(weights))


def group_normalise(x: Array, axis: int | tuple[int, ...], *, ddof: int = 0) -> Array:
  """Standardises `x` over `axis`; groups without spread give 0.

  GRPO's baseline and scale (https://arxiv.org/abs/2402.03300, section 4.1.2).

  Args:
    x: `[..., n, ...]` scores.
    axis: the axes that make up one group.
    ddof: 0 for the population's deviation, 1 for the sample's.

  Returns:
    Array shaped like `x`, mean 0 over each group.
  """
  centred = x - jnp.mean(x, axis=axis, keepdims=True)
  # Spread is read off the extremes: rounding in the mean must not turn equal scores into noise.
  flat = jnp.max(x, axis=axis, keepdims=True) == jnp.min(x, axis=axis, keepdims=True)
  std = jnp.std(x, axis=axis, keepdims=True, ddof=ddof)
  return jnp.where(flat, 0.0, centred / jnp.where(flat, 1.0, std))


def leave_one_out(x: Array, axis: int | tuple[int, ...]) -> Array:
  """`x` less the mean of the others of its group: RLOO, section 2.3 of
  https://arxiv.org/abs/2402.14740.

  Groups of one give 0.
  """
  axes = (axis,) if isinstance(axis, int) else axis
  n = 1
  for a in axes:
    n *= x.shape[a]
  centred = x - jnp.mean(x, axis=axes, keepdims=True)
  return centred * (n / max(n - 1, 1))


def whiten(x: Array, mask: Array) -> Array:
  """Standardises the visible `x` over all of its axes; 0 behind the mask or without a spread.

  REINFORCE++'s global normalisation (https://arxiv.org/abs/2501.03262).

  Args:
    x: any shape.
    mask: bool, broadcastable to `x`.
  """
  mask = jnp.broadcast_to(mask, x.shape)
  centred = x - masked_sum_count(x, mask).mean()
  std = jnp.sqrt(masked_sum_count(jnp.square(centred), mask).mean())
  flat = jnp.max(x, initial=-jnp.inf, where=mask) <= jnp.min(x, initial=jnp.inf, where=mask)
  return masked(centred / jnp.where(flat, 1.0, std), mask & ~flat)

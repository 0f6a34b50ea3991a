"""Weights as int8 with a scale per output channel, for serving.

The product runs on the integer units of CPUs, GPUs and TPUs, and is summed in int32, exactly. For
that the rows that a weight multiplies become two int8 digits, each row by a scale of its own: one
digit would lose ten times what the rounded weights lose. So a row's result depends on no other row.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

_MOST = 127.0
_DIGIT = 2 * _MOST  # of the low digit, in one of the high: that one is off by a half at most
_LEAST_ROWS = 8  # fewer rows leave XLA's integer products on a CPU without vector instructions
_TABLES = ("embedding", "head")


def rounded(x: Array, axis: int | tuple[int, ...]) -> tuple[Array, Array]:
  """`x` as int8, and the float32 scales (with `axis` kept) that it has to be multiplied by."""
  x = x.astype(jnp.float32)
  largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
  scales = jnp.where(largest > 0, largest / _MOST, 1.0)
  return jnp.round(x / scales).astype(jnp.int8), scales


def quantised(params: dict[str, Any]) -> dict[str, Any]:
  """Parameters of `policy.init` with kernels and tables as int8.

  Each quantised `NAME` has its scales beside it as `NAME_scale`: of a kernel, shaped like its
  output; of a table, one per token. Norms and biases stay as they are.
  """

  def within(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    made = {}
    for name, leaf in tree.items():
      if isinstance(leaf, dict):
        made[name] = within(leaf, (*path, name))
      elif name == "kernel" or name in _TABLES:
        made[name], scales = rounded(leaf, _summed(name, path, leaf.ndim))
        made[f"{name}_scale"] = jnp.squeeze(scales, _summed(name, path, leaf.ndim))
      else:
        made[name] = leaf
    return made

  return within(params, ())


def _summed(name: str, path: tuple[str, ...], ndim: int) -> tuple[int, ...]:
  """Axes of a weight that a product sums over."""
  if name in _TABLES:
    return (ndim - 1,)
  first = int("layers" in path)  # stacked layers have an axis of their own
  return tuple(range(first, first + (2 if path[-1] == "o" else 1)))


def product(x: Array, weight: Array, scales: Array, *, transposed: bool = False) -> Array:
  """`x [N, K]` times a quantised weight.

  Args:
    x: `[N, K]` in any float dtype.
    weight: `[K, M]` int8, or `[M, K]` where `transposed`.
    scales: `[M]` float32.
    transposed: see `weight`.

  Returns:
    `[N, M]` float32.
  """
  high, unit = rounded(x, -1)
  low = jnp.round((x.astype(jnp.float32) - high * unit) / (unit / _DIGIT)).astype(jnp.int8)
  n = len(x)
  rows = jnp.pad(jnp.concatenate([high, low]), ((0, max(0, _LEAST_ROWS - 2 * n)), (0, 0)))
  axes = (((1,), (int(transposed),)), ((), ()))
  total = jax.lax.dot_general(rows, weight, axes, preferred_element_type=jnp.int32)
  total = total.astype(jnp.float32)
  return (total[:n] + total[n : 2 * n] / _DIGIT) * unit * scales

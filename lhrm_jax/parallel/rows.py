"""Indexing and reshaping of sharded rows that never leaves a shard.

Indexing a sharded axis with arbitrary indices makes XLA gather the whole axis on every device. Here
each part of a batch indexes its own rows only.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.parallel.mesh import LOGICAL_RULES, constrain


def batch_parts(rows: int) -> int:
  """Number of parts the mesh in force splits a batch of `rows` into; 1 if they do not divide."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = [axis for axis in LOGICAL_RULES["batch"] if axis not in mesh.manual_axes]
  parts = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in axes)
  return parts if rows % parts == 0 else 1


def take_rows(x: Array, rows: Array, axis: int = 0) -> Array:
  """Takes rows of `x`, each part from its own.

  Args:
    x: `[..., N, ...]`, the parts one after the other.
    rows: `[P, R]` int32, numbered within each part of `N / P`.
    axis: row axis of `x`.

  Returns:
    `[..., P * R, ...]`.
  """
  axis %= x.ndim
  before, after = x.shape[:axis], x.shape[axis + 1 :]
  by_part = x.reshape(*before, rows.shape[0], -1, *after)
  taken = jax.vmap(lambda part, i: jnp.take(part, i, axis, mode="clip"), (axis, 0), axis)(
    by_part, rows
  )
  taken = taken.reshape(*before, rows.size, *after)
  return constrain(taken, (None,) * axis + ("batch",) + (None,) * len(after))


def stack_rows(x: Array, count: int, parts: int) -> Array:
  """Reshapes `[N, ...]` to `[count, N / count, ...]`; each takes an equal share of every part."""
  rest = x.shape[1:]
  by_part = x.reshape(parts, count, -1, *rest).swapaxes(0, 1)
  return constrain(by_part.reshape(count, -1, *rest), (None, "batch") + (None,) * len(rest))

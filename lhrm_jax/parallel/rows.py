"""Rows of a batch that is cut into parts: what can be looked up and cut up without leaving a part.

Indexing a sharded axis with arbitrary numbers makes XLA gather the whole of it on every device.
Where each part only ever asks for its own rows, these say so.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.parallel.mesh import LOGICAL_RULES, constrain


def batch_parts(rows: int) -> int:
  """Parts that the mesh in force cuts a batch of `rows` into; 1 where they do not divide."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = [axis for axis in LOGICAL_RULES["batch"] if axis not in mesh.manual_axes]
  parts = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in axes)
  return parts if rows % parts == 0 else 1


def take_rows(x: Array, rows: Array, axis: int = 0) -> Array:
  """Rows of `x`, each part's from the part itself.

  Args:
    x: `[..., N, ...]`, the parts one after the other.
    rows: `[P, R]` int32, numbered within each part of `N / P`.
    axis: of `x`, its rows'.

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
  """`[N, ...]` to `[count, N / count, ...]`, every part giving an equal share to each."""
  rest = x.shape[1:]
  by_part = x.reshape(parts, count, -1, *rest).swapaxes(0, 1)
  return constrain(by_part.reshape(count, -1, *rest), (None, "batch") + (None,) * len(rest))

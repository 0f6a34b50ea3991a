"""Parts that the mesh in force splits rows into."""

import math

import jax

from lhrm_jax.parallel.mesh import LOGICAL_RULES


def batch_parts(rows: int) -> int:
  """Number of parts the mesh in force splits a batch of `rows` into; 1 if they do not divide."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = [axis for axis in LOGICAL_RULES["batch"] if axis not in mesh.manual_axes]
  parts = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in axes)
  return parts if rows % parts == 0 else 1

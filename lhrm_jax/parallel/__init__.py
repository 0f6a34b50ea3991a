"""Mesh, logical axes and shardings."""

from lhrm_jax.parallel.mesh import (
  LOGICAL_RULES,
  MESH_AXES,
  batch_sharding,
  make_mesh,
  param_shardings,
  partition_spec,
  replicated,
)

__all__ = [
  "LOGICAL_RULES",
  "MESH_AXES",
  "batch_sharding",
  "make_mesh",
  "param_shardings",
  "partition_spec",
  "replicated",
]

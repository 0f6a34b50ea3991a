"""Mesh, logical axes and shardings; many hosts as one job."""

from lhrm_jax.parallel.mesh import (
  LOGICAL_RULES,
  MESH_AXES,
  MeshConfig,
  batch_sharding,
  constrain,
  laid_out_like,
  make_mesh,
  over,
  param_shardings,
  partition_spec,
  replicated,
  spec_in_force,
  with_shardings,
)
from lhrm_jax.parallel.multihost import (
  gather_objects,
  gather_rows,
  global_batch,
  initialize,
  is_writer,
  leave,
  local_rows,
  shard_rows,
  wait_for_all,
)
from lhrm_jax.parallel.platforms import skip_absent_tpu
from lhrm_jax.parallel.rows import batch_parts, stack_rows, take_rows
from lhrm_jax.parallel.sampling_layout import SamplingLayout, SamplingMeshConfig

__all__ = [
  "LOGICAL_RULES",
  "MESH_AXES",
  "MeshConfig",
  "SamplingLayout",
  "SamplingMeshConfig",
  "batch_parts",
  "batch_sharding",
  "constrain",
  "gather_objects",
  "gather_rows",
  "global_batch",
  "initialize",
  "is_writer",
  "laid_out_like",
  "leave",
  "local_rows",
  "make_mesh",
  "over",
  "param_shardings",
  "partition_spec",
  "replicated",
  "shard_rows",
  "skip_absent_tpu",
  "spec_in_force",
  "stack_rows",
  "take_rows",
  "wait_for_all",
  "with_shardings",
]

"""Mesh, logical axes and shardings; many hosts as one job."""

from lhrm_jax.parallel.mesh import (
  LOGICAL_RULES,
  MESH_AXES,
  batch_sharding,
  constrain,
  make_mesh,
  over,
  param_shardings,
  partition_spec,
  replicated,
)
from lhrm_jax.parallel.multihost import (
  from_first_process,
  gather_rows,
  global_batch,
  initialize,
  is_writer,
  leave,
  local_rows,
  wait_for_all,
)
from lhrm_jax.parallel.sampling_layout import SamplingLayout

__all__ = [
  "LOGICAL_RULES",
  "MESH_AXES",
  "SamplingLayout",
  "batch_sharding",
  "constrain",
  "from_first_process",
  "gather_rows",
  "global_batch",
  "initialize",
  "is_writer",
  "leave",
  "local_rows",
  "make_mesh",
  "over",
  "param_shardings",
  "partition_spec",
  "replicated",
  "wait_for_all",
]

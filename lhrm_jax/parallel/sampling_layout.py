"""Layout of sampling: every host by itself, with a whole copy of the weights.

An update may split every matrix over all hosts. Decoding reads all weights for every token, so its
copy is laid out once per step: each host has all of it and decodes its own prompts alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from lhrm_jax.config import MOST_ROWS, knob, whole
from lhrm_jax.parallel.mesh import MESH_AXES, make_mesh, partition_spec


@dataclasses.dataclass(frozen=True)
class SamplingMeshConfig:
  """Knobs of sampling: every host samples by itself, from whole copies of the weights."""

  tensor: int = knob(1, whole(1, MOST_ROWS), "Devices of a host per copy of the weights.")


@dataclasses.dataclass(frozen=True)
class SamplingLayout:
  """Meshes of the hosts.

  Attributes:
    mesh: over this process's devices: `tensor` of them share one copy of the weights, and the
      copies split the batch (`data`).
    pod: the same over all processes, with a leading axis `host`.
  """

  mesh: Mesh
  pod: Mesh

  @classmethod
  def make(cls, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> "SamplingLayout":
    """The layout of this job.

    Args:
      tensor: devices that share one copy of the weights.
      devices: of the job; all by default.

    Raises:
      ValueError: it does not divide a host's devices.
    """
    by_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices() if devices is None else devices:
      by_process.setdefault(device.process_index, []).append(device)
    try:
      hosts = {i: make_mesh(-1, 1, tensor, devices=of) for i, of in sorted(by_process.items())}
    except ValueError as error:
      raise ValueError(
        f"sampling_mesh.tensor={tensor} does not divide a host's {jax.local_device_count()} "
        "devices: every host samples by itself, with whole copies of the weights."
      ) from error
    stacked = np.stack([mesh.devices for mesh in hosts.values()])
    pod = Mesh(stacked, ("host", *MESH_AXES), (AxisType.Auto,) * stacked.ndim)
    return cls(hosts[jax.process_index()], pod)

  def place(self, params: Any, logical_axes: Any) -> Any:
    """This host's copy of `params`, on `mesh`.

    Args:
      params: parameters, in any sharding over the job's devices.
      logical_axes: logical axis names of every leaf (`policy.logical_axes`).
    """

    def place(axes: tuple[str | None, ...], x: jax.Array) -> jax.Array:
      spec = partition_spec(axes)
      x = jax.device_put(x, NamedSharding(self.pod, spec))
      shards = [shard.data for shard in x.addressable_shards]
      return jax.make_array_from_single_device_arrays(
        x.shape, NamedSharding(self.mesh, spec), shards
      )

    return jax.tree.map(place, logical_axes, params, is_leaf=lambda leaf: isinstance(leaf, tuple))

"""The device mesh and the one table from logical axis names to mesh axes."""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lhrm_jax.config import MESH_SIZE, knob

MESH_AXES = ("data", "fsdp", "tensor")

# Which mesh axes an array axis is split over. Names not listed are not split.
LOGICAL_RULES: dict[str, tuple[str, ...]] = {
  "batch": ("data", "fsdp"),
  "row_groups": ("data",),  # rows of a batch whose width is split over fsdp
  "embed": ("fsdp",),
  "vocab": ("tensor",),
  "heads": ("tensor",),
  "kv_heads": ("tensor",),
  "mlp": ("tensor",),
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Knobs of the update's mesh; one size may be -1, the remaining devices."""

  data: int = knob(-1, MESH_SIZE, "Devices that the batch is sharded over, with whole weights.")
  fsdp: int = knob(1, MESH_SIZE, "Devices that the batch and the weights are sharded over.")
  tensor: int = knob(1, MESH_SIZE, "Devices that each matrix product is split over.")


def make_mesh(
  data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A mesh over all devices with axes `data`, `fsdp`, `tensor`; one size may be -1, "the rest".

  Axes are of type Auto: XLA's partitioner places what we do not (`jax.make_mesh` would default to
  Explicit). Over several TPU slices, the outer part of `data` goes across them.

  Raises:
    ValueError: the sizes do not multiply to the number of devices, or `data` not to the slices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = [data, fsdp, tensor]
  text = ", ".join(f"{a}={s}" for a, s in zip(MESH_AXES, sizes, strict=True))
  if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
    raise ValueError(f"mesh: {text}: sizes are positive, and at most one is -1 (the rest).")
  known = int(np.prod([size for size in sizes if size != -1]))
  if -1 in sizes:
    sizes[sizes.index(-1)] = len(devices) // known
  if int(np.prod(sizes)) != len(devices):
    raise ValueError(
      f"mesh: {text} does not divide over {len(devices)} devices; choose sizes whose product is "
      f"{len(devices)}, or set one of them to -1."
    )
  types = (AxisType.Auto,) * len(MESH_AXES)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices == 1:
    # Lets a mesh axis take part of a torus axis, as 16 x 4 on 8x8 needs: some neighbours are then
    # two hops apart. Whole axes are preferred.
    laid_out = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(laid_out, MESH_AXES, axis_types=types)
  if sizes[0] % slices:
    raise ValueError(
      f"mesh: data={sizes[0]} is not a multiple of the {slices} slices: they communicate over the "
      "data-centre network, which only the data axis may cross."
    )
  within, across = (sizes[0] // slices, *sizes[1:]), (slices, 1, 1)
  laid_out = mesh_utils.create_hybrid_device_mesh(
    within, across, devices, allow_split_physical_axes=True
  )
  return Mesh(laid_out, MESH_AXES, axis_types=types)


def partition_spec(axes: Sequence[str | None]) -> PartitionSpec:
  """The mesh axes of an array whose axes have these logical names."""
  taken: set[str] = set()
  entries: list[tuple[str, ...] | None] = []
  for name in axes:
    # An array axis gives way when an earlier one already took its mesh axis.
    mesh_axes = tuple(a for a in LOGICAL_RULES.get(name, ()) if a not in taken)
    taken.update(mesh_axes)
    entries.append(mesh_axes or None)
  return PartitionSpec(*entries)


def param_shardings(mesh: Mesh, logical_axes: Any) -> Any:
  """`NamedSharding` for every leaf of a tree of logical axis names (`policy.logical_axes`)."""
  return jax.tree.map(
    lambda axes: NamedSharding(mesh, partition_spec(axes)),
    logical_axes,
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )


def mesh_of(tree: Any) -> Mesh:
  """The mesh of the arrays in `tree`; of one device where they have none."""
  sharding = jax.tree.leaves(tree)[0].sharding
  if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
    return sharding.mesh
  return make_mesh(1, 1, 1, sorted(sharding.device_set, key=lambda d: d.id)[:1])


def parts_of(mesh: Mesh) -> int:
  """Number of parts that a mesh splits a batch into."""
  return math.prod(mesh.shape[axis] for axis in LOGICAL_RULES["batch"])


def is_copied(mesh: Mesh) -> bool:
  """Whether a mesh has several devices, each of which holds all parameters."""
  return 1 < mesh.size == mesh.shape["data"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Sharding of arrays whose leading axis is the batch."""
  return NamedSharding(mesh, partition_spec(("batch",)))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over(mesh: Mesh) -> contextlib.AbstractContextManager:
  """Context in which `constrain` lays traced code out over `mesh`; for use inside jit."""
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def laid_out_like(tree: Any) -> contextlib.AbstractContextManager:
  """Context in which jitted functions are laid out over the mesh of the arrays in `tree`.

  For functions that serve any mesh, such as the sampler; `over` serves those built for one.
  """
  sharding = jax.tree.leaves(tree)[0].sharding
  if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
    return contextlib.nullcontext()
  return jax.set_mesh(sharding.mesh)


def constrain(x: Array, axes: Sequence[str | None]) -> Array:
  """Lays `x` out by the logical names of its axes, on the mesh in force (`over`, `jax.set_mesh`).

  XLA's partitioner would otherwise sometimes keep weights where they are and move the activations,
  or hold a cache whole on every device. An axis whose size a mesh axis does not divide stays whole;
  without a mesh in force `x` is returned unchanged. Axes already split by `jax.shard_map` are
  ignored.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  spec = spec_in_force(axes, x.shape)
  if mesh.manual_axes and not any(spec):
    return x
  return jax.lax.with_sharding_constraint(x, spec)


def spec_in_force(axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
  """The mesh axes that `constrain` gives an array of this shape, on the mesh in force."""
  mesh = jax.sharding.get_abstract_mesh()

  def fitting(names: Any, size: int) -> tuple[str, ...] | None:
    names = (names,) if isinstance(names, str) else names or ()
    names = tuple(name for name in names if name not in mesh.manual_axes)
    return names if size % math.prod(mesh.shape[name] for name in names) == 0 else None

  return PartitionSpec(*(fitting(*pair) for pair in zip(partition_spec(axes), shape, strict=True)))


def with_shardings(shapes: Any, shardings: Any) -> Any:
  """A tree of `jax.ShapeDtypeStruct`s with the shardings of a second tree."""
  return jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
  )

"""Keys and values that later tokens attend to: an explicit argument and result of the policy.

A `KVCache` holds one block of slots for a number of rows. The rows may be fewer than those that
attend to them: `B` cached prompts serve `N = B * R` responses, so that a prompt is stored once
however many responses it gets.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.policy.config import PolicyConfig

# A stacked array [L, rows, ...] under scanned layers, one [rows, ...] per layer otherwise.
PerLayer = Array | tuple[Array, ...]
_SLOT_AXIS, _ROW_AXIS = -2, -4  # the same in both layouts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Readers:
  """Token rows that attend to each cached row, where they are not consecutive.

  Attributes:
    rows: `[cached rows, R]` int32 token rows that read each cached row; unused entries may name any
      row.
    places: `[N]` int32 index of each token row in `rows`, flattened.
  """

  rows: Array
  places: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
  """One block of cached keys and values.

  Attributes:
    keys: rotated keys, `[rows, K, S, D]` per layer, or `[rows, K, D, S]` (see `slots_last`). Heads
      come before slots, the order in which attention multiplies them, so that no step has to
      transpose the cache.
    values: `[rows, K, S, D]` per layer.
    lengths: `[rows]` int32. Slots at and beyond a row's length are never attended to.
    visible: `[rows, S]` bool, the slots that are attended to, where they are not the first ones;
      lengths then say nothing.
    readers: token rows that attend to each row; `None` means `N / rows` consecutive ones.
    slots_last: whether keys are `[rows, K, D, S]`, the layout that decoding reads fastest: one
      query against many slots is a sum over `D` of vectors over `S`.
  """

  keys: PerLayer
  values: PerLayer
  lengths: Array
  visible: Array | None = None
  readers: Readers | None = None
  slots_last: bool = dataclasses.field(default=False, metadata={"static": True})

  @property
  def rows(self) -> int:
    return self.lengths.shape[0]

  @property
  def slots(self) -> int:
    return jax.tree.leaves(self.values)[0].shape[_SLOT_AXIS]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
  """One layer of a `KVCache`, or all layers stacked `[L, ...]` for a scan."""

  keys: Array
  values: Array
  slots_last: bool = dataclasses.field(metadata={"static": True})

  def keys_by_slot(self) -> Array:
    """Keys `[rows, K, S, D]` from either layout; XLA fuses the transposition into the read."""
    return self.keys.swapaxes(-1, -2) if self.slots_last else self.keys


def empty(config: PolicyConfig, rows: int, slots: int) -> KVCache:
  """An empty cache for decoding: `slots` slots for each of `rows` rows, the last axis of keys."""
  k, d = config.num_kv_heads, config.head_dim
  dtype = jnp.dtype(config.dtype)

  def zeros(*shape: int) -> PerLayer:
    if config.scan_layers:
      return jnp.zeros((config.num_layers, *shape), dtype)
    return tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))

  lengths = jnp.zeros((rows,), jnp.int32)
  return KVCache(zeros(rows, k, d, slots), zeros(rows, k, slots, d), lengths, slots_last=True)


def append(
  cache: KVCache, block: KVCache, at: Array | int, wanted: Array | None = None
) -> KVCache:  # fmt: skip
  """Writes `block` into slots `at, at + 1, ...` of every row, in place where XLA can.

  Lengths become `at` plus the block's own: all rows of a cache grow together. Where the scalar
  `wanted` is false, the slots keep what they hold; `None` writes in any case.
  """

  def write(buffer: Array, new: Array, axis: int = _SLOT_AXIS) -> Array:
    if wanted is not None:
      old = jax.lax.dynamic_slice_in_dim(buffer, at, new.shape[axis], axis)
      new = jnp.where(wanted, new, old)
    return jax.lax.dynamic_update_slice_in_dim(buffer, new, at, axis)

  def write_keys(buffer: Array, new: Array) -> Array:
    return write(buffer, new.swapaxes(-1, -2), -1) if cache.slots_last else write(buffer, new)

  return dataclasses.replace(
    cache,
    keys=jax.tree.map(write_keys, cache.keys, block.keys),
    values=jax.tree.map(write, cache.values, block.values),
    lengths=at + block.lengths,
  )


def pack(blocks: Sequence[KVCache], rows: Array, count: Array) -> KVCache:
  """Packs the first `count` of `rows`, over consecutive blocks of slots, into one block.

  Copies row by row, in place: one gather of all rows would hold the cache twice more.

  Args:
    blocks: blocks of the same rows, full except at the end.
    rows: `[R]` int32 rows to take.
    count: int32 scalar, number of rows to take; the others are left empty.
  """

  def put(i: Array, packed: Array, *buffers: Array, axis: int) -> Array:
    at = [0] * packed.ndim
    at[_ROW_AXIS] = i
    for buffer in buffers:
      row = jax.lax.dynamic_slice_in_dim(buffer, rows[i], 1, _ROW_AXIS)
      packed = jax.lax.dynamic_update_slice(packed, row, at)
      at[axis] += buffer.shape[axis]
    return packed

  first = blocks[0]
  keys_axis = -1 if first.slots_last else _SLOT_AXIS

  def put_all(i: Array, packed: tuple[PerLayer, PerLayer]) -> tuple[PerLayer, PerLayer]:
    keys, values = packed
    return (
      jax.tree.map(functools.partial(put, i, axis=keys_axis), keys, *(b.keys for b in blocks)),
      jax.tree.map(functools.partial(put, i, axis=_SLOT_AXIS), values, *(b.values for b in blocks)),
    )

  def room(*buffers: Array, axis: int) -> Array:
    shape = list(buffers[0].shape)
    shape[_ROW_AXIS], shape[axis] = len(rows), sum(buffer.shape[axis] for buffer in buffers)
    return jnp.zeros(shape, buffers[0].dtype)

  keys = jax.tree.map(functools.partial(room, axis=keys_axis), *(b.keys for b in blocks))
  values = jax.tree.map(functools.partial(room, axis=_SLOT_AXIS), *(b.values for b in blocks))
  keys, values = jax.lax.fori_loop(0, jnp.minimum(count, len(rows)), put_all, (keys, values))
  lengths = sum(block.lengths for block in blocks)[rows]
  return dataclasses.replace(first, keys=keys, values=values, lengths=lengths)

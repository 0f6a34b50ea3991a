"""Keys and values that later tokens attend to: an explicit argument and result of the policy.

A `KVCache` holds one block of slots for a number of rows. The rows may be fewer than those that
attend to them: `B` cached prompts serve `N = B * R` responses, `R` consecutive rows each, so that a
prompt is stored once however many responses it gets.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.policy.config import PolicyConfig

# A stacked array [L, rows, K, S, D] under scanned layers, one [rows, K, S, D] per layer otherwise.
PerLayer = Array | tuple[Array, ...]
_SLOT_AXIS, _ROW_AXIS = -2, -4  # the same in both layouts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
  """One block of cached keys and values.

  Attributes:
    keys: rotated keys, `[rows, K, S, D]` per layer. Heads stand before slots, the order in which
      attention multiplies them, so that no step copies the cache to transpose it.
    values: like `keys`.
    lengths: `[rows]` int32. Slots at and beyond a row's length are never attended to.
  """

  keys: PerLayer
  values: PerLayer
  lengths: Array

  @property
  def rows(self) -> int:
    return self.lengths.shape[0]


def empty(config: PolicyConfig, rows: int, slots: int) -> KVCache:
  """A cache of `slots` free slots for each of `rows` rows."""
  shape = (rows, config.num_kv_heads, slots, config.head_dim)
  dtype = jnp.dtype(config.dtype)

  def zeros() -> PerLayer:
    if config.scan_layers:
      return jnp.zeros((config.num_layers, *shape), dtype)
    return tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))

  return KVCache(zeros(), zeros(), jnp.zeros((rows,), jnp.int32))


def append(cache: KVCache, block: KVCache, at: Array | int) -> KVCache:
  """Writes `block` into slots `at, at + 1, ...` of every row, in place where XLA may.

  Lengths become `at` plus the block's own: rows of a cache grow in step.
  """

  def write(buffer: Array, new: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(buffer, new, at, axis=_SLOT_AXIS)

  return KVCache(
    jax.tree.map(write, cache.keys, block.keys),
    jax.tree.map(write, cache.values, block.values),
    at + block.lengths,
  )


def take(cache: KVCache, rows: Array) -> KVCache:
  """A cache of the given `rows [R]` of this one, in that order; a row may be taken many times."""

  def gather(buffer: Array) -> Array:
    return jnp.take(buffer, rows, axis=_ROW_AXIS, mode="clip")

  return KVCache(
    jax.tree.map(gather, cache.keys), jax.tree.map(gather, cache.values), cache.lengths[rows]
  )

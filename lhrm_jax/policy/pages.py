"""Keys and values in pages of equally many tokens: one pool of memory that many sequences share.

A sequence's cache is a list of pages, wherever they lie in the pool. So memory is taken page by
page as a sequence grows, and sequences that begin alike share the pages of their common beginning.
Page 0 holds nothing: it is written by rows without a sequence, and read where a mask hides it.

`K` denotes key heads, `C` tokens per page, `D` the width of a head.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.policy.cache import KVCache, PerLayer
from lhrm_jax.policy.config import PolicyConfig

NOWHERE = 0  # the page that holds nothing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PagePool:
  """Pages of keys and values, of all layers.

  Attributes:
    keys: rotated keys, `[pages * K, C, D]` per layer: the heads of a page lie side by side, so that
      a gather of whole heads needs no transposition.
    values: like `keys`.
  """

  keys: PerLayer
  values: PerLayer


def empty(config: PolicyConfig, pages: int, tokens: int) -> PagePool:
  """A pool of `pages` pages of `tokens` tokens, `NOWHERE` among them."""
  shape = (pages * config.num_kv_heads, tokens, config.head_dim)

  def zeros() -> PerLayer:
    if config.scan_layers:
      return jnp.zeros((config.num_layers, *shape), config.dtype)
    return tuple(jnp.zeros(shape, config.dtype) for _ in range(config.num_layers))

  return PagePool(zeros(), zeros())


def page_bytes(config: PolicyConfig, tokens: int) -> int:
  """Memory of one page with its keys and values in all layers."""
  numbers = 2 * config.num_layers * config.num_kv_heads * tokens * config.head_dim
  return numbers * jnp.dtype(config.dtype).itemsize


def gather(config: PolicyConfig, pool: PagePool, pages: Array, lengths: Array) -> KVCache:
  """The cache of `N` sequences as `policy.apply` reads it.

  Args:
    config: static part of the policy.
    pool: the pool.
    pages: `[N, n]` int32, consecutive pages of each sequence.
    lengths: `[N]` int32, tokens of these pages that count.
  """
  heads = _heads(config, pages[:, None, :], axis=1)  # [N, K, n]

  def read(buffer: Array) -> Array:
    taken = buffer[..., heads, :, :]  # [..., N, K, n, C, D]
    return taken.reshape(*taken.shape[:-3], -1, taken.shape[-1])

  return KVCache(jax.tree.map(read, pool.keys), jax.tree.map(read, pool.values), lengths)


def write_token(
  config: PolicyConfig, pool: PagePool, new: KVCache, pages: Array, places: Array
) -> PagePool:
  """Writes one token of each of `N` sequences.

  Args:
    config: static part of the policy.
    pool: the pool; donate it, and it is updated in place.
    new: keys and values of the tokens, `[N, K, 1, D]` per layer.
    pages: `[N]` int32 pages to write to; `NOWHERE` for rows without a sequence.
    places: `[N]` int32 places in the pages.
  """
  heads = _heads(config, pages[:, None], axis=1)  # [N, K]

  def write(buffer: Array, block: Array) -> Array:
    return buffer.at[..., heads, places[:, None], :].set(block[..., 0, :])

  return _written(pool, new, write)


def write_pages(config: PolicyConfig, pool: PagePool, new: KVCache, pages: Array) -> PagePool:
  """Writes whole pages `[n]` of one sequence: `new` holds `[1, K, n * C, D]` per layer."""
  heads = _heads(config, pages[None, :], axis=0)  # [K, n]

  def write(buffer: Array, block: Array) -> Array:
    k, d = block.shape[-3], block.shape[-1]
    block = block.reshape(*block.shape[:-4], k, len(pages), -1, d)
    return buffer.at[..., heads, :, :].set(block)

  return _written(pool, new, write)


def _heads(config: PolicyConfig, pages: Array, axis: int) -> Array:
  """Indices of all heads of the pages, along an axis of size 1."""
  k = config.num_kv_heads
  shape = [1] * pages.ndim
  shape[axis] = k
  return pages * k + jnp.arange(k, dtype=jnp.int32).reshape(shape)


def _written(pool: PagePool, new: KVCache, write) -> PagePool:
  return PagePool(
    jax.tree.map(write, pool.keys, new.keys), jax.tree.map(write, pool.values, new.values)
  )

"""Keys and values in pages of equally many tokens: one pool of memory that many sequences share.

A sequence's cache is a list of pages, wherever they lie in the pool. So memory is taken page by
page as a sequence grows, and sequences that begin alike share the pages of their common beginning.
Page 0 holds nothing: it is written by rows without a sequence, and read where a mask hides it.

`K` denotes key heads, `C` tokens per page, `D` the width of a head.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.policy import int8
from lhrm_jax.policy.cache import KVCache, PerLayer
from lhrm_jax.policy.config import PolicyConfig

NOWHERE = 0  # the page that holds nothing
_SCALE_BYTES = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stored:
  """Keys or values of a layer, or of all layers stacked.

  Attributes:
    numbers: `[pages * K, C, D]`: the heads of a page lie side by side, so that a gather of whole
      heads needs no transposition. Of the compute dtype, or int8.
    scales: `[pages * K, C, 1]` float32, what int8 numbers are multiplied by; `None` for others.
  """

  numbers: Array
  scales: Array | None

  def take(self, heads: Array) -> "Stored":
    """The heads of pages, any shape of indices in place of the axis of pages."""
    return jax.tree.map(lambda x: x[..., heads, :, :], self)

  def put(self, block: "Stored", *at: Array) -> "Stored":
    """Writes whole heads, or tokens of heads: indices of heads, and of their tokens."""
    whole = (slice(None),) * (3 - len(at))
    return jax.tree.map(lambda x, new: x.at[(..., *at, *whole)].set(new), self, block)

  def encoded(self, x: Array) -> "Stored":
    """Numbers `[..., D]` as they are stored here."""
    return Stored(x, None) if self.scales is None else Stored(*int8.rounded(x, -1))

  def decoded(self, dtype: str) -> Array:
    """The numbers that are stored."""
    if self.scales is None:
      return self.numbers
    return (self.numbers.astype(jnp.float32) * self.scales).astype(dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PagePool:
  """Pages of keys and values, of all layers.

  Attributes:
    keys: rotated keys, `Stored` per layer or stacked, like the policy's cache.
    values: like `keys`.
  """

  keys: Stored | tuple[Stored, ...]
  values: Stored | tuple[Stored, ...]


def empty(config: PolicyConfig, pages: int, tokens: int, *, in_int8: bool = False) -> PagePool:
  """A pool of `pages` pages of `tokens` tokens, `NOWHERE` among them.

  Args:
    config: static part of the policy.
    pages: number of pages.
    tokens: tokens per page.
    in_int8: whether to keep each head of a token as int8 with a scale.
  """
  shape = (pages * config.num_kv_heads, tokens, config.head_dim)

  def zeros(*stacked: int) -> Stored:
    numbers = jnp.zeros((*stacked, *shape), jnp.int8 if in_int8 else config.dtype)
    return Stored(numbers, jnp.zeros((*stacked, *shape[:-1], 1)) if in_int8 else None)

  def layers() -> Stored | tuple[Stored, ...]:
    if config.scan_layers:
      return zeros(config.num_layers)
    return tuple(zeros() for _ in range(config.num_layers))

  return PagePool(layers(), layers())


def page_bytes(config: PolicyConfig, tokens: int, *, in_int8: bool = False) -> int:
  """Memory of one page with its keys and values in all layers."""
  heads = 2 * config.num_layers * config.num_kv_heads * tokens
  head = config.head_dim * jnp.dtype(config.dtype).itemsize
  return heads * (config.head_dim + _SCALE_BYTES if in_int8 else head)


def gather(config: PolicyConfig, pool: PagePool, pages: Array, lengths: Array) -> KVCache:
  """The cache of `N` sequences as `policy.apply` reads it.

  Args:
    config: static part of the policy.
    pool: the pool.
    pages: `[N, n]` int32, consecutive pages of each sequence.
    lengths: `[N]` int32, tokens of these pages that count.
  """
  heads = _heads(config, pages[:, None, :], axis=1)  # [N, K, n]

  def read(stored: Stored) -> Array:
    taken = stored.take(heads).decoded(config.dtype)  # [..., N, K, n, C, D]
    return taken.reshape(*taken.shape[:-3], -1, taken.shape[-1])

  return KVCache(_each(read, pool.keys), _each(read, pool.values), lengths)


def write_tokens(
  config: PolicyConfig, pool: PagePool, new: KVCache, pages: Array, places: Array
) -> PagePool:
  """Writes `T` tokens of each of `N` sequences.

  Args:
    config: static part of the policy.
    pool: the pool; donate it, and it is updated in place.
    new: keys and values of the tokens, `[N, K, T, D]` per layer.
    pages: `[N, T]` int32 pages to write to; `NOWHERE` for tokens of no sequence.
    places: `[N, T]` int32 places in the pages.
  """
  heads = _heads(config, pages[:, None], axis=1)  # [N, K, T]

  def write(stored: Stored, block: Array) -> Stored:
    return stored.put(stored.encoded(block), heads, places[:, None])

  return _written(pool, new, write)


def write_pages(config: PolicyConfig, pool: PagePool, new: KVCache, pages: Array) -> PagePool:
  """Writes whole pages `[n]` of one sequence: `new` holds `[1, K, n * C, D]` per layer."""
  heads = _heads(config, pages[None, :], axis=0)  # [K, n]

  def write(stored: Stored, block: Array) -> Stored:
    k, d = block.shape[-3], block.shape[-1]
    block = block.reshape(*block.shape[:-4], k, len(pages), -1, d)
    return stored.put(stored.encoded(block), heads)

  return _written(pool, new, write)


def copied(config: PolicyConfig, pool: PagePool, pages: Array) -> PagePool:
  """The pages `[n]` bit by bit, `[n, K, C, D]` per layer, to keep them elsewhere."""
  heads = _heads(config, pages[:, None], axis=1)  # [n, K]
  return _each(lambda stored: stored.take(heads), pool)


def restored(config: PolicyConfig, pool: PagePool, copy: PagePool, pages: Array) -> PagePool:
  """Writes what `copied` has read to the pages `[n]`."""
  heads = _heads(config, pages[:, None], axis=1)
  return _each(lambda stored, block: stored.put(block, heads), pool, copy)


def _heads(config: PolicyConfig, pages: Array, axis: int) -> Array:
  """Indices of all heads of the pages, along an axis of size 1."""
  k = config.num_kv_heads
  shape = [1] * pages.ndim
  shape[axis] = k
  return pages * k + jnp.arange(k, dtype=jnp.int32).reshape(shape)


def _each(change: Callable, *trees: PagePool | Stored | PerLayer):
  return jax.tree.map(change, *trees, is_leaf=lambda x: isinstance(x, Stored))


def _written(pool: PagePool, new: KVCache, write: Callable[[Stored, Array], Stored]) -> PagePool:
  return PagePool(_each(write, pool.keys, new.keys), _each(write, pool.values, new.values))

"""Attention within packed rows, block by block: scores of `T x T` exist neither forward nor back.

An online softmax (https://arxiv.org/abs/2205.14135) over pairs of a block of queries and a block of
keys. Pairs in which no query attends to any key are skipped at run time, so that a packed row costs
what its sequences cost. Plain JAX: the reference of the fused kernels, and what runs on a CPU.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.parallel import constrain

BLOCK = 64  # slots, where a config does not set them
_MASKED = -1e30  # finite, so that a maximum over hidden keys alone gives no NaN
# Axes of arrays of blocks [blocks, N, K, slots, D].
_BLOCKS = (None, "batch", "kv_heads", None, None)


def attend(
  queries: Array, keys: Array, values: Array, segment_ids: Array, prefix_ids: Array, block: int
) -> Array:
  """Softmax attention, scaled by `1 / sqrt(D)`, under the mask of `attention.segment_mask`.

  Args:
    queries: `[N, T, H, D]`.
    keys: `[N, K, T, D]`; `K` divides `H`.
    values: like `keys`.
    segment_ids: `[N, T]` int32, 0 for padding.
    prefix_ids: `[N, T]` int32.
    block: slots per block.

  Returns:
    `[N, T, H, D]` in the dtype of `queries`, 0 on padding. The softmax is float32.
  """
  n, t, h, d = queries.shape
  k, count = keys.shape[1], -(-t // block)
  extra = count * block - t

  def in_blocks(x: Array) -> Array:
    """`[N, K, T, ...]` as `[blocks, N, K, slots, D]`."""
    x = jnp.pad(x, ((0, 0), (0, 0), (0, extra)) + ((0, 0),) * (x.ndim - 3))
    return jnp.moveaxis(x.reshape(n, k, count, -1, d), 2, 0)

  # The queries that share a key head stand side by side: [N, K, T, H / K, D].
  grouped = queries.reshape(n, t, k, h // k, d).transpose(0, 2, 1, 3, 4)
  ids, prefixes = (jnp.pad(x, ((0, 0), (0, extra))) for x in (segment_ids, prefix_ids))
  out = _attend(*map(in_blocks, (grouped, keys, values)), ids, prefixes)
  out = jnp.moveaxis(out, 0, 2).reshape(n, k, count * block, h // k, d)[:, :, :t]
  return out.transpose(0, 2, 1, 3, 4).reshape(n, t, h, d)


@jax.custom_vjp
def _attend(queries: Array, keys: Array, values: Array, ids: Array, prefixes: Array) -> Array:
  """Attention of `queries [blocks, N, K, slots * H / K, D]`, in blocks likewise."""
  return _forward(queries, keys, values, ids, prefixes)[0]


def _forward(queries: Array, keys: Array, values: Array, ids: Array, prefixes: Array):
  """Outputs, and what the backward pass needs: with the logarithms of the softmax's divisors."""
  pairs = _Pairs(queries, keys, ids, prefixes)

  def add(at: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    i, j = pairs.at(at)
    top, total, out = (x[i] for x in sums)
    scores = pairs.scores(i, j)
    new_top = jnp.maximum(top, jnp.max(scores, axis=-1))
    weights = jnp.where(scores > _MASKED, jnp.exp(scores - new_top[..., None]), 0.0)
    scale = jnp.exp(top - new_top)
    total = total * scale + jnp.sum(weights, axis=-1)
    mixed = _product("nkms,nksd->nkmd", weights.astype(values.dtype), values[j])
    new = (new_top, total, out * scale[..., None] + mixed)
    return tuple(x.at[i].set(y) for x, y in zip(sums, new, strict=True))

  zeros = _zeros(queries)
  start = (jnp.full_like(zeros[..., 0], _MASKED), zeros[..., 0], zeros)
  with jax.named_scope("pairs"):
    top, total, out = jax.lax.fori_loop(0, pairs.count, add, start)
  seen = total > 0
  divisor = jnp.where(seen, total, 1.0)
  out = (out / divisor[..., None]).astype(queries.dtype)
  # Of a query that sees nothing the weights must come out as 0 on the way back.
  log_divisor = jnp.where(seen, top + jnp.log(divisor), -_MASKED)
  return out, (queries, keys, values, ids, prefixes, out, log_divisor)


def _backward(saved, ahead: Array):
  queries, keys, values, ids, prefixes, out, log_divisor = saved
  pairs = _Pairs(queries, keys, ids, prefixes)
  mean = jnp.sum(out.astype(jnp.float32) * ahead.astype(jnp.float32), axis=-1)

  def add(at: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    i, j = pairs.at(at)
    weights = jnp.exp(pairs.scores(i, j) - log_divisor[i][..., None])
    narrow = weights.astype(values.dtype)
    of_values = _product("nkms,nkmd->nksd", narrow, ahead[i])
    back = weights * (_product("nkmd,nksd->nkms", ahead[i], values[j]) - mean[i][..., None])
    back = (back * pairs.scale).astype(queries.dtype)
    of_queries = _product("nkms,nksd->nkmd", back, keys[j])
    of_keys = _product("nkms,nkmd->nksd", back, queries[i])
    new = ((i, of_queries), (j, of_keys), (j, of_values))
    return tuple(x.at[place].add(y) for x, (place, y) in zip(sums, new, strict=True))

  start = (_zeros(queries), _zeros(keys), _zeros(values))
  with jax.named_scope("pairs"):
    grads = jax.lax.fori_loop(0, pairs.count, add, start)
  grads = (g.astype(x.dtype) for g, x in zip(grads, (queries, keys, values), strict=True))
  return (*grads, None, None)


_attend.defvjp(_forward, _backward)


class _Pairs:
  """Pairs of a block of queries and a block of keys, and the scores between them.

  Attributes:
    count: number of pairs in which a query may attend to a key.
    scale: factor on the scores.
  """

  def __init__(self, queries: Array, keys: Array, ids: Array, prefixes: Array):
    blocks, n, _, slots, d = keys.shape
    self.scale = d**-0.5
    self._queries, self._keys = queries, keys
    self._group = queries.shape[3] // slots
    self._ids, self._prefixes = (
      x.reshape(n, blocks, slots).swapaxes(0, 1) for x in (ids, prefixes)
    )  # [blocks, N, slots]
    active = _overlap(self._ids, self._ids) | _overlap(self._prefixes, self._ids)
    active &= jnp.tril(jnp.ones((blocks, blocks), bool))
    self.count = jnp.sum(active, dtype=jnp.int32)
    self._of, self._to = jnp.nonzero(active, size=blocks * (blocks + 1) // 2, fill_value=0)

  def at(self, place: Array) -> tuple[Array, Array]:
    return self._of[place], self._to[place]

  def scores(self, i: Array, j: Array) -> Array:
    """`[N, K, slots * group, slots]` float32, scaled, -1e30 where the mask hides the key."""
    slots = self._ids.shape[2]
    own, of_keys = self._ids[i][:, :, None], self._ids[j][:, None, :]
    at = jnp.arange(slots)
    mask = ((own == of_keys) | (self._prefixes[i][:, :, None] == of_keys)) & (of_keys > 0)
    mask &= (own > 0) & (j * slots + at <= i * slots + at[:, None])
    mask = jnp.repeat(mask, self._group, axis=1)[:, None]  # [N, 1, slots * group, slots]
    scores = _product("nkmd,nksd->nkms", self._queries[i], self._keys[j])
    return jnp.where(mask, scores * self.scale, _MASKED)


def _overlap(of_queries: Array, of_keys: Array) -> Array:
  """`[blocks, blocks]` bool, whether two blocks may share an id above 0: whether ranges overlap."""
  ranges = []
  for ids in (of_queries, of_keys):
    lowest = jnp.min(jnp.where(ids > 0, ids, jnp.iinfo(ids.dtype).max), axis=-1)
    ranges.append((lowest, jnp.max(ids, axis=-1)))  # [blocks, N]; empty where all are 0
  (low, high), (key_low, key_high) = ranges
  meet = (low[:, None] <= key_high[None]) & (key_low[None] <= high[:, None])
  return jnp.any(meet, axis=-1)


def _zeros(like: Array) -> Array:
  return constrain(jnp.zeros(like.shape, jnp.float32), _BLOCKS)


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

"""Grouped-query attention over several blocks of keys under one softmax.

Queries attend to their own block (causally, within their segment) and to any number of cached
blocks. Scores of all blocks share one softmax, so splitting a sequence into prompt, filled cache
and new tokens changes nothing but memory.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

_MASKED = -1e30  # finite: a fully masked row (padding) gives an average, never NaN


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
  """Keys and values that queries see.

  Attributes:
    keys: `[rows, K, S, D]`; `rows` divides the number of query rows, and every
      `N / rows` consecutive query rows share one.
    values: like `keys`.
    mask: bool, broadcastable to `[rows, N / rows, T, S]`: which query sees which slot.
  """

  keys: Array
  values: Array
  mask: Array


def attend(queries: Array, blocks: list[Block], chunk: int = 0) -> Array:
  """Softmax attention, scaled by `1 / sqrt(D)`.

  Args:
    queries: `[N, T, H, D]`.
    blocks: at least one; their key heads `K` divide `H`.
    chunk: queries per row whose scores exist at one time, forward and backward, so that memory
      grows with T and not with its square. 0 takes all `T` at once.

  Returns:
    `[N, T, H, D]` in the dtype of `queries`. The softmax is float32.
  """
  n, t, h, d = queries.shape
  if not chunk or t <= chunk:
    return _attend(queries, blocks)
  chunks = -(-t // chunk)
  # Keys enter the loop as float32: their gradients are summed over its turns in the dtype they have
  # here.
  wide = [(b.keys.astype(jnp.float32), b.values.astype(jnp.float32)) for b in blocks]

  @jax.checkpoint
  def attend_chunk(part: tuple[Array, list[Array]]) -> Array:
    some, masks = part
    narrow = [
      Block(k.astype(b.keys.dtype), v.astype(b.values.dtype), m)
      for b, (k, v), m in zip(blocks, wide, masks, strict=True)
    ]
    return _attend(some, narrow)

  def split(x: Array, axis: int) -> Array:
    """The chunks of `x` along its axis of queries, on a new leading axis."""
    if x.shape[axis] == 1:  # the same for every query
      return jnp.broadcast_to(x, (chunks, *x.shape))
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, chunks * chunk - t)
    x = jnp.pad(x, widths)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], chunks, chunk, *x.shape[axis + 1 :]), axis, 0)

  parts = (split(queries, 1), [split(block.mask, 2) for block in blocks])
  out = jax.lax.map(attend_chunk, parts)  # [chunks, N, chunk, H, D]
  return jnp.moveaxis(out, 0, 1).reshape(n, chunks * chunk, h, d)[:, :t]


def _attend(queries: Array, blocks: list[Block]) -> Array:
  n, t, h, d = queries.shape
  scores = [_scores(queries, block) for block in blocks]  # each [N, K, T, H/K, S]
  weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
  out, start = 0.0, 0
  for block, score in zip(blocks, scores, strict=True):
    stop = start + score.shape[-1]
    out += _combine(weights[..., start:stop].astype(queries.dtype), block)
    start = stop
  return out.transpose(0, 2, 1, 3, 4).reshape(n, t, h, d).astype(queries.dtype)


def _scores(queries: Array, block: Block) -> Array:
  n, t, h, d = queries.shape
  rows, k, s, _ = block.keys.shape
  shared, group = n // rows, h // k
  grouped = queries.reshape(rows, shared, t, k, group, d).transpose(0, 3, 1, 2, 4, 5)
  scores = jnp.einsum(
    "bkmd,bksd->bkms",
    grouped.reshape(rows, k, shared * t * group, d),
    block.keys,
    preferred_element_type=jnp.float32,
  )
  scores = scores.reshape(rows, k, shared, t, group, s) * d**-0.5
  scores = jnp.where(block.mask[:, None, :, :, None, :], scores, _MASKED)
  return scores.transpose(0, 2, 1, 3, 4, 5).reshape(n, k, t, group, s)


def _combine(weights: Array, block: Block) -> Array:
  """Sums values by `weights [N, K, T, group, S]`; returns `[N, K, T, group, D]` in float32."""
  n, k, t, group, s = weights.shape
  rows, _, _, d = block.values.shape
  shared = n // rows
  weights = weights.reshape(rows, shared, k, t, group, s).transpose(0, 2, 1, 3, 4, 5)
  out = jnp.einsum(
    "bkms,bksd->bkmd",
    weights.reshape(rows, k, shared * t * group, s),
    block.values,
    preferred_element_type=jnp.float32,
  )
  out = out.reshape(rows, k, shared, t, group, d).transpose(0, 2, 1, 3, 4, 5)
  return out.reshape(n, k, t, group, d)


def causal_mask(segment_ids: Array) -> Array:
  """`[N, T, T]` bool: slot s is seen by t when s <= t and both lie in the same segment, not 0."""
  t = segment_ids.shape[1]
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  return same & (segment_ids > 0)[:, :, None] & jnp.tril(jnp.ones((t, t), bool))


def length_mask(lengths: Array, slots: int) -> Array:
  """`[rows, slots]` bool: which slots lie below each row's length `[rows]`."""
  return jnp.arange(slots) < lengths[:, None]

"""Grouped-query attention over several blocks of keys under one softmax.

Queries attend to their own block (causally, within their segment) and to any number of cached
blocks. Scores of all blocks share one softmax, so splitting a sequence into prompt, filled cache
and new tokens changes nothing but memory.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.policy.cache import Readers

_MASKED = -1e30  # finite: a fully masked row (padding) gives an average, never NaN


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
  """One block of keys and values to attend to.

  Attributes:
    keys: `[rows, K, S, D]`; `rows` divides the number of query rows, and every
      `N / rows` consecutive query rows share one.
    values: like `keys`.
    mask: bool, broadcastable to `[rows, N / rows, T, S]`: whether a query attends to a slot.
    readers: query rows that share each row of keys, where they are not consecutive; supported by
      `attend_token` alone.
  """

  keys: Array
  values: Array
  mask: Array
  readers: Readers | None = None


def attend(queries: Array, blocks: list[Block]) -> Array:
  """Softmax attention, scaled by `1 / sqrt(D)`, through all scores at once.

  Args:
    queries: `[N, T, H, D]`.
    blocks: at least one; their key heads `K` divide `H`.

  Returns:
    `[N, T, H, D]` in the dtype of `queries`. The softmax is float32.
  """
  n, t, h, d = queries.shape
  scores = [_scores(queries, block) for block in blocks]  # each [N, K, T, H/K, S]
  weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
  out, start = 0.0, 0
  for block, score in zip(blocks, scores, strict=True):
    stop = start + score.shape[-1]
    out += _combine(weights[..., start:stop].astype(queries.dtype), block)
    start = stop
  return out.transpose(0, 2, 1, 3, 4).reshape(n, t, h, d).astype(queries.dtype)


def attend_token(queries: Array, blocks: list[Block]) -> Array:
  """`attend` for one new token per row, as in decoding.

  Each block is reduced to a softmax over its own slots and its denominator, by which the blocks are
  then merged: scores and keys of all blocks are never concatenated, and a block that many rows
  share is read once for all of them.

  Args:
    queries: `[N, 1, H, D]`.
    blocks: at least one, and in one of them every query attends to a slot.

  Returns:
    `[N, 1, H, D]` in the dtype of `queries`. The softmax is float32.
  """
  parts = [_attend_block(queries[:, 0], block) for block in blocks]
  top = functools.reduce(jnp.maximum, (part.top for part in parts))
  scales = [jnp.exp(part.top - top) for part in parts]
  total = sum(part.total * scale for part, scale in zip(parts, scales, strict=True))
  out = sum(part.out * scale[..., None] for part, scale in zip(parts, scales, strict=True))
  return (out / total[..., None]).reshape(queries.shape).astype(queries.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Part:
  """Unnormalised attention to one block, float32.

  Attributes:
    top: `[N, K, H / K]` largest scores.
    total: `[N, K, H / K]` sums of `exp(score - top)`.
    out: `[N, K, H / K, D]` sums of the values with those weights.
  """

  top: Array
  total: Array
  out: Array


def _attend_block(queries: Array, block: Block) -> _Part:
  """Unnormalised attention of `queries [N, H, D]` to one block."""
  rows, k, s, d = block.keys.shape
  if block.readers:
    queries = queries[block.readers.rows.reshape(-1)]
  shared, group = queries.shape[0] // rows, queries.shape[1] // k
  queries = queries.reshape(rows, shared, k, group, d).swapaxes(1, 2)  # [rows, K, shared, group, D]
  queries = queries.reshape(rows, k, shared * group, d)
  mask = jnp.broadcast_to(block.mask[:, :, 0, :], (rows, block.mask.shape[1], s))
  mask = jnp.repeat(mask, shared * group // mask.shape[1], axis=1)[:, None]  # [rows, 1, M, S]
  scores = jnp.einsum("rkmd,rksd->rkms", queries, block.keys, preferred_element_type=jnp.float32)
  scores = jnp.where(mask, scores * d**-0.5, _MASKED)
  top = jnp.max(scores, axis=-1)
  weights = jnp.exp(scores - top[..., None])
  out = jnp.einsum(
    "rkms,rksd->rkmd",
    weights.astype(block.values.dtype),
    block.values,
    preferred_element_type=jnp.float32,
  )
  part = _Part(top, jnp.sum(weights, axis=-1), out)

  def by_row(x: Array) -> Array:
    x = x.reshape(rows, k, shared, group, *x.shape[3:]).swapaxes(1, 2)
    x = x.reshape(rows * shared, k, group, *x.shape[4:])
    return x[block.readers.places] if block.readers else x

  return jax.tree.map(by_row, part)


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


def segment_mask(segment_ids: Array, prefix_ids: Array | None = None) -> Array:
  """`[N, T, T]` bool: whether token t attends to token s.

  It does where s <= t and s lies in the segment of t or in its prefix, a segment that several
  others share, such as the prompt of several responses.

  Args:
    segment_ids: `[N, T]` int32, 0 for padding, which attends to nothing.
    prefix_ids: `[N, T]` int32, segment that each token's own one continues; 0 for none.
  """
  t, of_keys = segment_ids.shape[1], segment_ids[:, None, :]
  seen = segment_ids[:, :, None] == of_keys
  if prefix_ids is not None:
    seen |= prefix_ids[:, :, None] == of_keys
  unpadded = (segment_ids > 0)[:, :, None] & (of_keys > 0)
  return seen & unpadded & jnp.tril(jnp.ones((t, t), bool))


def length_mask(lengths: Array, slots: int) -> Array:
  """`[rows, slots]` bool: whether a slot is below its row's length `[rows]`."""
  return jnp.arange(slots) < lengths[:, None]

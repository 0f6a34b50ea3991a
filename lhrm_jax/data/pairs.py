"""Packs pairs of sequences into rows: both of a pair lie side by side in one row."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from lhrm_jax.data.batches import Encoded, TokenBatch, empty_batch, put
from lhrm_jax.data.packing import first_fit


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairBatch:
  """Rows of packed pairs; the `k`-th pair of a row, from 0, has segments `2k + 1` and `2k + 2`.

  Attributes:
    sequences: `[R, T]`, weights 1 on responses.
    ref_logprobs: `[R, K, 2]` float32 of whole responses under the reference policy.
    mask: `[R, K]` bool, where a row has so many pairs.
  """

  sequences: TokenBatch
  ref_logprobs: np.ndarray
  mask: np.ndarray


def pack_pairs(
  pairs: Sequence[tuple[Encoded, Encoded]], ref_logprobs: np.ndarray | None, length: int,
  rows: int, most: int, *, pad_id: int = 0,
) -> tuple[tuple[PairBatch, ...], np.ndarray]:  # fmt: skip
  """Packs pairs into micro-batches of `[rows, length]` by first fit; the last is filled up.

  Args:
    pairs: chosen and rejected.
    ref_logprobs: `[P, 2]`; 0 where they are not known yet.
    length: tokens in a row.
    rows: of a micro-batch.
    most: `K`, the most pairs that fit into a row: `length` over the slots of the shortest.
    pad_id: fills the rest of a row.

  Returns:
    The micro-batches, and `[P, 2]` row and place in it of each pair, rows counted on over all
    micro-batches.

  Raises:
    ValueError: a pair is longer than a row.
  """
  sizes = [chosen.slots + rejected.slots for chosen, rejected in pairs]
  if max(sizes) > length:
    raise ValueError(f"A pair takes {max(sizes)} places, more than a row's {length}.")
  bins = first_fit(sizes, length)
  total = -(-len(bins) // rows) * rows
  sequences = empty_batch(total, length, pad_id)
  ref, mask = np.zeros((total, most, 2), np.float32), np.zeros((total, most), bool)
  place = np.empty((len(pairs), 2), np.int64)
  for row, members in enumerate(bins):
    start = 0
    for k, member in enumerate(members):
      for side, sequence in enumerate(pairs[member]):
        put(sequences, row, start, 2 * k + 1 + side, sequence)
        start += sequence.slots
      place[member] = row, k
      mask[row, k] = True
      if ref_logprobs is not None:
        ref[row, k] = ref_logprobs[member]
  whole = PairBatch(sequences, ref, mask)
  cut = (jax.tree.map(lambda x, at=at: x[at : at + rows], whole) for at in range(0, total, rows))
  return tuple(cut), place

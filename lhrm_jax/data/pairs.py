"""Packs pairs of sequences into rows: both of a pair lie side by side in one row."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from lhrm_jax.data.batches import Encoded, TokenBatch, empty_batch, put
from lhrm_jax.data.packing import first_fit_decreasing, in_lanes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairBatch:
  """Rows of packed pairs; the `k`-th pair of a row, from 0, has segments `2k + 1` and `2k + 2`.

  Attributes:
    sequences: `[N, T]`, weights 1 on responses.
    ref_logprobs: `[N, K, 2]` float32 of whole responses under the reference policy.
    mask: `[N, K]` bool, where a row has so many pairs.
  """

  sequences: TokenBatch
  ref_logprobs: np.ndarray
  mask: np.ndarray

  @property
  def filled(self) -> np.ndarray:
    """`[N]` bool, rows that hold a pair."""
    return self.mask.any(axis=1)


def pack_pairs(
  pairs: Sequence[tuple[Encoded, Encoded]], ref_logprobs: np.ndarray | None, length: int,
  most: int, *, pad_id: int = 0, lanes: int = 1, least: int = 0,
  devices: int = 1,
) -> tuple[PairBatch, np.ndarray]:  # fmt: skip
  """Packs pairs into rows of `length`, the longest first.

  Args:
    pairs: chosen and rejected.
    ref_logprobs: `[P, 2]`; 0 where they are not known yet.
    length: tokens in a row.
    most: `K`, the most pairs that fit into a row: `length` over the slots of the shortest.
    pad_id: fills the rest of a row.
    lanes: see `packing.in_lanes`.
    least: likewise.
    devices: likewise.

  Returns:
    The rows, and `[P, 2]` row and place in it of each pair.

  Raises:
    ValueError: a pair is longer than a row.
  """
  sizes = [chosen.slots + rejected.slots for chosen, rejected in pairs]
  if max(sizes) > length:
    raise ValueError(f"A pair takes {max(sizes)} places, more than a row's {length}.")
  bins = first_fit_decreasing(sizes, length)
  places, rows = in_lanes(len(bins), lanes, least, devices)
  sequences = empty_batch(rows, length, pad_id)
  ref, mask = np.zeros((rows, most, 2), np.float32), np.zeros((rows, most), bool)
  place = np.empty((len(pairs), 2), np.int64)
  for row, members in zip(places.tolist(), bins, strict=True):
    start = 0
    for k, member in enumerate(members):
      for side, sequence in enumerate(pairs[member]):
        put(sequences, row, start, 2 * k + 1 + side, sequence)
        start += sequence.slots
      place[member] = row, k
      mask[row, k] = True
      if ref_logprobs is not None:
        ref[row, k] = ref_logprobs[member]
  return PairBatch(sequences, ref, mask), place

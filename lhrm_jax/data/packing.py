"""Packs sequences of different lengths into full rows, kept apart by segment ids."""

from collections.abc import Sequence

import jax
import numpy as np

from lhrm_jax.data.batches import Encoded, TokenBatch, empty_batch, put


def first_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
  """Puts each item, in order, into the first bin that still has room for it.

  Args:
    sizes: sizes of the items, each at most `capacity`.
    capacity: size of a bin.

  Returns:
    For each bin the items in it, by index. The time is `O(n log n)`.
  """
  leaves = 1 << max(1, len(sizes) - 1).bit_length()
  # A heap-shaped tree over the bins: room[k] is the most room in any bin below node k.
  room = [capacity] * (2 * leaves)
  bins: list[list[int]] = []
  for item, size in enumerate(sizes):
    node = 1
    while node < leaves:
      node = 2 * node if room[2 * node] >= size else 2 * node + 1
    if node - leaves == len(bins):
      bins.append([])
    bins[node - leaves].append(item)
    room[node] -= size
    while node > 1:
      node //= 2
      room[node] = max(room[2 * node], room[2 * node + 1])
  return bins


def pack(
  sequences: Sequence[Encoded], length: int, *, pad_id: int = 0, rows: int | None = None
) -> TokenBatch:
  """Packs sequences into rows of `length` by first fit.

  Every sequence lies whole in one row with a segment id of its own, and its positions count from 0,
  so that the policy computes for it what it would compute for it alone.

  Args:
    sequences: in the order of the data.
    length: tokens in a row.
    pad_id: fills the rest of a row.
    rows: number of rows, of which the last may be empty, so that steps share one compiled program;
      `None` takes as many as needed.

  Returns:
    Arrays `[rows, length]`; segment ids count from 1 within a row.

  Raises:
    ValueError: a sequence is longer than a row, or `rows` are too few.
  """
  for i, sequence in enumerate(sequences):
    if sequence.slots > length:
      raise ValueError(
        f"Sequence {i} takes {sequence.slots} places, more than a row's {length}: leave it out or "
        "raise the length. Cutting it would train a response without its end."
      )
  bins = first_fit([sequence.slots for sequence in sequences], length)
  if rows is not None and len(bins) > rows:
    raise ValueError(
      f"{len(sequences)} sequences need {len(bins)} rows of {length}, more than rows={rows}: allow "
      "more rows, or take fewer sequences a step."
    )
  batch = empty_batch(len(bins) if rows is None else rows, length, pad_id)
  for row, members in enumerate(bins):
    start = 0
    for segment, member in enumerate(members, start=1):
      put(batch, row, start, segment, sequences[member])
      start += sequences[member].slots
  return batch


def pack_micro_batches(
  sequences: Sequence[Encoded], length: int, rows: int, *, pad_id: int = 0
) -> tuple[TokenBatch, ...]:
  """Packs the sequences of one step into micro-batches of `[rows, length]`.

  The last is filled up with empty rows. Steps differ only in the number of micro-batches, so few
  programs are compiled.
  """
  packed = pack(sequences, length, pad_id=pad_id)
  missing = -len(packed.tokens) % rows
  filled = jax.tree.map(
    lambda *parts: np.concatenate(parts), packed, empty_batch(missing, length, pad_id)
  )
  return tuple(
    jax.tree.map(lambda x, start=start: x[start : start + rows], filled)
    for start in range(0, len(filled.tokens), rows)
  )

"""Packs sequences of different lengths into full rows, kept apart by segment ids."""

from collections.abc import Sequence

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


def first_fit_decreasing(sizes: Sequence[int], capacity: int) -> list[list[int]]:
  """`first_fit` of the items from the largest to the smallest, equal ones in order."""
  order = np.argsort(-np.asarray(sizes, np.int64), kind="stable").tolist()
  return [[order[i] for i in bin_] for bin_ in first_fit([sizes[i] for i in order], capacity)]


def most_rows(items: int, longest: int, length: int) -> int:
  """Rows of `length` that first fit needs for so many items of up to `longest`, at most.

  Of all bins of first fit, one at most is half empty.
  """
  return min(items, 2 * items * longest // length + 1)


def in_lanes(
  rows: int, lanes: int, least: int = 0, devices: int = 1
) -> tuple[np.ndarray, int]:  # fmt: skip
  """Places of packed rows in a batch that is computed some rows at a time.

  Rows are dealt to the devices in turn, each of which has as many consecutive lanes, and the blocks
  that are all empty come last (`training.update.accumulate_rows`).

  Args:
    rows: number of packed rows.
    lanes: rows that are computed at a time, over all devices.
    least: rows of the batch, empty ones included, at least.
    devices: parts that a batch is split into; divides `lanes`.

  Returns:
    `[rows]` places, and the number of rows of the batch, a multiple of `lanes`.
  """
  blocks = -(-max(rows, least, 1) // lanes)
  row = np.arange(rows)
  of_device = lanes // devices
  lane = row % devices * of_device + row // devices % of_device
  return lane * blocks + row // lanes, blocks * lanes


def pack(
  sequences: Sequence[Encoded], length: int, *, pad_id: int = 0, lanes: int = 1,
  least: int = 0, devices: int = 1,
) -> TokenBatch:  # fmt: skip
  """Packs sequences into rows of `length`, the longest first.

  Every sequence lies whole in one row with a segment id of its own, and its positions count from 0,
  so that the policy computes for it what it would compute for it alone.

  Args:
    sequences: in the order of the data.
    length: tokens in a row.
    pad_id: fills the rest of a row.
    lanes: see `in_lanes`.
    least: likewise: with `most_rows` of a step, all steps share one compiled program.
    devices: likewise.

  Returns:
    Arrays `[N, length]`; segment ids count from 1 within a row.

  Raises:
    ValueError: a sequence is longer than a row.
  """
  for i, sequence in enumerate(sequences):
    if sequence.slots > length:
      raise ValueError(
        f"Sequence {i} takes {sequence.slots} places, more than a row's {length}: leave it out or "
        "raise the length. Cutting it would train a response without its end."
      )
  bins = first_fit_decreasing([sequence.slots for sequence in sequences], length)
  places, rows = in_lanes(len(bins), lanes, least, devices)
  batch = empty_batch(rows, length, pad_id)
  for row, members in zip(places.tolist(), bins, strict=True):
    start = 0
    for segment, member in enumerate(members, start=1):
      put(batch, row, start, segment, sequences[member])
      start += sequences[member].slots
  return batch

"""Packs sequences of different lengths into full rows, each kept apart by its segment id."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.data.schema import HFTRow
from lhrm_jax.text import Tokenizer


@dataclasses.dataclass(frozen=True)
class Encoded:
  """One sequence for supervised training.

  Attributes:
    ids: prompt and response, the end of sequence included; at least two.
    weights: of each id as a target in the loss; 0 on the prompt.
  """

  ids: tuple[int, ...]
  weights: tuple[float, ...]

  @property
  def slots(self) -> int:
    """Places it takes in a row: its last id is a target only."""
    return len(self.ids) - 1


def encode(tokenizer: Tokenizer, row: HFTRow) -> Encoded:
  """Ids and loss weights of a demonstration: the response counts, from its opening tag on."""
  if row.earlier:
    messages = [{"role": role, "content": content} for role, content in row.earlier]
    prompt = tokenizer.encode_messages([*messages, {"role": "user", "content": row.prompt}])
  else:
    prompt = tokenizer.encode_prompt(row.prompt)
  response = tokenizer.encode_response(row.response)
  weights = [0.0] * len(prompt) + [row.tag_weight] + [1.0] * (len(response) - 1)
  return Encoded((*prompt, *response), tuple(weights))


def first_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
  """Puts each item, in order, into the first bin that still has room for it.

  Args:
    sizes: of the items, each at most `capacity`.
    capacity: of a bin.

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

  Every sequence is whole within one row, has a segment id of its own there, and its positions count
  from 0, so that the policy computes for each what it would compute for it alone.

  Args:
    sequences: in the order of the data.
    length: of a row; the policy's context.
    pad_id: fills what is left.
    rows: exactly so many, the last ones perhaps empty, so that steps share one compiled program;
      `None` takes as many as are needed.

  Returns:
    Arrays `[rows, length]`; segment ids count from 1 within a row.

  Raises:
    ValueError: a sequence is longer than a row, or `rows` are too few.
  """
  for i, sequence in enumerate(sequences):
    if sequence.slots > length:
      raise ValueError(
        f"Sequence {i} takes {sequence.slots} places, more than a row's {length}: leave it out "
        "(drop_long) or raise the length. Cutting it would train a response without its end."
      )
  bins = first_fit([sequence.slots for sequence in sequences], length)
  if rows is not None and len(bins) > rows:
    raise ValueError(
      f"{len(sequences)} sequences need {len(bins)} rows of {length}, more than rows={rows}: allow "
      "more rows, or take fewer sequences a step."
    )
  shape = (len(bins) if rows is None else rows, length)
  batch = TokenBatch(
    tokens=np.full(shape, pad_id, np.int32),
    targets=np.full(shape, pad_id, np.int32),
    positions=np.zeros(shape, np.int32),
    segment_ids=np.zeros(shape, np.int32),
    weights=np.zeros(shape, np.float32),
  )
  for row, members in enumerate(bins):
    start = 0
    for segment, member in enumerate(members, start=1):
      sequence = sequences[member]
      place = (row, slice(start, start + sequence.slots))
      batch.tokens[place] = sequence.ids[:-1]
      batch.targets[place] = sequence.ids[1:]
      batch.positions[place] = np.arange(sequence.slots)
      batch.segment_ids[place] = segment
      batch.weights[place] = sequence.weights[1:]
      start += sequence.slots
  return batch


def drop_long(sequences: Sequence[Encoded], length: int) -> tuple[list[Encoded], int]:
  """The sequences that fit into a row of `length`, and how many did not."""
  kept = [sequence for sequence in sequences if sequence.slots <= length]
  return kept, len(sequences) - len(kept)

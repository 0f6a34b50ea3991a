"""Rollouts as packed rows: where each prompt and response lies, and what an update takes of them.

`N` denotes rows, `L` their slots and targets, `Q` the most prompts and responses of a row; `B`
prompts with `M * G` responses each of up to `T` tokens.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax import Array

from lhrm_jax.data.packing import in_lanes, most_rows
from lhrm_jax.sampling import Rollouts
from lhrm_jax.training.packed import RowShape
from lhrm_jax.training.placement import Piece, Room, place

# Responses of a row for each longest response that fits: an objective sees all of them as rows of
# `T` tokens, which costs memory. Of a row for 8,192 tokens, so many of 64 tokens leave little.
_RESPONSES = 128


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedRows:
  """Prompts and responses in rows.

  Attributes:
    tokens: `[N, L]` int32.
    positions: `[N, L]` int32; a response's follow its prompt's.
    segment_ids: `[N, L]` int32, of each prompt and response; 0 for padding.
    prefix_ids: `[N, L]` int32, segment of a response's prompt, 0 elsewhere; `None` where each
      response has a prompt of its own, in one segment with it.
    sources: `[N, L]` int32, slot that predicts each target; a first token's is its prompt's last.
    targets: `[N, L]` int32, tokens of the responses, one response after the other.
    counts: `[N]` int32, number of targets.
    prompt_places: `[N, Q]` int32, last slot of each prompt.
    prompt_counts: `[N]` int32, number of prompts.
  """

  tokens: Array
  positions: Array
  segment_ids: Array
  prefix_ids: Array | None
  sources: Array
  targets: Array
  counts: Array
  prompt_places: Array
  prompt_counts: Array

  @property
  def filled(self) -> Array:
    """`[N]` bool, rows that hold a prompt."""
    return self.prompt_counts > 0


@dataclasses.dataclass(frozen=True)
class PackedPlaces:
  """Packed rows on the host, and which part of the rollouts each entry is; -1 for none.

  Attributes:
    rows: packed rows, numpy.
    token: `[N, L]` index of each target in `[B * M * G * T]`.
    response: `[N, Q]` index of each response in `[B * M * G]`.
    starts: `[N, Q]` int32, first target of each response.
    owner: `[N, Q]` int32, place of each response's prompt among the row's prompts.
    prompt: `[N, Q]` index of each prompt in `[B]`.
    first: `[N, Q]` bool, whether no earlier row holds the prompt.
    repeated: `[N]` int32, slots of prompts that an earlier row holds too.
    shape: shape of the rows.
  """

  rows: PackedRows
  token: np.ndarray
  response: np.ndarray
  starts: np.ndarray
  owner: np.ndarray
  prompt: np.ndarray
  first: np.ndarray
  repeated: np.ndarray
  shape: RowShape

  def of_tokens(self, x: np.ndarray) -> np.ndarray:
    """Arrays `[B, M, G, T]` at the targets: `[N, L]`, 0 where there is none."""
    return _taken(x, self.token, 4)

  def of_responses(self, x: np.ndarray) -> np.ndarray:
    """Arrays `[B, M, G]` of the responses: `[N, Q]`, 0 where there is none."""
    return _taken(x, self.response, 3)

  def of_prompts(self, x: np.ndarray) -> np.ndarray:
    """Arrays `[B, ...]` of the prompts: `[N, Q, ...]`, 0 where there is none."""
    return _taken(x, self.prompt, 1)

  def tokens_back(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Arrays `[N, L]` of the targets as `shape`, `[B, M, G, T]`; 0 where no target was."""
    return _put(x, self.token, shape)

  def prompts_back(self, x: np.ndarray, prompts: int) -> np.ndarray:
    """Arrays `[N, Q, ...]` of the prompts as `[B, ...]`."""
    return _put(x, self.prompt, (prompts, *x.shape[2:]))


def pack_rollouts(
  rollouts: Rollouts, shape: RowShape, shared: bool, lengths: np.ndarray | None = None
) -> PackedPlaces:
  """Packs prompts and responses into rows.

  Args:
    rollouts: on the host.
    shape: shape of the rows.
    shared: whether responses of a row share their prompt, see `policy.shares_prefixes`.
    lengths: `[B, M, G]` lengths of the responses, 0 for those that are left out; their own by
      default.

  Returns:
    Rows in as many lanes as `shape` has; always as many, whatever the lengths.

  Raises:
    ValueError: see `placement.place`.
  """
  prompt_lengths = np.asarray(rollouts.prompts.lengths)
  lengths = np.asarray(rollouts.lengths if lengths is None else lengths)
  b, m, g, t = rollouts.responses.shape
  longest = rollouts.prompts.tokens.shape[1] + t - 1
  rows, responses = batch_size(b * m * g, longest, shape)
  flat = lengths.reshape(-1)
  pieces = place(
    prompt_lengths.tolist(), np.repeat(np.arange(b), m * g).tolist(), flat.tolist(),
    Room(shape.length, responses, shared),
  )  # fmt: skip
  places, count = in_lanes(len(pieces), shape.lanes, rows, shape.devices)
  builder = _Builder(rollouts, flat, shape, shared, count, responses)
  for row, of_row in zip(places.tolist(), pieces, strict=True):
    builder.add(row, of_row)
  return builder.built()


def batch_size(responses: int, longest: int, shape: RowShape) -> tuple[int, int]:
  """Numbers of rows `N`, and of responses of a row `Q`, of a packed batch, whatever the lengths.

  Args:
    responses: responses of the batch.
    longest: slots of the longest prompt with the longest response.
    shape: shape of the rows.
  """
  _, rows = in_lanes(0, shape.lanes, most_rows(responses, longest, shape.length))
  return rows, min(responses, _RESPONSES * -(-shape.length // longest))


class _Builder:
  """Fills the arrays of packed rows, row by row."""

  def __init__(
    self, rollouts: Rollouts, lengths: np.ndarray, shape: RowShape, shared: bool, rows: int,
    most: int,
  ):  # fmt: skip
    self._prompts = np.asarray(rollouts.prompts.tokens)
    self._prompt_lengths = np.asarray(rollouts.prompts.lengths).tolist()
    responses = np.asarray(rollouts.responses)
    self._t = responses.shape[-1]
    self._responses = responses.reshape(-1, self._t)
    self._lengths, self._shape, self._shared = lengths.tolist(), shape, shared
    slots = ("tokens", "positions", "segment_ids", "prefix_ids", "sources", "targets")
    self._rows = {name: np.zeros((rows, shape.length), np.int32) for name in slots}
    self._rows["prompt_places"] = np.zeros((rows, most), np.int32)
    self._rows |= {name: np.zeros(rows, np.int32) for name in ("counts", "prompt_counts")}
    self._index = {name: np.full((rows, most), -1) for name in ("response", "prompt")}
    self._index["token"] = np.full((rows, shape.length), -1)
    self._of_response = {name: np.zeros((rows, most), np.int32) for name in ("starts", "owner")}
    self._first, self._repeated = np.zeros((rows, most), bool), np.zeros(rows, np.int32)
    self._seen: set[int] = set()

  def add(self, row: int, pieces: Sequence[Piece]) -> None:
    """Writes the pieces of one row."""
    slot = target = number = segment = 0
    for q, piece in enumerate(pieces):
      size, prompt_segment = self._prompt_lengths[piece.prompt], segment + 1
      segment = prompt_segment
      self._write(row, slot, self._prompts[piece.prompt, :size], 0, segment)
      slot += size
      last = slot - 1
      self._rows["prompt_places"][row, q] = last
      self._index["prompt"][row, q] = piece.prompt
      self._first[row, q] = piece.prompt not in self._seen
      self._repeated[row] += 0 if self._first[row, q] else size
      self._seen.add(piece.prompt)
      for response in piece.responses:
        tokens = self._lengths[response]
        segment += self._shared
        prefix = prompt_segment if self._shared else 0
        ids = self._responses[response, :tokens]
        self._write(row, slot, ids[:-1], size, segment, prefix)
        place = (row, slice(target, target + tokens))
        self._rows["targets"][place] = ids
        self._rows["sources"][place] = np.arange(slot - 1, slot + tokens - 1)
        self._rows["sources"][row, target] = last
        self._index["token"][place] = response * self._t + np.arange(tokens)
        self._index["response"][row, number] = response
        self._of_response["starts"][row, number] = target
        self._of_response["owner"][row, number] = q
        slot, target, number = slot + tokens - 1, target + tokens, number + 1
    self._rows["counts"][row], self._rows["prompt_counts"][row] = target, len(pieces)

  def _write(
    self, row: int, slot: int, ids: np.ndarray, position: int, segment: int, prefix: int = 0
  ) -> None:
    place = (row, slice(slot, slot + len(ids)))
    self._rows["tokens"][place] = ids
    self._rows["positions"][place] = position + np.arange(len(ids))
    self._rows["segment_ids"][place] = segment
    self._rows["prefix_ids"][place] = prefix

  def built(self) -> PackedPlaces:
    rows = PackedRows(**self._rows)
    if not self._shared:
      rows = dataclasses.replace(rows, prefix_ids=None)
    return PackedPlaces(
      rows, **self._index, **self._of_response, first=self._first, repeated=self._repeated,
      shape=self._shape,
    )  # fmt: skip


def _taken(x: np.ndarray, index: np.ndarray, axes: int) -> np.ndarray:
  x = np.asarray(x)
  flat = x.reshape(-1, *x.shape[axes:])
  taken = flat[np.maximum(index, 0)]
  taken[index < 0] = 0
  return taken


def _put(x: np.ndarray, index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  rest = x.shape[index.ndim :]
  whole = np.zeros((int(np.prod(shape[: len(shape) - len(rest)])), *rest), x.dtype)
  there = index >= 0
  whole[index[there]] = x[there]
  return whole.reshape(shape)

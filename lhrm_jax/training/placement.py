"""Places responses in rows of one length, each prompt once before several of its responses.

Everything is on the host, and a function of the lengths alone.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Piece:
  """A prompt and some of its responses, side by side in one row.

  Attributes:
    prompt: index of the prompt.
    responses: indices of the responses, in order; may be empty.
  """

  prompt: int
  responses: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Room:
  """What one row holds at most.

  Attributes:
    slots: slots, and targets too. A prompt takes its tokens; a response one slot less than it has
      tokens, since its last one is a target only, as its first is of the prompt's last slot.
    responses: responses; also prompts.
    shared: whether several responses share a prompt; otherwise each has a copy of its own.
  """

  slots: int
  responses: int
  shared: bool = True


def place(
  prompt_lengths: Sequence[int], prompt_of: Sequence[int], lengths: Sequence[int], room: Room
) -> list[list[Piece]]:
  """Places every prompt, and every response that has tokens.

  Of two ways the one with fewer rows, or else fewer slots, is taken: whole groups, the largest
  first; and single responses, which repeats more prompts but fills rows better.

  Args:
    prompt_lengths: `[B]` tokens of the prompts.
    prompt_of: `[N]` prompt of each response.
    lengths: `[N]` tokens of the responses; 0 leaves one out.
    room: limits of a row.

  Returns:
    The pieces of each row; no two of a row share their prompt, unless copies are asked for.

  Raises:
    ValueError: a prompt with one of its responses is longer than a row.
  """
  groups: list[list[int]] = [[] for _ in prompt_lengths]
  for response in np.argsort(-np.asarray(lengths), kind="stable").tolist():
    if lengths[response]:
      groups[prompt_of[response]].append(response)
  for prompt, group in enumerate(groups):
    longest = prompt_lengths[prompt] + (lengths[group[0]] - 1 if group else 0)
    if longest > room.slots:
      raise ValueError(
        f"Prompt {prompt} and its longest response take {longest} slots, more than a row's "
        f"{room.slots}: raise packed_length."
      )
  sizes = _Sizes(prompt_lengths, lengths, room)
  pieces = [Piece(p, part) for p, group in enumerate(groups) for part in sizes.cut(p, group)]
  by_group = _first_fit(sorted(pieces, key=lambda piece: -sizes.of(piece)[0]), sizes)
  if not room.shared:
    return by_group
  order = sorted(range(len(groups)), key=lambda p: -sizes.of(Piece(p, tuple(groups[p])))[0])
  single = (Piece(p, (r,)) for p in order for r in groups[p])
  bare = (Piece(p, ()) for p in order if not groups[p])
  by_response = _first_fit([*single, *bare], sizes, join=True)
  return min(by_group, by_response, key=lambda rows: (len(rows), sizes.slots(rows)))


class _Sizes:
  """What pieces take of a row: slots, targets, responses, prompts."""

  def __init__(self, prompt_lengths: Sequence[int], lengths: Sequence[int], room: Room):
    self._prompts, self._lengths, self._shared = prompt_lengths, lengths, room.shared
    self.room = np.array([room.slots, room.slots, room.responses, room.responses])

  def of(self, piece: Piece) -> np.ndarray:
    tokens, count = sum(self._lengths[r] for r in piece.responses), len(piece.responses)
    return np.array([self._prompts[piece.prompt] + tokens - count, tokens, count, 1])

  def cut(self, prompt: int, group: Sequence[int]) -> list[tuple[int, ...]]:
    """A prompt's responses in as few parts as first fit needs, each of which fits into a row."""
    if not group:
      return [()]
    if not self._shared:
      return [(r,) for r in group]
    rows = _first_fit([Piece(prompt, (r,)) for r in group], self, join=True)
    return [piece.responses for row in rows for piece in row]

  def slots(self, rows: Iterable[Sequence[Piece]]) -> int:
    return sum(int(self.of(piece)[0]) for row in rows for piece in row)


def _first_fit(pieces: Sequence[Piece], sizes: _Sizes, join: bool = False) -> list[list[Piece]]:
  """Puts each piece into the first row with room for it.

  Args:
    pieces: in order.
    sizes: what they take.
    join: whether pieces of one prompt become one; rows that hold the prompt are tried first.
  """
  left = np.tile(sizes.room, (len(pieces), 1))  # [rows, 4]
  rows: list[dict[int, Piece]] = []
  holding: dict[int, list[int]] = {}
  for number, piece in enumerate(pieces):
    need = sizes.of(piece)
    alone = sizes.of(Piece(piece.prompt, ()))
    for row in holding.get(piece.prompt, ()) if join else ():
      if (left[row] >= need - alone).all():
        before = rows[row][piece.prompt].responses
        rows[row][piece.prompt] = Piece(piece.prompt, before + piece.responses)
        left[row] -= need - alone
        break
    else:
      row = int(np.argmax((left[: len(rows) + 1] >= need).all(axis=1)))
      if row == len(rows):
        rows.append({})
      rows[row][piece.prompt if join else -1 - number] = piece
      left[row] -= need
      holding.setdefault(piece.prompt, []).append(row)
  return [list(row.values()) for row in rows]

"""Placing prompts and responses in rows: everything once, within limits, little padding."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measuring import MIXES
from lhrm_jax import parallel
from lhrm_jax.training.packed import PackingConfig, RowShape
from lhrm_jax.training.placement import Piece, Room, place

PROMPT, RESPONSE = 6, 20


def slots(pieces, prompts, lengths) -> int:
  return sum(prompts[p.prompt] + sum(lengths[r] - 1 for r in p.responses) for p in pieces)


@given(
  st.lists(
    st.tuples(st.integers(1, PROMPT), st.lists(st.integers(0, RESPONSE), max_size=9)),
    min_size=1, max_size=9,
  ),
  st.integers(PROMPT + RESPONSE - 1, 60), st.integers(1, 8), st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_every_prompt_and_response_has_a_place_within_the_limits(groups, size, most, shared):
  prompts = [prompt for prompt, _ in groups]
  prompt_of = [p for p, (_, responses) in enumerate(groups) for _ in responses]
  lengths = [n for _, responses in groups for n in responses]
  rows = place(prompts, prompt_of, lengths, Room(size, most, shared))
  placed = collections.Counter(r for row in rows for piece in row for r in piece.responses)
  assert placed == {r: 1 for r, n in enumerate(lengths) if n}
  assert {piece.prompt for row in rows for piece in row} == set(range(len(prompts)))
  for row in rows:
    assert slots(row, prompts, lengths) <= size
    assert sum(lengths[r] for piece in row for r in piece.responses) <= size
    assert len(row) <= most and sum(len(piece.responses) for piece in row) <= most
    for piece in row:
      assert all(prompt_of[r] == piece.prompt for r in piece.responses)
      assert shared or len(piece.responses) <= 1


def test_a_group_by_hand():
  """A prompt of 3 with responses of 5, 4 and 3 tokens takes 3 + 4 + 3 + 2 slots."""
  assert place([3], [0, 0, 0], [4, 5, 3], Room(12, 9)) == [[Piece(0, (1, 0, 2))]]
  assert place([3], [0, 0, 0], [4, 5, 3], Room(11, 9)) == [[Piece(0, (1, 0))], [Piece(0, (2,))]]
  assert place([3], [0, 0, 0], [4, 5, 0], Room(20, 9, shared=False)) == [
    [Piece(0, (1,)), Piece(0, (0,))]
  ]
  with pytest.raises(ValueError, match="Prompt 0 and its longest response take 7 slots, more"):
    place([3], [0], [5], Room(6, 9))


def test_a_small_batch_takes_several_blocks_on_an_accelerator():
  """8,192 slots would hold 51 rows of a prompt and a response; only 16 can be full."""
  shape = RowShape.of_responses(PackingConfig(), 32, 128, 16, parallel.make_mesh(), "gpu")
  assert (shape.length, shape.at_a_time) == (32 + 127, 16 // 4)
  many = RowShape.of_responses(PackingConfig(), 32, 128, 4096, parallel.make_mesh(), "gpu")
  assert many.at_a_time == 8192 // many.length


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("prompts", "longest"), [(128, 128), (32, 1024)])
def test_large_batches_are_hardly_padded(mix, prompts, longest):
  lengths = MIXES[mix](prompts, 4, longest).ravel()
  shape = RowShape.of_responses(PackingConfig(), 32, longest, 8 * prompts, parallel.make_mesh())
  rows = place(
    [32] * prompts, np.repeat(np.arange(prompts), 8).tolist(), lengths.tolist(),
    Room(shape.length, 32 * -(-shape.length // (31 + longest))),
  )  # fmt: skip
  needed = 32 * prompts + (lengths - 1).sum()
  assert 1 - needed / (len(rows) * shape.length) <= 0.08

"""Batches in order of length, within a bound on slots."""

import numpy as np
import pytest

from lhrm_jax.evaluation.batching import make_batches

LENGTHS = [3, 200, 70, 5, 64, 130, 1]


def batches_of(lengths=LENGTHS, **changes):
  options = {
    "pad_id": 0, "max_prompt_tokens": 220, "batch_prompts": 2, "replies": 4,
    "max_response_tokens": 10, **changes,
  }  # fmt: skip
  return make_batches([[7] * n for n in lengths], **options)


def test_every_prompt_is_in_one_batch_the_longest_first():
  batches = batches_of()
  assert np.concatenate([b.places for b in batches]).tolist() == [1, 5, 2, 4, 3, 0, 6]
  assert [b.prompts.tokens.shape for b in batches] == [(2, 220), (2, 128), (2, 64), (2, 64)]
  for batch in batches:
    ids, lengths = batch.prompts.ids, batch.prompts.lengths
    assert ids[: len(batch.places)].tolist() == batch.places.tolist()
    assert [LENGTHS[i] for i in ids] == lengths.tolist()
    assert (batch.prompts.tokens == 7).sum(axis=1).tolist() == lengths.tolist()
  assert batches[-1].places.tolist() == [6]  # filled up, so that one program serves two batches


def test_slots_of_prompts_and_replies_are_bounded():
  for batch in batches_of(batch_prompts=100, batch_tokens=360):
    rows, width = batch.prompts.tokens.shape
    assert rows * (width + 4 * 10) <= 360
  assert len(batches_of(batch_prompts=100, batch_tokens=360)) > len(batches_of(batch_prompts=100))
  with pytest.raises(ValueError, match=r"need 260 slots.*raise evaluation.seeds"):
    batches_of(batch_tokens=259)

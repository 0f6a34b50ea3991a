"""Packing: as few rows as first fit needs, and each sequence as if it stood alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lhrm_jax import policy, text
from lhrm_jax.data import batches, packing
from lhrm_jax.data.batches import Encoded
from lhrm_jax.data.schema import HFTRow
from lhrm_jax.text import CharacterTokenizer, tags
from lhrm_jax.training.hft import hft_loss
from lhrm_jax.training.update import accumulate_rows
from tests.text.test_pretrained import GOLDEN

CONFIG = policy.PolicyConfig(
  vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1
)


def sequences(lengths, seed: int = 0) -> list[Encoded]:
  rng = np.random.default_rng(seed)
  out = []
  for length in lengths:
    ids = tuple(rng.integers(1, 32, length).tolist())
    prompt = int(rng.integers(1, length))
    out.append(Encoded(ids, (0.0,) * prompt + (1.5,) + (1.0,) * (length - prompt - 1)))
  return out


def naive_first_fit(sizes, capacity):
  room, bins = [], []
  for item, size in enumerate(sizes):
    b = next((b for b, free in enumerate(room) if free >= size), len(room))
    if b == len(room):
      room.append(capacity)
      bins.append([])
    room[b] -= size
    bins[b].append(item)
  return bins


@given(st.lists(st.integers(1, 20), max_size=60))
@settings(deadline=None)
def test_first_fit_is_first_fit(sizes):
  assert packing.first_fit(sizes, 20) == naive_first_fit(sizes, 20)


def test_a_packed_row_by_hand():
  pair = [Encoded((5, 6, 7), (0, 2, 1)), Encoded((8, 9), (0, 1))]
  batch = packing.pack(pair, 4, pad_id=0)
  np.testing.assert_array_equal(batch.tokens, [[5, 6, 8, 0]])
  np.testing.assert_array_equal(batch.targets, [[6, 7, 9, 0]])
  np.testing.assert_array_equal(batch.weights, [[2, 1, 1, 0]])
  np.testing.assert_array_equal(batch.segment_ids, [[1, 1, 2, 0]])
  np.testing.assert_array_equal(batch.positions, [[0, 1, 0, 0]])


@given(st.lists(st.integers(2, 17), min_size=1, max_size=30), st.integers(0, 5))
@settings(deadline=None)
def test_every_token_and_weight_is_there_once(lengths, seed):
  given_sequences = sequences(lengths, seed)
  batch = packing.pack(given_sequences, 16, pad_id=0)
  assert int((batch.segment_ids > 0).sum()) == sum(s.slots for s in given_sequences)
  assert batch.weights.sum() == pytest.approx(sum(sum(s.weights) for s in given_sequences))
  found = []
  for row in range(len(batch.tokens)):
    for segment in range(1, batch.segment_ids[row].max() + 1):
      place = batch.segment_ids[row] == segment
      assert batch.positions[row][place].tolist() == list(range(place.sum()))
      found.append((*batch.tokens[row][place].tolist(), int(batch.targets[row][place][-1])))
  assert sorted(found) == sorted(s.ids for s in given_sequences)


@pytest.fixture(scope="module")
def params():
  return jax.jit(policy.init, static_argnums=0)(CONFIG, jax.random.key(1))


@jax.jit
def logprobs(params, batch):
  hidden, _ = policy.apply(CONFIG, params, batch.tokens, batch.positions, batch.segment_ids)
  return policy.token_logprobs(CONFIG, params, hidden, batch.targets).logprobs


@jax.jit
def loss_and_gradient(params, batch):
  def loss(params):
    return -jnp.sum(logprobs(params, batch) * batch.weights) / batch.weights.sum()

  return jax.value_and_grad(loss)(params)


def test_packed_loss_and_gradient_equal_unpacked(params):
  given_sequences = sequences([9, 4, 13, 2, 6, 11, 3])
  packed = packing.pack(given_sequences, 24)
  alone = jax.tree.map(
    lambda *rows: np.concatenate(rows), *[packing.pack([s], 24) for s in given_sequences]
  )
  assert len(packed.tokens) == 2 and len(alone.tokens) == 7
  loss, gradient = loss_and_gradient(params, packed)
  expected, expected_gradient = loss_and_gradient(params, alone)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, expected_gradient
  )


def test_attention_never_crosses_documents(params):
  first, second, third = sequences([8, 8, 8])
  (changed,) = sequences([8], seed=5)
  before = logprobs(params, packing.pack([first, second, third], 24))
  after = logprobs(params, packing.pack([first, changed, third], 24))
  np.testing.assert_array_equal(before[0, :7], after[0, :7])
  np.testing.assert_array_equal(before[0, 14:21], after[0, 14:21])
  assert np.abs(before[0, 7:14] - after[0, 7:14]).max() > 1e-3


def test_a_demonstration_is_trained_from_its_opening_tag_on():
  tokenizer = CharacterTokenizer("12+=")
  row = HFTRow("1+1=", "<no_think>2</no_think>", tags.NO_THINK, tag_weight=3.0)
  encoded = batches.encode(tokenizer, row)
  assert encoded.weights == (0, 0, 0, 0, 3, 1, 1, 1)
  assert encoded.ids[4] == tokenizer.tag_ids.opening[tags.NO_THINK]
  assert encoded.ids[-1] == tokenizer.eos_ids[0]


def test_devices_get_equally_many_rows_whatever_they_compute_at_a_time():
  """Two lanes each: rows of a block go to one device, then to the other."""
  places, rows = packing.in_lanes(5, lanes=4, devices=2)
  assert (places.tolist(), rows) == ([0, 4, 2, 6, 1], 8)
  for count in range(1, 130):
    places, rows = packing.in_lanes(count, lanes=120, least=7, devices=8)
    held = np.bincount(places // (rows // 8), minlength=8)
    assert held.sum() == count and held.max() - held.min() <= 1
    assert len(set(places.tolist())) == count


def test_rows_are_dealt_to_lanes_and_filled_up_with_empty_ones():
  """Four full rows over three lanes of three: a lane's rows lie together, its empty ones last."""
  batch = packing.pack(sequences([9] * 4), 8, lanes=3, least=7)
  assert batch.filled.tolist() == [True, True, False] + 2 * [True, False, False]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(20, 60))
@settings(deadline=None)
def test_no_lengths_need_more_rows_than_most_rows(sizes, length):
  """And decreasing first fit leaves out nothing."""
  bins = packing.first_fit_decreasing(sizes, length)
  assert sorted(i for members in bins for i in members) == list(range(len(sizes)))
  assert all(sum(sizes[i] for i in members) <= length for members in bins)
  assert len(bins) <= packing.most_rows(len(sizes), max(sizes), length)


def test_a_sequence_longer_than_a_row_is_never_cut():
  with pytest.raises(ValueError, match="Sequence 1 takes 9 places, more than a row's 8"):
    packing.pack(sequences([3, 10]), 8)


def test_blocks_of_rows_have_the_loss_of_the_sequences_alone(params):
  """However many rows at a time, whatever the rows that are left empty; one program."""
  given_sequences = sequences([9, 4, 13, 2, 6, 11, 3, 12, 10])

  @functools.partial(jax.jit, static_argnums=2)
  def losses(params, batch, at_a_time):
    loss, gradient, metrics = accumulate_rows(
      functools.partial(hft_loss, CONFIG), params, batch, at_a_time
    )
    return loss, gradient, metrics["perf/padding_share"]

  expected, expected_gradient, _ = losses(params, batches.pad(given_sequences, 24), 9)
  sizes = []
  for lanes in (1, 2):
    packed = packing.pack(given_sequences, 24, lanes=lanes, least=8)
    assert packed.tokens.shape == (8, 24) and packed.filled.sum() == 3
    loss, gradient, padding = losses(params, packed, lanes)
    np.testing.assert_allclose(loss.mean(), expected.mean(), rtol=1e-6)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, expected_gradient
    )
    sizes.append((padding.count, padding.total))
  assert sizes == [(72, 72 - 61), (96, 96 - 61)], "61 slots in three rows; the last pair has one"
  losses(params, packing.pack(sequences([2, 2]), 24, lanes=2, least=8), 2)
  assert losses._cache_size() == 3


def test_earlier_messages_are_context_and_not_learned():
  tokenizer = text.load_tokenizer(GOLDEN / "qwen3_tied")
  turns = (("user", "Hi"), ("assistant", "<no_think>Hello</no_think>"))
  row = HFTRow("1+1?", "<no_think>2</no_think>", tags.NO_THINK, earlier=turns)
  encoded = batches.encode(tokenizer, row)
  response = tokenizer.encode_response(row.response)
  assert list(encoded.ids[-len(response) :]) == response
  assert encoded.weights == (0,) * (len(encoded.ids) - len(response)) + (1,) * len(response)
  context = tokenizer.decode(list(encoded.ids[: -len(response)]))
  assert context.index("Hi") < context.index("Hello") < context.index("1+1?")
  padded = batches.encode_demonstrations(tokenizer, [row], len(encoded.ids))
  assert padded.tokens[0, : encoded.slots].tolist() == list(encoded.ids[:-1])
  with pytest.raises(ValueError, match="earlier messages, which CharacterTokenizer cannot encode"):
    batches.encode(CharacterTokenizer("12+?"), row)

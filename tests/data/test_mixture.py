"""Weighted mixtures: shares, limits, every row once per epoch, nothing but seed and place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lhrm_jax.data.batches import Encoded
from lhrm_jax.data.mixture import Mixture
from lhrm_jax.data.packing import pack

SIZES = st.lists(st.integers(1, 3000), min_size=1, max_size=6)


def by_rows(sizes, epochs=None, seed=(0,)):
  limits = tuple(None if epochs is None else epochs * n for n in sizes)
  return Mixture(tuple(map(float, sizes)), limits, seed)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(0, 5))
def test_sources_weighted_by_their_rows_give_every_row_once_per_epoch(sizes, seed):
  total = sum(sizes)
  for limit in (None, 3):
    mixture = by_rows(sizes, limit, (seed,))
    for epoch in range(3):
      drawn = mixture.draws(epoch * total, total)
      for source, size in enumerate(sizes):
        rows = np.sort(drawn.numbers[drawn.sources == source])
        np.testing.assert_array_equal(rows, np.arange(epoch * size, (epoch + 1) * size))


@settings(max_examples=30, deadline=None)
@given(SIZES, st.lists(st.integers(1, 4000), min_size=1, max_size=5))
def test_draws_do_not_depend_on_how_the_stream_is_cut(sizes, cuts):
  mixture, at = by_rows(sizes), 0
  whole = mixture.draws(0, sum(cuts))
  for cut in cuts:
    part = mixture.draws(at, cut)
    np.testing.assert_array_equal(part.sources, whole.sources[at : at + cut])
    np.testing.assert_array_equal(part.numbers, whole.numbers[at : at + cut])
    at += cut
  counts = np.bincount(whole.sources, minlength=len(sizes))
  np.testing.assert_array_equal(mixture.counts(at), counts)


@settings(max_examples=40, deadline=None)
@given(
  st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(1, 8), st.integers(1, 50),
  st.integers(0, 5),
)  # fmt: skip
def test_any_number_of_hosts_sees_every_row_once_per_epoch(sizes, hosts, per_step, seed):
  """Each host draws a step, packs it, and feeds its own part of the rows."""
  total, before = sum(sizes), np.cumsum([0, *sizes[:-1]])
  for epoch in range(2):
    fed: list[int] = []
    for start in range(0, total, per_step):
      drawn = by_rows(sizes, seed=(seed,)).draws(
        epoch * total + start, min(per_step, total - start)
      )
      numbers = drawn.numbers - epoch * np.array(sizes)[drawn.sources]
      names = (before[drawn.sources] + numbers + 1).tolist()
      sequences = [Encoded([name] * (2 + name % 5), [1.0] * (2 + name % 5)) for name in names]
      batch = pack(sequences, 12, lanes=2 * hosts, devices=hosts)
      for of_host in np.split(np.arange(len(batch.tokens)), hosts):
        for tokens, segments in zip(batch.tokens[of_host], batch.segment_ids[of_host], strict=True):
          fed += [tokens[segments == s][0] for s in range(1, segments.max() + 1)]
    assert sorted(fed) == list(range(1, total + 1))


def test_each_source_makes_its_draws_in_order_and_in_proportion_to_its_weight():
  mixture = Mixture((3.0, 1.0, 0.01), (None, None, None), (7,))
  drawn = mixture.draws(0, 40_000)
  for source, weight in enumerate(mixture.weights):
    numbers = drawn.numbers[drawn.sources == source]
    np.testing.assert_array_equal(np.sort(numbers), np.arange(len(numbers)))
    assert len(numbers) == pytest.approx(40_000 * weight / 4.01, abs=2)
  half = np.bincount(drawn.sources[:20_000], minlength=3)
  assert half[0] == pytest.approx(15_000 * 4 / 4.01, abs=3), "evenly spread"


def test_a_source_at_its_limit_leaves_the_rest_to_the_others_and_all_at_theirs_end_the_stream():
  mixture = Mixture((1.0, 1.0), (5000, 20_000), (0,))
  drawn = mixture.draws(0, 25_000)
  assert np.bincount(drawn.sources).tolist() == [5000, 20_000]
  assert set(drawn.sources[10_010:]) == {1}
  assert mixture.counts(30_000).tolist() == [5000, 20_000]
  with pytest.raises(ValueError, match="end after 25,000 rows"):
    mixture.draws(24_999, 2)


def test_another_seed_gives_another_order_of_the_same_draws():
  one, other = (by_rows([500, 700], seed=(seed,)).draws(0, 1200).sources for seed in (0, 1))
  assert (one != other).any() and sorted(one) == sorted(other)


def test_a_place_far_into_the_stream_costs_no_more_than_the_first():
  mixture = by_rows([649_569, 25_339, 741])
  far = mixture.draws(10**10, 4)
  assert far.numbers.max() > 10**9 // 200

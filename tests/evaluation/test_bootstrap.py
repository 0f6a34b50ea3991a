"""Intervals over seeds and prompts, against all resamples written out."""

import itertools

import numpy as np
import pytest

from lhrm_jax.evaluation import bootstrap


def every_resample(values):
  """Means of all resamples of seeds and, apart from them, of prompts."""
  seeds, prompts = values.shape
  return [
    values[np.ix_(s, p)].mean()
    for s in itertools.product(range(seeds), repeat=seeds)
    for p in itertools.product(range(prompts), repeat=prompts)
  ]


def test_one_seed_is_resampled_over_its_prompts():
  # Means of two draws from 0 and 1: 0, .5, .5, 1, each 25 %.
  assert bootstrap.interval(np.array([[0.0, 1.0]])) == (0, 1)


def test_the_interval_is_that_of_all_resamples():
  values = np.array([[0.0, 1.0, 1.0], [1.0, 3.0, 0.0]])
  expected = np.quantile(every_resample(values), (0.025, 0.975))
  assert bootstrap.interval(values) == pytest.approx(expected, abs=0.05)


def test_seeds_that_differ_widen_it_however_many_prompts_there_are():
  values = np.repeat([[0.2], [0.4], [0.6]], 1000, axis=1)
  # The mean of three seeds; all three the same one has 1/27 = 3.7 %, more than the 2.5 % cut off.
  assert bootstrap.interval(values) == pytest.approx((0.2, 0.6))


def test_a_difference_that_is_the_same_on_every_prompt_is_certain():
  rng = np.random.default_rng(0)
  hard = rng.uniform(0, 0.5, (1, 50)) + rng.uniform(0, 0.3, (4, 1))
  low, high = bootstrap.interval(hard)
  assert high - low > 0.05
  assert bootstrap.interval((hard + 0.1) - hard) == pytest.approx((0.1, 0.1))


def test_a_share_of_one_is_not_taken_for_certain():
  low, high = bootstrap.share_interval(np.ones((5, 16)))
  # Wilson of 16 in 16: 1 / (1 + 1.96^2 / 16).
  assert low == pytest.approx(1 / (1 + 1.959964**2 / 16)) and high == 1


@pytest.mark.parametrize("values", [np.ones(3), np.ones((0, 3)), np.ones((2, 0))])
def test_other_shapes_are_refused(values):
  with pytest.raises(ValueError, match=r"must be \[S, K\]"):
    bootstrap.interval(values)


def test_resamples_are_drawn_in_chunks_and_stay_the_same_ones(monkeypatch):
  values = np.random.default_rng(0).normal(size=(3, 50))
  whole = bootstrap.interval(values), bootstrap.over_resamples(lambda w: w @ values[0], 50)
  bootstrap._counts.cache_clear()
  monkeypatch.setattr(bootstrap, "_CHUNK", 50 * 7)
  shapes = []

  def mean(weights):
    shapes.append(weights.shape)
    return weights @ values[0]

  parts = bootstrap.interval(values), bootstrap.over_resamples(mean, 50)
  assert set(shapes) == {(7, 50), (4000 % 7, 50)} and parts[0] == pytest.approx(whole[0], rel=1e-12)
  np.testing.assert_allclose(parts[1], whole[1], atol=1e-14)
  bootstrap._counts.cache_clear()

"""Calibration of p(think) against worked-out values."""

import numpy as np
import pytest

from lhrm_jax.evaluation.calibration import (
  auroc,
  auroc_interval,
  calibration,
  gains,
  p_think,
  reliability,
)


def forced(*modes):
  """Scores or lengths `[K, 2, n]` from pairs of lists."""
  return np.array(modes, float)


def test_p_think_is_of_the_two_tags():
  first = np.array([[0.3, 0.1, 0.6], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]], np.float32)
  np.testing.assert_allclose(p_think(first), [0.75, 0.0, 0.5], rtol=1e-6)
  # Apart where float32 rounds p(think) to 1, so that thresholds still tell them apart.
  assert np.diff(p_think(np.array([[1.0, 1e-9], [1.0, 1e-10]], np.float32)))[0] > 0


@pytest.mark.parametrize(
  "p, outcome, area",
  [
    ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
    ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0),
    ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),  # all tied
    # Pairs of (better, not): .4 > .1, .4 < .5, .5 > .1, .5 = .5: (1 + 0 + 1 + 1/2) / 4
    ([0.4, 0.1, 0.5, 0.5], [1, 0, 1, 0], 0.625),
    ([0.4, 0.1], [1, 1], np.nan),
    ([], [], np.nan),
  ],
)
def test_auroc_counts_pairs_in_order(p, outcome, area):
  np.testing.assert_equal(auroc(np.array(p), np.array(outcome, bool)), area)


def test_the_interval_of_auroc_resamples_prompts():
  rng = np.random.default_rng(0)
  outcome = rng.random(200) < 0.5
  p = np.clip(0.5 + 0.2 * (outcome - 0.5) + 0.2 * rng.standard_normal(200), 0, 1)
  low, high = auroc_interval(p, outcome)
  assert low < auroc(p, outcome) < high and 0.1 < high - low < 0.2  # about 4 x sqrt(.25/200)
  assert auroc_interval(np.array([0.1, 0.9]), np.array([False, True])) == (1.0, 1.0)
  assert np.isnan(auroc_interval(np.array([0.1, 0.9]), np.array([True, True]))).all()


def test_ece_is_the_distance_by_bin_weighted_by_prompts():
  """Two prompts at .2 of which one is better, two at .9 that both are, and 1 in the last bin."""
  p = np.array([0.2, 0.2, 0.9, 1.0])
  scores = forced([[1], [0]], [[1], [1]], [[0.5], [0]], [[1], [0]])
  lengths = forced([[9], [1]], [[9], [1]], [[9], [1]], [[9], [1]])
  found = calibration(p, scores, lengths)
  assert [(b.low, b.high, b.prompts) for b in found.bins] == [(0.2, 0.3, 2), (0.9, 1.0, 2)]
  np.testing.assert_allclose([b.p_think for b in found.bins], [0.2, 0.95])
  assert [b.think_better for b in found.bins] == [0.5, 1.0]
  assert [b.gain for b in found.bins] == [0.5, 0.75]
  np.testing.assert_allclose(found.bins[1].interval, (0.3424, 1.0), atol=1e-4)  # Wilson, 2 of 2
  np.testing.assert_allclose(found.ece, (2 * 0.3 + 2 * 0.05) / 4)
  assert found.think_better == 0.75
  # One prompt is not better served by thinking: .2 ties with one of three, and is below two.
  np.testing.assert_allclose(found.auroc, 2.5 / 3)
  assert np.isnan(found.auroc_decided)  # thinking wins wherever scores differ


def test_length_decides_between_equal_scores_as_in_hybrid_accuracy():
  scores = forced([[1, 1], [1, 1]], [[0, 0], [0, 0]])
  lengths = forced([[9, 9], [2, 2]], [[3, 3], [4, 4]])
  found = calibration(np.array([0.1, 0.9]), scores, lengths)
  assert (found.think_better, found.auroc) == (0.5, 1.0)
  np.testing.assert_array_equal(gains(scores), [0.0, 0.0])


def test_a_calibrated_policy_has_almost_no_error():
  rng = np.random.default_rng(0)
  p = rng.random(20_000)
  outcome = rng.random(20_000) < p
  bins = reliability(p, outcome, outcome.astype(float))
  assert sum(b.prompts * abs(b.p_think - b.think_better) for b in bins) / len(p) < 0.01
  assert sum(b.interval[0] <= b.p_think <= b.interval[1] for b in bins) >= 9


def test_shapes_that_disagree_are_refused():
  with pytest.raises(ValueError, match="disagree"):
    calibration(np.array([0.5]), np.zeros((2, 2, 1)), np.zeros((2, 2, 1)))
  with pytest.raises(ValueError, match="disagree"):
    calibration(np.zeros(0), np.zeros((0, 2, 1)), np.zeros((0, 2, 1)))

"""Hybrid Accuracy against cases worked out by hand."""

import numpy as np
import pytest

from lhrm_jax.evaluation import hybrid_accuracy

SCORES = np.array([
  [[1, 1], [0, 0]],  # think is right more often
  [[1, 1], [1, 1]],  # a tie; no_think is shorter
  [[0, 0], [0, 0]],  # a tie; think is shorter
  [[0, 1], [1, 1]],  # no_think is right more often
])  # fmt: skip
LENGTHS = np.array([
  [[9, 9], [3, 3]],
  [[9, 9], [3, 3]],
  [[2, 2], [3, 3]],
  [[2, 2], [3, 3]],
])  # fmt: skip
BETTER = np.array([0, 1, 0, 1])


def test_every_field_by_hand():
  result = hybrid_accuracy(SCORES, LENGTHS, np.array([0, 1, 1, -1]))
  assert result.score == 0.5
  assert result.always_think == 0.5
  assert result.always_no_think == 0.5
  # Rates: think 1/4, no_think 2/4, invalid 1/4; each mode is better on half of the prompts.
  assert result.random == pytest.approx(0.25 * 0.5 + 0.5 * 0.5)
  assert result.tie_frac == 0.5
  assert result.decided_score == 0.5
  assert result.invalid_frac == 0.25


def test_choosing_the_better_mode_scores_one():
  result = hybrid_accuracy(SCORES, LENGTHS, BETTER)
  assert result.score == 1.0
  assert result.interval == (1.0, 1.0)
  assert hybrid_accuracy(SCORES, LENGTHS, 1 - BETTER).score == 0.0


def test_margin_makes_ties():
  """At a margin of 0.5 the fourth prompt is a tie, which thinking, shorter there, wins."""
  result = hybrid_accuracy(SCORES, LENGTHS, np.array([0, 1, 0, 0]), margin=0.5)
  assert result.score == 1.0
  assert result.tie_frac == 0.75


def test_rounding_in_means_makes_no_winner():
  scores = np.array([[[0.1] * 3, [0.1, 0.1, 0.1]]])
  scores[0, 0] += 1e-17
  result = hybrid_accuracy(scores, np.array([[[9] * 3, [1] * 3]]), np.array([1]))
  assert (result.tie_frac, result.score) == (1.0, 1.0)


def test_equal_means_and_lengths_go_to_no_think():
  result = hybrid_accuracy(np.ones((1, 2, 2)), np.ones((1, 2, 2)), np.array([1]))
  assert result.score == 1.0
  assert np.isnan(result.decided_score)


def test_interval_matches_a_plain_bootstrap():
  rng = np.random.default_rng(3)
  chosen = rng.integers(0, 2, 60)
  scores = rng.integers(0, 2, (60, 2, 4)).astype(float)
  lengths = rng.integers(1, 9, (60, 2, 4))
  result = hybrid_accuracy(scores, lengths, chosen)
  lead = scores[:, 0].mean(1) - scores[:, 1].mean(1)
  think = np.where(lead == 0, lengths[:, 0].mean(1) < lengths[:, 1].mean(1), lead > 0)
  right = chosen == np.where(think, 0, 1)
  draws = right[rng.integers(0, 60, (4000, 60))].mean(1)
  np.testing.assert_allclose(result.interval, np.percentile(draws, [2.5, 97.5]), atol=0.03)


@pytest.mark.parametrize(
  "scores, lengths, chosen",
  [
    (np.ones((3, 3, 2)), np.ones((3, 3, 2)), np.ones(3)),
    (np.ones((3, 2, 2)), np.ones((3, 2, 1)), np.ones(3)),
    (np.ones((3, 2, 2)), np.ones((3, 2, 2)), np.ones(2)),
    (np.ones((0, 2, 2)), np.ones((0, 2, 2)), np.ones(0)),
  ],
)
def test_wrong_shapes_are_refused(scores, lengths, chosen):
  with pytest.raises(ValueError, match=r"\[K, 2, n\]"):
    hybrid_accuracy(scores, lengths, chosen)

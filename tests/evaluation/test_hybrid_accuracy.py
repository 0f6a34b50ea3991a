"""Hybrid Accuracy against cases worked out by hand."""

import numpy as np
import pytest

from lhrm_jax.evaluation import hybrid_accuracy
from lhrm_jax.evaluation.hybrid_accuracy import ceiling, wilson_interval

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
  # Lost: nothing; nothing (a tie); nothing (a tie); all that no_think earns.
  assert result.regret_accuracy == pytest.approx((0 + 0 + 0 + 1) / 4)
  # Spent beyond the better mode's, where a mode was chosen: 0, 0 and 3 - 2 tokens.
  assert result.regret_tokens == pytest.approx(1 / 3)


def test_choosing_the_better_mode_scores_one():
  result = hybrid_accuracy(SCORES, LENGTHS, BETTER)
  assert result.score == 1.0
  assert (result.regret_accuracy, result.regret_tokens) == (0.0, 0.0)
  assert hybrid_accuracy(SCORES, LENGTHS, 1 - BETTER).score == 0.0


def test_regret_counts_what_the_other_mode_would_have_earned_and_spent():
  result = hybrid_accuracy(SCORES, LENGTHS, 1 - BETTER)
  assert result.regret_accuracy == pytest.approx((1 + 0 + 0 + 0.5) / 4)
  assert result.regret_tokens == pytest.approx((-6 + 6 + 1 - 1) / 4)


def test_no_valid_choice_earns_nothing_and_has_no_tokens():
  result = hybrid_accuracy(SCORES, LENGTHS, np.full(4, -1))
  assert result.regret_accuracy == pytest.approx((1 + 1 + 0 + 1) / 4)
  assert np.isnan(result.regret_tokens)


def test_a_sampled_first_token_is_expected_to_choose_by_its_probabilities():
  probs = np.array([[0.9, 0.1, 0], [0.2, 0.5, 0.3], [0.6, 0.4, 0], [0, 1, 0]])
  result = hybrid_accuracy(SCORES, LENGTHS, BETTER, mode_probs=probs)
  assert result.expected_score == pytest.approx((0.9 + 0.5 + 0.6 + 1) / 4)
  assert np.isnan(hybrid_accuracy(SCORES, LENGTHS, BETTER).expected_score)


@pytest.mark.parametrize(
  "successes, trials, interval",
  [
    (4, 4, (0.5101, 1.0)),  # n / (n + z^2)
    (0, 4, (0.0, 0.4899)),
    (50, 100, (0.4038, 0.5962)),
    (294, 300, (0.9570, 0.9908)),
  ],
)
def test_the_interval_is_wilsons(successes, trials, interval):
  assert wilson_interval(successes, trials) == pytest.approx(interval, abs=1e-4)


def test_the_ceiling_by_hand():
  """Halves of one sample each. They agree on three of four prompts: a = 3/4."""
  scores = np.array([[[1, 1], [0, 0]], [[0, 1], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [1, 1]]])
  assert ceiling(scores, np.ones((4, 2, 2))) == pytest.approx(0.5 + 0.5 * 0.5**0.5)
  assert ceiling(scores[[0, 3]], np.ones((2, 2, 2))) == 1.0
  assert ceiling(scores[[1]], np.ones((1, 2, 2))) == 0.5
  assert np.isnan(ceiling(scores[:, :, :1], np.ones((4, 2, 1))))


@pytest.mark.parametrize("samples, tolerance", [(4, 0.06), (16, 0.02)])
def test_the_ceiling_is_near_the_score_of_an_oracle(samples, tolerance):
  rng = np.random.default_rng(0)
  truth = np.stack([rng.beta(3, 2, 4000), rng.beta(2, 2, 4000)], axis=1)
  scores = (rng.random((4000, 2, samples)) < truth[:, :, None]).astype(float)
  lengths = np.broadcast_to(np.array([9, 3])[:, None], scores.shape)
  result = hybrid_accuracy(scores, lengths, (truth[:, 0] < truth[:, 1]).astype(int))
  assert result.ceiling == pytest.approx(result.score, abs=tolerance)


def test_margin_makes_ties():
  """Above 0.5 the fourth prompt is a tie, which thinking, shorter there, wins; at 0.5 it is not."""
  result = hybrid_accuracy(SCORES, LENGTHS, np.array([0, 1, 0, 0]), margin=0.51)
  assert (result.score, result.tie_frac) == (1.0, 0.75)
  exactly = hybrid_accuracy(SCORES, LENGTHS, BETTER, margin=0.5)
  assert (exactly.score, exactly.tie_frac) == (1.0, 0.5)
  with pytest.raises(ValueError, match="margin=-1"):
    hybrid_accuracy(SCORES, LENGTHS, BETTER, margin=-1)
  with pytest.raises(ValueError, match=r"chosen_mode holds .* 2"):
    hybrid_accuracy(SCORES, LENGTHS, np.where(BETTER == 1, 2, BETTER))


@pytest.mark.parametrize("lead, margin", [(0.2, 0.2), (0.1, 0.1), (0.7, 0.7)])
def test_means_that_are_a_margin_apart_are_decided_whatever_the_rounding(lead, margin):
  scores = np.array([[[0.3 + lead] * 3, [0.3] * 3]], np.float32)
  lengths = np.array([[[9] * 3, [1] * 3]])
  assert hybrid_accuracy(scores, lengths, np.array([0]), margin=margin).tie_frac == 0
  assert hybrid_accuracy(scores, lengths, np.array([0]), margin=margin + 0.01).tie_frac == 1


def test_float32_means_that_differ_by_rounding_alone_are_equal():
  scores = np.array([[[0.3, 0.9], [0.6, 0.6]]], np.float32)
  result = hybrid_accuracy(scores, np.array([[[9, 9], [1, 1]]]), np.array([1]))
  assert (result.tie_frac, result.score) == (1.0, 1.0)


def test_rounding_in_means_makes_no_winner():
  scores = np.array([[[0.1] * 3, [0.1, 0.1, 0.1]]])
  scores[0, 0] += 1e-17
  result = hybrid_accuracy(scores, np.array([[[9] * 3, [1] * 3]]), np.array([1]))
  assert (result.tie_frac, result.score) == (1.0, 1.0)


def test_equal_means_and_lengths_go_to_no_think():
  result = hybrid_accuracy(np.ones((1, 2, 2)), np.ones((1, 2, 2)), np.array([1]))
  assert result.score == 1.0
  assert np.isnan(result.decided_score)


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

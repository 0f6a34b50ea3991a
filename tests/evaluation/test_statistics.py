"""Statistics of repeated replies, by hand."""

import itertools
import math

import numpy as np
import pytest

from lhrm_jax.evaluation import statistics


def test_pass_at_k_by_hand():
  """One prompt, 2 of 4 right: two draws both miss with 2/4 * 1/3 = 1/6."""
  scores = np.array([[1, 0, 0, 1.0]])
  assert statistics.pass_at_k(scores, 1) == pytest.approx(1 / 2)
  assert statistics.pass_at_k(scores, 2) == pytest.approx(5 / 6)
  assert statistics.pass_at_k(scores, 3) == 1
  with pytest.raises(ValueError, match="from 1 to 4"):
    statistics.pass_at_k(scores, 5)


def test_pass_at_k_is_the_mean_over_all_subsets():
  scores = np.array([[1, 0, 0, 0, 1.0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 1]])
  for k in range(1, 6):
    subsets = itertools.combinations(range(5), k)
    solved = np.mean([scores[:, list(of)].max(axis=1) for of in subsets])
    assert statistics.pass_at_k(scores, k) == pytest.approx(solved)


def test_average_at_k_by_hand():
  """Means of the prompts: 1, 1/2 and 0. Within them the variances are 0, 1/2 and 0."""
  found = statistics.average_at_k(np.array([[1, 1.0], [1, 0], [0, 0]]))
  assert found.k == 2 and found.mean == pytest.approx(0.5)
  assert found.standard_error == pytest.approx(0.5 / math.sqrt(3))
  assert found.sampling_error == pytest.approx(math.sqrt(0.5 / 2) / 3)
  low, high = found.interval
  assert low < 0.5 - 0.2 and high > 0.5 + 0.2


def test_one_reply_to_each_of_30_problems_has_an_error_of_9_points():
  scores = np.repeat([1.0, 0], [10, 20])[:, None]
  assert statistics.average_at_k(scores).standard_error == pytest.approx(0.0875, abs=1e-4)
  assert math.isnan(statistics.average_at_k(scores).sampling_error)


def test_all_right_is_not_certain():
  low, high = statistics.average_at_k(np.ones((30, 4))).interval
  assert low == pytest.approx(0.886, abs=1e-3) and high == 1


def test_scores_beyond_0_and_1_have_a_normal_interval():
  low, high = statistics.average_at_k(np.array([[-2.0], [2.0]])).interval
  assert high == -low == pytest.approx(1.96 * math.sqrt(8) / math.sqrt(2), rel=1e-4)


def test_majority_by_hand():
  """Prompt 1: two right ones, written apart, beat one wrong. 2: a tie of right and wrong. 3: the
  wrong answer wins over one right one; a reply without an answer has no vote. 4: no votes.
  """
  scores = np.array([[1, 1, 0.0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
  answers = [["1/2", "0.5", "3"], ["7", "8", None], ["4", "4", "5"], [None, None, None]]
  assert statistics.majority_at_k(scores, answers) == pytest.approx((1 + 0.5 + 0 + 0) / 4)


def test_percentiles_and_the_k_of_a_table():
  found = statistics.percentiles(np.arange(101))
  assert found == {"5": 5, "25": 25, "50": 50, "75": 75, "95": 95, "99": 99}
  assert statistics.powers_up_to(1) == [1]
  assert statistics.powers_up_to(6) == [1, 2, 4, 6]

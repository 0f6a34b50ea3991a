"""Rules that choose a mode, on forced replies whose better modes are known."""

import json

import numpy as np
import pytest

from lhrm_jax.evaluation import dial_sweep, routers
from lhrm_jax.evaluation.tradeoff import (
  Outcomes,
  curve,
  point,
  shares_at,
  shares_of_modes,
  shares_of_one,
)

# Four prompts: thinking gains 1, gains 1/2, gains nothing, loses 1/2. Two replies per mode.
SCORES = np.array([[[1, 1], [0, 0]], [[1, 1], [1, 0]], [[1, 1], [1, 1]], [[1, 0], [1, 1]]], float)
LENGTHS = np.array([[[9, 11], [2, 2]], [[20, 20], [2, 4]], [[8, 8], [1, 1]], [[7, 7], [5, 5]]])
OUTCOMES = Outcomes.of(SCORES, LENGTHS)
BEST = np.array([4.0, 3.0, 2.0, 1.0])  # a router that knows the gains


def test_outcomes_are_means_and_better_modes():
  np.testing.assert_array_equal(OUTCOMES.scores, [[1, 0], [1, 0.5], [1, 1], [0.5, 1]])
  np.testing.assert_array_equal(OUTCOMES.tokens, [[10, 2], [20, 3], [8, 1], [7, 5]])
  np.testing.assert_array_equal(OUTCOMES.better, [0, 0, 1, 1])  # a tie goes to the shorter
  np.testing.assert_array_equal(OUTCOMES.gain, [1, 0.5, 0, -0.5])


@pytest.mark.parametrize(
  "ranking, rate, think",
  [
    (BEST, 0.5, [1, 1, 0, 0]),
    (BEST, 0.375, [1, 0.5, 0, 0]),  # one and a half prompts
    (BEST, 0.0, [0, 0, 0, 0]),
    (BEST, 1.0, [1, 1, 1, 1]),
    ([1, 1, 1, 1], 0.25, [0.25] * 4),  # nothing is known: chance
    ([5, 1, 1, 0], 0.5, [1, 0.5, 0.5, 0]),
    ([np.inf, 2, -np.inf, 0], 0.5, [1, 1, 0, 0]),
  ],
)
def test_a_rule_thinks_on_the_highest_at_exactly_the_rate(ranking, rate, think):
  shares = shares_at(np.array(ranking, float), rate)
  np.testing.assert_allclose(shares, np.stack([think, 1 - np.array(think)], 1))


def test_points_of_a_router_that_knows_the_best_modes():
  at = point(OUTCOMES, shares_at(BEST, 0.5))
  assert (at.think_rate, at.accuracy, at.tokens, at.hacc) == (0.5, 1.0, (10 + 20 + 1 + 5) / 4, 1.0)
  assert at.accuracy_interval[1] == 1.0 and at.accuracy_interval[0] < 0.6  # four prompts say little
  rates = [0.0, 0.25, 0.5, 0.75, 1.0]
  found = curve(OUTCOMES, BEST, rates)
  assert [p.accuracy for p in found] == [0.625, 0.875, 1.0, 1.0, 0.875]
  assert [p.tokens for p in found] == [11 / 4, 19 / 4, 36 / 4, 43 / 4, 45 / 4]
  assert [p.hacc for p in found] == [0.5, 0.75, 1.0, 0.75, 0.5]


def test_a_reply_in_neither_mode_scores_nothing():
  shares = shares_of_modes(np.array([[0, 0], [0, 1], [-1, -1], [1, -1]]))
  np.testing.assert_array_equal(shares, [[1, 0], [0.5, 0.5], [0, 0], [0, 0.5]])
  at = point(OUTCOMES, shares)
  assert (at.accuracy, at.hacc) == ((1 + 0.75 + 0 + 0.5) / 4, (1 + 0.5 + 0 + 0.5) / 4)
  assert at.tokens == (10 + 11.5 + 4.5 + (2.5 + 3)) / 4


def test_comparison_at_the_policys_rate_and_over_all_rates():
  """The policy thinks on the first and the last prompt; p(think) is upside down."""
  chosen = shares_of_modes(np.array([[0], [1], [1], [0]]))
  rankings = {"best": BEST, "same": BEST * 0}
  decided = {"best": np.array([0, 1, 1, 1])}
  found = routers.compare(OUTCOMES, chosen, -BEST / 10 + 1, rankings, decided)
  json.dumps(found)
  by = found["routers"]
  assert found["think_rate"] == 0.5 and found["prompts"] == 4
  assert by["policy"]["point"]["accuracy"] == (1 + 0.5 + 1 + 0.5) / 4
  assert by["policy"]["point"]["hacc"] == 0.5
  assert by["best"]["point"]["hacc"] == 1.0
  assert by["best"]["minus_policy"]["hacc"][0] == 0.5
  assert by["best"]["minus_policy"]["accuracy"][0] == pytest.approx(0.25)
  # Paired: better on the second and the last prompt, the same on the others.
  assert 0 <= by["best"]["minus_policy"]["accuracy"][1] <= 0.25
  assert by["best"]["own_threshold"]["hacc"] == 0.75 and "own_threshold" not in by["same"]
  assert by["tag"]["point"]["hacc"] == 0.0
  assert by["oracle"]["point"]["accuracy"] == 1.0 and by["oracle"]["point"]["hacc"] == 1.0
  assert by["oracle"]["curve"][5]["accuracy"] == 0.875, "the largest gain first"
  assert by["oracle"]["curve"][15]["accuracy"] == 1.0, "then what costs nothing but tokens"
  assert by["always"]["point"]["think_rate"] == 1.0 and by["never"]["point"]["think_rate"] == 0.0
  assert by["always"]["point"]["accuracy"] == 0.875 and by["never"]["point"]["accuracy"] == 0.625
  for name in ("random", "same"):
    assert by[name]["point"]["accuracy"] == 0.75
    assert by[name]["over_rates"]["accuracy"][0] == pytest.approx(0.75)
  # What a perfect and an inverted ranking gain over chance are each other's negative.
  best, worst = (by[name]["over_rates"]["accuracy"][0] - 0.75 for name in ("best", "tag"))
  assert best == pytest.approx(-worst) and best > 0.1
  assert by["best"]["over_rates_minus_tag"]["accuracy"][0] == pytest.approx(2 * best)
  assert "curve" not in by["always"] and len(by["best"]["curve"]) == 21


def test_remarks_name_the_routers_that_match_the_policy():
  """Twenty copies of each prompt: enough to tell chance from the best."""
  outcomes = Outcomes.of(np.tile(SCORES, (20, 1, 1)), np.tile(LENGTHS, (20, 1, 1)))
  chosen = np.eye(2)[outcomes.better]
  noise = np.random.default_rng(0).permutation(80).astype(float)
  found = routers.compare(outcomes, chosen, chosen[:, 0], {"best": outcomes.gain, "noise": noise})
  said = "\n".join(routers.remarks(found))
  assert "best matches the policy's choice in Hybrid Accuracy: +0.000 (+0.000 to +0.000)." in said
  assert "noise" not in said and "random" not in said and "never" not in said
  weak = routers.compare(outcomes, shares_of_one(1, 80), noise, {"best": outcomes.gain})
  assert "always matches the policy's choice in Hybrid Accuracy" in str(routers.remarks(weak))
  assert "always beats the policy's choice in accuracy" not in str(routers.remarks(weak))
  assert routers.remarks(weak)[0].startswith("The policy thinks on no prompts")
  assert "best beats the policy's tag in accuracy over all think rates" in str(
    routers.remarks(weak)
  )
  shown = routers.table(found)
  assert "| `best` | 0.50 | 1.000 (" in shown and shown.count("\n") == 9


def test_a_router_cannot_take_the_place_of_the_policy():
  with pytest.raises(ValueError, match="called oracle, tag"):
    routers.compare(OUTCOMES, shares_of_one(0, 4), BEST, {"tag": BEST, "oracle": BEST})


# ---- Dials


def test_a_bias_multiplies_the_odds_of_thinking():
  first = np.array([[0.2, 0.3, 0.5], [0.9, 0.1, 0.0]])
  np.testing.assert_allclose(dial_sweep.shares_with_bias(first, 0.0), first[:, :2])
  shares = dial_sweep.shares_with_bias(first, np.log(4))
  np.testing.assert_allclose(shares, [[0.8 / 1.6, 0.3 / 1.6], [3.6 / 3.7, 0.1 / 3.7]])
  np.testing.assert_allclose(dial_sweep.shares_with_bias(first, -1e4)[0], [0, 0.375])
  np.testing.assert_allclose(dial_sweep.shares_with_bias(first, 1e4), [[1, 0], [1, 0]])


def test_a_threshold_of_1_never_thinks_and_0_always_does():
  p = np.array([1.0, 0.5, 0.0])
  np.testing.assert_array_equal(dial_sweep.shares_with_threshold(p, 1.0)[:, 0], [0, 0, 0])
  np.testing.assert_array_equal(dial_sweep.shares_with_threshold(p, 0.5)[:, 0], [1, 1, 0])
  np.testing.assert_array_equal(dial_sweep.shares_with_threshold(p, 0.0)[:, 0], [1, 1, 1])


def test_a_sweep_needs_no_sampling_and_meets_the_forced_modes():
  first = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.3, 0.7, 0], [0.2, 0.8, 0]])
  found = dial_sweep.sweep(OUTCOMES, first, biases=(-1e4, 0.0, 1e4))
  json.dumps(found)
  biased = found["tag_bias"]
  assert [p["tag_bias"] for p in biased] == [-1e4, 0.0, 1e4]
  assert [p["accuracy"] for p in biased] == [0.625, pytest.approx(0.9), 0.875]
  by_rate = {p["think_rate"]: p for p in found["threshold"]}
  assert sorted(by_rate) == [0.0, 0.25, 0.5, 0.75, 1.0]
  assert by_rate[0.5]["accuracy"] == 1.0 and 0.3 < by_rate[0.5]["threshold"] < 0.6
  given = dial_sweep.sweep(OUTCOMES, first, thresholds=(0.0, 0.25, 1.0))["threshold"]
  assert [p["think_rate"] for p in given] == [1.0, 0.75, 0.0]


def test_budgets_change_only_the_thoughts():
  cut = Outcomes.of(SCORES * [[[0.5], [1]]], np.minimum(LENGTHS, 6))
  chosen = shares_of_one(0, 4) * 0.5 + shares_of_one(1, 4) * 0.5
  found = dial_sweep.sweep_budgets(OUTCOMES, {6: cut}, chosen)
  assert [p["budget"] for p in found["budget"]] == [6, 0]
  assert [p["accuracy"] for p in found["budget_think"]] == [0.875 / 2, 0.875]
  assert found["budget"][0]["accuracy"] == pytest.approx((0.875 / 2 + 0.625) / 2)
  assert found["budget_think"][0]["tokens"] == 6.0

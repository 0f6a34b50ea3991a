"""Reward assignment and advantages against numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.objectives import advantages as registry
from lhrm_jax.objectives import hgpo

# Scores (think, no_think), norm(r_inter), norm(r_intra) at delta 0.2, population deviation.
VECTORS = [
  ([[1, 0], [0, 0]], [[1, 1], [-1, -1]], [[1, -1], [0, 0]]),
  ([[1, 1], [1, 0]], [[1, 1], [-1, -1]], [[0, 0], [1, -1]]),
  ([[1, 1], [1, 1]], [[-1, -1], [1, 1]], [[0, 0], [0, 0]]),
  ([[0.3, 0.9], [0.5, 0.4]], [[-1, -1], [1, 1]], [[-1, 1], [1, -1]]),
]


@pytest.mark.parametrize("scores, inter, intra", VECTORS)
@pytest.mark.parametrize("jit", [False, True])
def test_paper_examples(scores, inter, intra, jit):
  fn = functools.partial(hgpo.advantages, alpha=1.0, delta=0.2)
  result = (jax.jit(fn) if jit else fn)(jnp.array([scores], jnp.float32))
  np.testing.assert_allclose(result.body[0], intra, atol=1e-6)
  np.testing.assert_allclose(result.tag[0], np.add(intra, inter), atol=1e-6)


def test_sample_deviation():
  scores = jnp.array([[[1.0, 0.0], [0.0, 0.0]]])
  result = hgpo.advantages(scores, alpha=1.0, delta=0.2, ddof=1)
  np.testing.assert_allclose(result.body[0, 0], [0.7071, -0.7071], atol=1e-4)
  np.testing.assert_allclose((result.tag - result.body)[0, :, 0], [0.8660, -0.8660], atol=1e-4)


def test_alpha_scales_the_tag_only():
  scores = jnp.array([[[1.0, 0.0], [0.0, 0.0]]])
  once, thrice = (hgpo.advantages(scores, alpha=a, delta=0.2) for a in (1.0, 3.0))
  np.testing.assert_allclose(once.body, thrice.body)
  np.testing.assert_allclose(3 * (once.tag - once.body), thrice.tag - thrice.body, atol=1e-6)


@pytest.mark.parametrize(
  "think, no_think, delta, think_wins",
  [
    (1.0, 1.0, 0.0, False),  # a tie goes to no_think
    (1.0, 0.8, 0.2, False),  # equal once delta is added
    (0.8, 0.6, 0.2, False),  # equal but for rounding in float32
    (1.0, 0.75, 0.2, True),
    (0.5, 0.75, -0.5, True),  # a negative delta favours thinking
  ],
)
def test_delta_is_added_to_no_think(think, no_think, delta, think_wins):
  scores = jnp.array([[[think] * 4, [no_think] * 4]])
  r_inter, _ = hgpo.assign_rewards(scores, delta=delta)
  np.testing.assert_array_equal(r_inter[0, :, 0], [think_wins, not think_wins])


def test_delta_acts_in_steps_of_one_over_g():
  """With G = 2 and 0/1 scores all delta in (0, 0.5) are one rule."""
  outcomes = np.array(np.meshgrid(*[[0, 1]] * 4)).T.reshape(-1, 2, 2).astype(np.float32)
  rules = [np.asarray(hgpo.assign_rewards(outcomes, delta=d)[0]) for d in (0.05, 0.2, 0.45, 0.5)]
  np.testing.assert_array_equal(rules[0], rules[1])
  np.testing.assert_array_equal(rules[0], rules[2])
  assert (rules[0] != rules[3]).any()


def test_ties_within_a_mode():
  scores = jnp.array([[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
  _, every = hgpo.assign_rewards(scores, delta=0.2)
  _, first = hgpo.assign_rewards(scores, delta=0.2, tie="first")
  np.testing.assert_array_equal(every[0], [[1, 1, 0], [1, 1, 1]])
  np.testing.assert_array_equal(first[0], [[1, 0, 0], [1, 0, 0]])


def test_unsolved_queries_can_be_skipped():
  scores = jnp.array([np.zeros((2, 2)), [[1, 0], [0, 0]]], jnp.float32)
  literal = hgpo.advantages(scores, alpha=1.0, delta=0.2)
  skipped = hgpo.advantages(scores, alpha=1.0, delta=0.2, skip_unsolved=True)
  np.testing.assert_allclose(literal.tag[0], [[-1, -1], [1, 1]])
  np.testing.assert_allclose(skipped.tag[0], np.zeros((2, 2)))
  np.testing.assert_allclose(skipped.tag[1], literal.tag[1])


# Think solves one of two, no_think neither: r_inter = [1, 1, 0, 0], r_intra = [1, 0, 1, 1].
HALF = [[1.0, 0.0], [0.0, 0.0]]
# Each mode solves one of two: no_think wins, r_inter = [0, 0, 1, 1], r_intra = [1, 0, 1, 0].
EACH = [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(
  ("scores", "options", "inter", "intra"),
  [
    # r_intra over all four: mean .75, deviation .433. Literally, no_think is rewarded for a tie.
    (HALF, {"intra_scope": "all", "literal": True}, [[1, 1], [-1, -1]],
     [[0.5774, -1.7321], [0.5774, 0.5774]]),
    (HALF, {"intra_scope": "all"}, [[1, 1], [-1, -1]], [[0.5774, -1.7321], [0, 0]]),
    (EACH, {"intra_scope": "all"}, [[-1, -1], [1, 1]], [[1, -1], [1, -1]]),
    # 1 - 1/3 and 0 - 2/3 for the modes; 1 - 2/3 and 0 - 1 for the responses.
    (HALF, {"estimator": "rloo"}, [[2 / 3, 2 / 3], [-2 / 3, -2 / 3]], [[1 / 3, -1], [0, 0]]),
    (HALF, {"estimator": "rloo", "literal": True}, [[2 / 3, 2 / 3], [-2 / 3, -2 / 3]],
     [[1 / 3, -1], [1 / 3, 1 / 3]]),
    (EACH, {"estimator": "rloo"}, [[-2 / 3, -2 / 3], [2 / 3, 2 / 3]],
     [[2 / 3, -2 / 3], [2 / 3, -2 / 3]]),
    (EACH, {"estimator": "rloo", "intra_scope": "mode"}, [[-2 / 3, -2 / 3], [2 / 3, 2 / 3]],
     [[1, -1], [1, -1]]),
    # Whitened over the responses of modes with a spread: think's 1 and 0.
    (HALF, {"estimator": "reinforce_pp"}, [[1, 1], [-1, -1]], [[1, -1], [0, 0]]),
    (HALF, {"estimator": "reinforce_pp", "literal": True}, [[1, 1], [0, 0]], [[1, 0], [1, 1]]),
  ],
)  # fmt: skip
def test_estimators_by_hand(scores, options, inter, intra):
  result = hgpo.advantages(jnp.array([scores]), alpha=1.0, delta=0.2, **options)
  np.testing.assert_allclose(result.body[0], intra, atol=1e-4)
  np.testing.assert_allclose((result.tag - result.body)[0], inter, atol=1e-4)


def test_whitening_is_over_the_batch_and_leaves_out_what_says_nothing():
  scores = jnp.array([HALF, np.zeros((2, 2)), [[1.0, 1.0], [1.0, 0.0]]])
  result = hgpo.advantages(
    scores, alpha=1.0, delta=0.2, estimator="reinforce_pp", skip_unsolved=True
  )
  # Two modes have a spread, each with one best of two; query 1 has no winner.
  body = [[[1, -1], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [1, -1]]]
  np.testing.assert_allclose(result.body, body, atol=1e-6)
  np.testing.assert_allclose((result.tag - result.body)[1], 0)
  np.testing.assert_allclose((result.tag - result.body)[0], [[1, 1], [-1, -1]], atol=1e-6)


@pytest.mark.parametrize("estimator", hgpo.ESTIMATORS)
@pytest.mark.parametrize("intra_scope", ["", *hgpo.INTRA_SCOPES])
@pytest.mark.parametrize("tie", hgpo.TIES)
def test_no_mode_that_is_wrong_throughout_is_reinforced(estimator, intra_scope, tie):
  every = np.array(np.meshgrid(*[[0, 1]] * 6)).T.reshape(-1, 2, 3).astype(np.float32)
  for ddof in (0, 1):
    result = hgpo.advantages(
      every, alpha=1.0, delta=0.2, estimator=estimator, intra_scope=intra_scope, tie=tie, ddof=ddof
    )
    wrong = (every == 0).all(axis=2)
    assert wrong.any() and (np.asarray(result.body)[wrong] <= 0).all()


def test_queries_do_not_see_each_other():
  scores = jax.random.uniform(jax.random.key(0), (5, 2, 4))
  together = hgpo.advantages(scores, alpha=1.0, delta=0.2)
  for i in range(5):
    alone = hgpo.advantages(scores[i : i + 1], alpha=1.0, delta=0.2)
    np.testing.assert_allclose(together.tag[i], alone.tag[0], atol=1e-6)


def test_equal_scores_give_zero_despite_rounding():
  """The float32 mean of thirds is not a third; the group must still count as flat."""
  scores = jnp.full((1, 1, 7), 0.1, jnp.float32)
  np.testing.assert_array_equal(registry.get("grpo")(scores).tag, 0.0)


def test_grpo_by_hand():
  result = registry.get("grpo")(jnp.array([[[1.0, 0.0, 0.0, 1.0]]]))
  np.testing.assert_allclose(result.tag[0, 0], [1, -1, -1, 1], atol=1e-6)
  np.testing.assert_allclose(result.tag, result.body)


@pytest.mark.parametrize("scores", [np.zeros((3, 4)), np.zeros((3, 1, 4)), np.zeros((2, 3, 4))])
def test_unpaired_scores_are_refused(scores):
  with pytest.raises(ValueError, match="paired scores"):
    hgpo.assign_rewards(scores, delta=0.2)


def test_unknown_names_are_refused_with_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'hgpo'"):
    registry.get("hpgo")
  with pytest.raises(ValueError, match="intra_scope"):
    hgpo.advantages(np.zeros((1, 2, 2)), alpha=1.0, delta=0.2, intra_scope="group")


def test_a_registered_advantage_is_found():
  @registry.register("twice_grpo")
  def twice(scores):
    once = registry.get("grpo")(scores)
    return hgpo.Advantages(2 * once.tag, 2 * once.body)

  result = registry.get("twice_grpo")(jnp.array([[[1.0, 0.0]]]))
  np.testing.assert_allclose(result.tag, [[[2.0, -2.0]]])


@pytest.mark.parametrize(
  ("delta", "samples", "interval"),
  [
    (0.2, 2, (0.0, 0.5)),  # a lead of 1 of 2 wins; none does not
    (0.0, 2, (0.0, 0.5)),  # at equal means no_think wins, so 0 needs a lead as well
    (0.5, 2, (0.5, 1.0)),  # a lead of 1 of 2 is a tie
    (0.2, 5, (0.2, 0.4)),  # 0.6 - 0.4 - 0.2 is 1.5e-8 in float32: within the tolerance, a tie
    (-0.1, 4, (-0.25, 0.0)),
    (0.34, 3, (1 / 3, 2 / 3)),
    (1.0, 4, (1.0, np.inf)),  # no lead is above 1
    (-1.0, 4, (-1.0, -0.75)),  # think loses where it is all wrong and no_think all right
    (-1.1, 4, (-np.inf, -1.0)),
  ],
)
def test_deltas_that_are_the_same_rule_for_binary_scores(delta, samples, interval):
  np.testing.assert_allclose(hgpo.equivalent_deltas(delta, samples), interval)


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 7])
def test_equivalent_deltas_are_those_the_comparison_cannot_tell_apart(samples):
  right = np.arange(samples + 1)
  groups = (np.arange(samples) < right[:, None]).astype(np.float32)  # every number of right answers
  every = np.stack(np.broadcast_arrays(groups[:, None], groups[None]), axis=2)
  every = every.reshape(-1, 2, samples)

  @jax.jit
  def winners(delta):
    return hgpo.assign_rewards(every, delta=delta)[0]

  edges = np.arange(-samples, samples + 1) / samples
  deltas = np.unique([*edges, *(edges + 0.3 / samples), *(edges - 1e-4), -1.7, 1.7])
  rules = {float(delta): winners(delta).tobytes() for delta in deltas}
  for delta in deltas:
    low, high = hgpo.equivalent_deltas(float(delta), samples)
    assert low <= delta < high
    for other, rule in rules.items():
      assert (rule == rules[delta]) == (low <= other < high), (delta, other)

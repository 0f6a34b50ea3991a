"""An advantage function of one's own: what it is given, and what is measured beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.objectives import advantages, hgpo
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.rewards.scoring import Judgements
from lhrm_jax.training.advantages import make_advantage_fn, try_out
from lhrm_jax.training.hgpo import HGPOConfig
from lhrm_jax.training.hgpo_checks import argument_problems
from lhrm_jax.training.rollout_metrics import rollout_metrics, winning_mode

# Means .5 and 0: thinking wins unless the margin is .5 or more. Then 1 and 1: a tie.
SCORES = np.array([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]], np.float32)
SCALED = HGPOConfig(advantage="scaled", advantage_options={"factor": 3.0})


@pytest.fixture(autouse=True)
def scaled(monkeypatch):
  monkeypatch.setattr(advantages.REGISTRY, "entries", dict(advantages.REGISTRY.entries))

  @advantages.register("scaled")
  def scaled(scores, *, delta, factor):
    return Advantages(tag=factor * (jnp.asarray(scores) - delta), body=0 * jnp.asarray(scores))


@pytest.fixture
def scored_by(rollouts, tokenizer, rows):
  """`make(scores)`: the first rollouts, of as many queries and samples, with these scores."""
  whole = ScoredRollouts.read(tokenizer, rows, rollouts)

  def make(scores):
    b, m, g = scores.shape

    def cut(x):
      return x[:b, :m, :g]

    few = jax.tree.map(lambda x: cut(x) if x.ndim > 2 else x, whole.rollouts)
    arrays = {name: cut(getattr(whole, name)) for name in ("texts", "modes", "well_formed")}
    return ScoredRollouts(rows[:b], few, judged=Judgements(scores, {}, None), **arrays)

  return make


def test_it_is_given_settings_and_options_of_its_own(scored_by):
  found = make_advantage_fn(SCALED)(scored_by(SCORES), 0).advantages
  np.testing.assert_allclose(found.tag, 3.0 * (SCORES - 0.2), rtol=1e-6)
  assert found.r_inter is None


def test_it_is_given_what_it_names_of_the_rollouts_and_the_run(scored_by):
  given = {}

  @advantages.register("curious")
  def curious(scores, lengths, modes, truncated, well_formed, step, total_steps, *, delta):
    given.update(locals())
    return Advantages(scores, scores)

  scored = scored_by(SCORES)
  make_advantage_fn(HGPOConfig(advantage="curious", steps=30))(scored, 7)
  for name in ("lengths", "modes", "truncated", "well_formed", "scores"):
    np.testing.assert_array_equal(given[name], getattr(scored, name), name)
    assert given[name].shape == SCORES.shape
  assert given["modes"][:, 0].max() == 0 and given["modes"][:, 1].min() == 1
  assert (given["step"], given["total_steps"], given["delta"]) == (7, 30, 0.2)
  assert not list(argument_problems(HGPOConfig(advantage="curious"))), "none need be set"
  (problem,) = argument_problems(HGPOConfig(advantage="curious", advantage_options={"step": 1}))
  assert "given by the rollouts and the run" in problem


def test_hgpo_s_rewards_come_with_its_advantages(scored_by):
  found = make_advantage_fn(HGPOConfig())(scored_by(SCORES), 0).advantages
  inter, intra = hgpo.assign_rewards(SCORES, delta=0.2)
  np.testing.assert_array_equal(found.r_inter, inter)
  np.testing.assert_array_equal(found.r_intra, intra)


def test_a_score_that_is_not_finite_spoils_its_advantages(scored_by):
  scores = SCORES.copy()
  scores[0, 0, 0] = np.nan
  for c in (SCALED, HGPOConfig()):
    found = make_advantage_fn(c)(scored_by(scores), 0).advantages
    assert np.isnan(found.body[0, 0, 0]) and np.isfinite(found.body[1]).all()


def test_paired_rollouts_have_their_metrics_under_any_advantage(scored_by):
  margin = dataclasses.replace(SCALED, delta=0.6)
  none = HGPOConfig(advantage="grpo", delta=0.6)  # takes no margin
  for c, wins in ((margin, [0, 0]), (none, [1, 0])):
    scored = make_advantage_fn(c)(scored_by(SCORES), 0)
    assert winning_mode(scored, c)[:, 0, 0].tolist() == wins

  scores = np.zeros((6, 2, 3), np.float32)
  scores[0, 0] = 1  # thinking wins on the first of six queries, and the others are ties
  found = rollout_metrics(make_advantage_fn(none)(scored_by(scores), 0), none)
  assert found["mode/winner_think_frac"] == pytest.approx(1 / 6)
  assert found["mode/tie_frac"] == pytest.approx(5 / 6)
  assert "mode/think_rate" not in found, "that is of free replies to the evaluation prompts"


def test_free_rollouts_do_not_write_under_the_name_of_the_evaluation(scored_by):
  c = HGPOConfig(advantage="grpo", pairing="free")
  scored = make_advantage_fn(c)(scored_by(np.zeros((6, 1, 3), np.float32)), 0)
  assert winning_mode(scored, c) is None
  found = rollout_metrics(scored, c)
  assert found["mode/sampled_think_rate"] == 1.0, "the first place on the mode axis"
  assert "mode/think_rate" not in found


def test_a_text_where_the_advantage_has_a_number_is_refused_before_training():
  @advantages.register("weighted")
  def weighted(scores, *, delta, weight=1.0):
    return Advantages(tag=weight * (scores - delta), body=0 * scores)

  c = HGPOConfig(advantage="weighted", advantage_options={"weight": "much"})
  (problem,) = argument_problems(c)
  assert problem.startswith("hgpo.advantage_options.weight='much' must be a number")
  assert not list(argument_problems(dataclasses.replace(c, advantage_options={"weight": 2})))


@pytest.mark.parametrize("name", ["grpo", "rloo", "thinkless", "auto_think", "ada_grpo"])
@pytest.mark.parametrize("pairing", ["paired", "free"])
def test_the_functions_there_are_run_on_made_up_scores(name, pairing):
  try_out(HGPOConfig(advantage=name, pairing=pairing, prompts_per_step=2, samples_per_mode=2))


def test_what_would_fail_after_the_cold_start_is_told_before():
  c = HGPOConfig(advantage="auto_think", advantage_options={"stage": 7}, prompts_per_step=2)
  with pytest.raises(ValueError, match=r"tried .* fails: ValueError: stage=7 is"):
    try_out(c)

  @advantages.register("short")
  def short(scores):
    return Advantages(scores[..., 0], scores)

  with pytest.raises(ValueError, match=r"returns other shapes: {'tag': \(2, 2\)}"):
    try_out(HGPOConfig(advantage="short", prompts_per_step=2))

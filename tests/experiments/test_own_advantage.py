"""An advantage function of one's own: what it is given, and what a run measures beside it."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import hgpo
from experiments.configs import arithmetic
from lhrm_jax.objectives import advantages
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.training.hgpo import HGPOConfig
from lhrm_jax.training.hgpo_checks import argument_problems
from lhrm_jax.training.rollout_metrics import rollout_metrics

# Means .5 and 0: thinking wins unless the margin is .5 or more. Then 1 and 1: a tie.
SCORES = np.array([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]], np.float32)


@pytest.fixture
def run(monkeypatch):
  monkeypatch.setattr(advantages.REGISTRY, "entries", dict(advantages.REGISTRY.entries))

  @advantages.register("scaled")
  def scaled(scores, *, delta, factor):
    return Advantages(tag=factor * (jnp.asarray(scores) - delta), body=0 * jnp.asarray(scores))

  config = arithmetic.get_config()
  config.hgpo.advantage = "scaled"
  config.hgpo.advantage_options.factor = 3.0
  return types.SimpleNamespace(config=config)


def test_it_is_given_settings_and_options_of_its_own(run):
  found, rewards = hgpo.make_advantage_fn(run)(jnp.asarray(SCORES))
  np.testing.assert_allclose(found.tag, 3.0 * (SCORES - 0.2), rtol=1e-6)
  assert rewards is None


def test_a_score_that_is_not_finite_spoils_its_advantages(run):
  scores = SCORES.copy()
  scores[0, 0, 0] = np.nan
  found, _ = hgpo.make_advantage_fn(run)(jnp.asarray(scores))
  assert np.isnan(found.body[0, 0, 0]) and np.isfinite(found.body[1]).all()


def test_paired_rollouts_have_their_metrics_under_any_advantage(run, rollouts, tokenizer):
  run.config.hgpo.delta = 0.6
  assert hgpo.winning_mode(run, SCORES)[:, 0, 0].tolist() == [0, 0]
  run.config.hgpo.advantage = "grpo"  # takes no margin
  r_inter = hgpo.winning_mode(run, SCORES)
  assert r_inter[:, 0, 0].tolist() == [1, 0]

  b, m, g = rollouts.lengths.shape
  scores = np.zeros((b, m, g), np.float32)
  scores[0, 0] = 1  # thinking wins on the first of six queries, and the others are ties
  found = rollout_metrics(
    rollouts, scores, hgpo.winning_mode(run, scores), tokenizer.tag_ids
  )  # fmt: skip
  assert found["mode/winner_think_frac"] == pytest.approx(1 / 6)
  assert found["mode/tie_frac"] == pytest.approx(5 / 6)
  assert "mode/think_rate" not in found, "that is of free replies to the evaluation prompts"


def test_free_rollouts_do_not_write_under_the_name_of_the_evaluation(run, rollouts, tokenizer):
  run.config.hgpo.pairing = "free"
  assert hgpo.winning_mode(run, SCORES) is None
  found = rollout_metrics(rollouts, np.zeros(rollouts.lengths.shape), None, tokenizer.tag_ids)
  assert found["mode/sampled_think_rate"] == 0.5
  assert "mode/think_rate" not in found


def test_a_text_where_the_advantage_has_a_number_is_refused_before_training(run):
  @advantages.register("weighted")
  def weighted(scores, *, delta, weight=1.0):
    return Advantages(tag=weight * (scores - delta), body=0 * scores)

  c = HGPOConfig(advantage="weighted", advantage_options={"weight": "much"})
  (problem,) = argument_problems(c)
  assert problem.startswith("hgpo.advantage_options.weight='much' must be a number")
  assert not list(argument_problems(dataclasses.replace(c, advantage_options={"weight": 2})))

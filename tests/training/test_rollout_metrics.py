"""Metrics of rollouts, by hand."""

import numpy as np
import pytest

from lhrm_jax.data.schema import PromptRow
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.rewards.scoring import Judgements
from lhrm_jax.sampling import LENGTH, STOPPED, Prompts, Rollouts
from lhrm_jax.text import TagIds, form
from lhrm_jax.training.hgpo import HGPOConfig
from lhrm_jax.training.rollout_metrics import rollout_metrics

TAGS = TagIds(opening=(2, 4), closing=(3, 5))


def metrics_of(first, scores, finish=STOPPED, texts=None, delta=0.2, sources=None):
  """Metrics of rollouts `[B, M, G]` of which only first tokens, ends and texts mean anything."""
  first, scores = np.asarray(first), np.asarray(scores, np.float32)
  prompts = Prompts(np.zeros((len(first), 1)), np.ones(len(first)), np.arange(len(first)))
  finish = np.broadcast_to(finish, first.shape)
  rollouts = Rollouts(prompts, first[..., None], np.full(first.shape, 4), None, finish, np.int32(0))
  texts = np.array(texts or [""] * first.size, object)
  whole = form.well_formed(texts, first.ravel(), TAGS).reshape(first.shape) & (finish != LENGTH)
  zeros = np.zeros(scores.shape)
  scored = ScoredRollouts(
    rows=[PromptRow("", "", source=name) for name in sources or [""] * len(first)],
    rollouts=rollouts, texts=texts.reshape(first.shape),
    modes=np.vectorize(TAGS.mode_of)(first), well_formed=whole, judged=Judgements(scores, {}, None),
    advantages=Advantages(zeros, zeros, zeros, zeros),
  )  # fmt: skip
  return rollout_metrics(scored, HGPOConfig(delta=delta))


def test_sources_are_told_apart_where_there_are_several():
  """Code: thinking scores 1 and a direct reply 0; mathematics: 0.5 and 0.25."""
  first = np.array([[[2], [4]]] * 3)
  scores = np.array([[[1.0], [0]], [[0.5], [0.25]], [[1], [0]]])
  metrics = metrics_of(first, scores, sources=["code", "math", "code"])
  assert metrics["source/code/reward"] == 0.5 and metrics["source/math/reward"] == 0.375
  assert metrics["source/code/think/reward"] == 1 and metrics["source/math/no_think/reward"] == 0.25
  assert metrics["source/math/mean_length"] == metrics["source/math/think/mean_length"] == 4
  one = metrics_of(first, scores, sources=["code"] * 3)
  assert not any(name.startswith("source/") for name in one)


@pytest.mark.parametrize("value", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_equal_scores_have_no_spread_whatever_their_rounding(value):
  scores = np.full((2, 2, 3), value, np.float32)
  metrics = metrics_of(np.full((2, 2, 3), 2), scores)
  assert (metrics["frac_reward_zero_std"], metrics["reward_std"]) == (1.0, 0.0)
  scores[0, 0, 0] += 1e-3
  metrics = metrics_of(np.full((2, 2, 3), 2), scores)
  assert metrics["frac_reward_zero_std"] == 0.5 and metrics["reward_std"] > 0


def test_modes_tie_where_their_means_differ_by_rounding_alone():
  first = np.array([[[2, 2], [4, 4]]] * 2)
  scores = np.array([[[0.3, 0.9], [0.6, 0.6]], [[0.3, 0.9], [0.6, 0.61]]], np.float32)
  metrics = metrics_of(first, scores)
  assert metrics["mode/tie_frac"] == 0.5


@pytest.mark.parametrize(("delta", "share"), [(0.0, 0.0), (0.2, 0.5), (-0.2, 0.5), (0.25, 0.75)])
def test_queries_that_delta_decides_are_counted(delta, share):
  """Mode means 0, 0.1, 0.2 and 0.6 apart; 0.2 apart is decided without it."""
  think = np.array([0.5, 0.6, 0.7, 1.1], np.float32)
  scores = np.stack([think, np.full(4, 0.5, np.float32)], axis=1)[..., None].repeat(2, axis=2)
  first = np.array([[[2, 2], [4, 4]]] * 4)
  metrics = metrics_of(first, scores, delta=delta)
  assert metrics["mode/within_delta_frac"] == share


def test_malformed_empty_and_leaking_responses_are_counted():
  first = np.array([[[2, 2, 2], [4, 4, 4]]])
  finish = np.array([[[STOPPED, STOPPED, LENGTH], [STOPPED] * 3]])
  texts = [
    "<think></think>7", "<think>a<think></think>7", "<think>a</think>7",  # the last is cut off
    "<no_think><think>Hmm</think>7</no_think>", "<no_think>7</no_think>", "<no_think>7</no_think>",
  ]  # fmt: skip
  metrics = metrics_of(first, np.zeros((1, 2, 3)), finish, texts)
  assert metrics["mode/think/malformed_rate"] == pytest.approx(2 / 3)
  assert metrics["mode/think/empty_rate"] == pytest.approx(1 / 3)
  assert metrics["mode/no_think/malformed_rate"] == pytest.approx(1 / 3)
  assert metrics["mode/no_think/leak_rate"] == pytest.approx(1 / 3)
  assert metrics["completions/malformed_rate"] == pytest.approx(3 / 6)

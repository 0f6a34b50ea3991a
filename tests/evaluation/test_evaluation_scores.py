"""The evaluation scores in shared worker processes and counts failures."""

import dataclasses

import jax
import numpy as np
import pytest

from lhrm_jax import rewards
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.evaluation import EvaluationConfig, Evaluator, evaluate
from lhrm_jax.rewards import scoring
from lhrm_jax.sampling import STOPPED

SETTINGS = EvaluationConfig(
  temperature=1.0, top_p=1.0, samples=2, hacc_temperature=1.0, batch_prompts=6
)
LIMITS = DataConfig(max_prompt_tokens=22, max_response_tokens=9)


@pytest.fixture
def evaluator_of(config, tokenizer, rows, rollouts, monkeypatch):
  """`make(reward)`: an evaluator whose policy answers every prompt with its gold, or with an 8."""
  whole = jax.device_get(rollouts)
  whole = dataclasses.replace(whole, finish_reason=np.full_like(whole.finish_reason, STOPPED))
  forms = ("<think></think>{}", "<no_think>{}</no_think>")

  def sampled(config, spec, params, prompts, key, dials=None):
    places = np.asarray(prompts.ids)

    def part(x):
      x = x[places] if np.ndim(x) else x
      return x[:, : spec.modes, : spec.samples] if np.ndim(x) > 2 else x

    return jax.tree.map(part, whole)

  def decoded(_, rollouts):
    golds = [rows[i].answer for i in rollouts.prompts.ids]
    return [
      forms[m].format(golds[b] if (b + m + g) % 2 else 8)
      for b, m, g in np.ndindex(rollouts.lengths.shape)
    ]

  monkeypatch.setattr(evaluate, "sample", sampled)
  monkeypatch.setattr(scoring, "decode", decoded)

  made = []

  def make(reward, rows=rows, **options):
    made.append(Evaluator(config, tokenizer, reward, rows, SETTINGS, LIMITS, **options))
    return made[-1]

  yield make
  for evaluator in made:
    evaluator.close()


def test_the_answers_of_a_model_are_parsed_by_workers_that_serve_the_whole_evaluation(
  evaluator_of, monkeypatch
):
  monkeypatch.setattr("lhrm_jax.rewards.math.verify", None)  # in this process
  started = []

  class Pool(scoring.VerifierPool):
    def __init__(self, *args, **options):
      super().__init__(*args, **options)
      started.append(self)

  monkeypatch.setattr(scoring, "VerifierPool", Pool)
  evaluator = evaluator_of(rewards.get("math"), workers=1)
  assert not started
  for replies in (evaluator.auto({}), evaluator.forced({})):
    assert 0.5 <= replies.scores.mean() < 1 and replies.failed == {}
  assert len(started) == 1
  evaluator.close()
  assert started[0].workers[0].process.poll() is not None


def test_a_reward_that_compares_text_starts_no_process(evaluator_of, monkeypatch):
  monkeypatch.setattr(scoring, "VerifierPool", None)
  assert 0.5 <= evaluator_of(rewards.get("exact_match")).auto({}).scores.mean() < 1


def test_a_response_its_reward_fails_on_is_counted_and_ends_no_evaluation(evaluator_of):
  def reward(prompt, response, answer):
    return float("nan") if response == "<think></think>8" else 1.0

  replies = evaluator_of(reward, max_failed_share=0.9).auto({})
  failed = int((replies.scores == 0).sum())
  assert failed and replies.failed == {"not_finite": failed}


def test_an_answer_that_cannot_be_judged_by_is_found_before_anything_is_sampled(evaluator_of):
  with pytest.raises(ValueError, match="'numeric' needs a number as answer, got 'seven'"):
    evaluator_of(rewards.get("numeric"), rows=[PromptRow("1+1=", "seven")])

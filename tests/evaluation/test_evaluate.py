"""What an evaluation says of modes and first tokens."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.evaluation import EvaluationConfig, Evaluator, Measured, Replies, evaluate
from lhrm_jax.sampling import DialsConfig, mode_logprobs
from lhrm_jax.sampling.dials import closing_ids


@pytest.fixture
def evaluator(config, tokenizer):
  rows = [PromptRow("3+4", "7", level) for level in (1, 1, 2)]
  settings = EvaluationConfig(temperature=0.0, top_p=1.0, samples=2, batch_prompts=2)
  limits = DataConfig(max_prompt_tokens=22, max_response_tokens=6)
  return Evaluator(config, tokenizer, lambda prompt, response, answer: 1.0, rows, settings, limits)


def test_probabilities_of_the_first_token_by_hand():
  """Four tokens with odds 1 : 2 : 3 : 4; the third and the first are the tags."""
  logits = jnp.log(jnp.array([[1.0, 2.0, 3.0, 4.0]]))
  np.testing.assert_allclose(jnp.exp(mode_logprobs(logits, (2, 0))), [[0.3, 0.1, 0.6]], rtol=1e-5)


def test_neither_is_summed_and_not_what_is_left_of_1():
  logits = jnp.array([[0.0, 0.0, -25.0, -25.0]])
  neither = float(mode_logprobs(logits, (0, 1))[0, 2])
  assert neither == pytest.approx(-25.0, rel=1e-4)


def test_first_tokens_are_summarised_by_level(evaluator):
  probs = np.array([[0.5, 0.3, 0.2], [0.7, 0.3, 0.0], [0.0, 1.0, 0.0]])
  summary = evaluator.summarise_first_token(probs)
  assert summary["neither"] == pytest.approx(0.2 / 3)
  assert summary["by_level"]["1"] == pytest.approx({"think": 0.6, "no_think": 0.3, "neither": 0.1})
  assert summary["by_level"]["2"] == {"think": 0.0, "no_think": 1.0, "neither": 0.0}


def test_malformed_replies_are_counted_and_choose_no_mode(evaluator):
  """Free replies: well formed, malformed, and begun with no tag. Forced ones are all alike."""
  shape = (3, 1, 1)
  free = Replies(
    np.ones(shape), np.full(shape, 3), np.array([0, 0, -1]).reshape(shape),
    np.array([True, False, False]).reshape(shape),
    np.array(["<think></think>7", "<think>a</think>7</think>", "7"], object).reshape(shape),
  )  # fmt: skip
  both = (3, 2, 1)
  texts = np.array([["<think>a</think>7", "<no_think>7</no_think>"]] * 3, object)[..., None]
  modes = np.broadcast_to(np.array([0, 1])[:, None], both)
  forced = Replies(np.ones(both), np.full(both, 3), modes, np.ones(both, bool), texts)
  forced.lengths[:, 0] = 2  # thinking is shorter, and so the better mode
  probs = np.array([[0.5, 0.3, 0.2], [0.7, 0.3, 0.0], [0.9, 0.0, 0.1]])
  summary = evaluator.summary(Measured(free, forced, forced, probs))
  assert summary["hacc"]["score"] == pytest.approx(1 / 3)
  assert summary["hacc"]["invalid_frac"] == pytest.approx(2 / 3)
  assert summary["hacc"]["expected_score"] == pytest.approx(0.7)
  assert summary["auto"]["malformed_rate"] == pytest.approx(2 / 3)
  assert summary["auto"]["by_level"]["1"]["malformed_rate"] == 0.5
  (of_source,) = summary["auto"]["by_source_and_level"].values()
  assert of_source == summary["auto"]["by_level"]
  assert summary["auto"]["form"] == {"think/malformed_rate": 0.5, "think/empty_rate": 0.5}
  assert summary["no_think"]["form"] == {"no_think/malformed_rate": 0, "no_think/leak_rate": 0}


def test_the_dials_of_the_config_turn_every_pass(evaluator, config, tokenizer, monkeypatch):
  """A swept budget takes the place of the config's, and leaves its threshold."""
  dials = DialsConfig(threshold=0.3, budget=2, closing=" so ")
  settings = dataclasses.replace(evaluator.settings, dials=dials)
  limits = DataConfig(max_prompt_tokens=22, max_response_tokens=6)
  turned = Evaluator(config, tokenizer, lambda *_: 1.0, evaluator.rows, settings, limits)

  class Sampled(Exception):
    pass

  def sample(*_, dials):
    raise Sampled(dials)

  monkeypatch.setattr(evaluate, "sample", sample)
  for run, budget in (
    (turned.auto, 2), (turned.judged, 2), (lambda params: turned.with_budget(params, 4), 4)
  ):  # fmt: skip
    with pytest.raises(Sampled) as caught:
      run({})
    (used,) = caught.value.args
    assert (used.threshold, used.budget) == (0.3, budget)
    assert used.closing == closing_ids(tokenizer, " so ")
  with pytest.raises(Sampled) as caught:
    evaluator.auto({})
  assert caught.value.args == (None,)
  with pytest.raises(ValueError, match=r"dials.closing='Enough!': .*never seen"):
    Evaluator(
      config, tokenizer, lambda *_: 1.0, evaluator.rows,
      dataclasses.replace(settings, dials=DialsConfig(closing="Enough!")), limits,
    )  # fmt: skip

"""Rewards that a config chooses: a reward model, sums with it, one reward per source of rows."""

import dataclasses
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.configs import arithmetic
from lhrm_jax import parallel, rewards
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.errors import UserError
from lhrm_jax.rewards import model as reward_model
from lhrm_jax.rewards import scoring
from lhrm_jax.runs import setup, validation
from lhrm_jax.runs.config import STAGES, from_config_dict
from lhrm_jax.text import PretrainedTokenizer
from tests.rewards.test_scoring import stub

LLAMA = pathlib.Path(__file__).parents[1] / "golden" / "llama_tied"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """A small random sequence classifier with a tokenizer."""
  numpy = pytest.importorskip("safetensors.numpy")
  folder = tmp_path_factory.mktemp("reward_model")
  for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(LLAMA / name, folder)
  fields = json.loads((LLAMA / "config.json").read_text())
  fields |= {"architectures": ["LlamaForSequenceClassification"]}
  (folder / "config.json").write_text(json.dumps(fields))
  tensors = numpy.load_file(LLAMA / "model.safetensors")
  head = np.random.default_rng(0).normal(size=(1, fields["hidden_size"])).astype(np.float32)
  numpy.save_file({**tensors, "score.weight": head}, folder / "model.safetensors")
  return folder


def config_with(folder, **keys) -> ConfigDict:
  config = arithmetic.get_config()
  config.compilation_cache = ""
  config.reward_model.update(init_from=str(folder), batch=8, max_tokens=64)
  config.update(keys)
  return config


def test_a_config_names_a_reward_model(folder):
  model = setup.make(config_with(folder, reward="reward_model")).reward_fn
  tokenizer = PretrainedTokenizer.load(folder)
  ids = tokenizer.encode_messages(
    [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}], finished=True
  )
  assert tokenizer.decode(ids) == "User: 2+2?\n\nAssistant: 4\n\n"  # and the turn's end, unseen
  (logit,) = model.logits([ids])
  score = model("2+2?", "<think>two and two</think>4", "")
  assert score == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
  assert model("2+2?", "<no_think>5</no_think>", "") != score
  assert (model.batch_size, model.max_tokens) == (8, 64)


def test_tags_that_a_user_types_are_no_tokens_of_the_reward_model(folder):
  config = reward_model.RewardModelConfig(str(folder), batch=8, max_tokens=256)
  model = reward_model.from_config(config, parallel.make_mesh())
  (score,) = model.score_batch(["</think><no_think>?"], ["<think>a</think>4"], [""])
  assert 0 < score < 1 and not isinstance(score, rewards.Failed)


def test_an_answer_beyond_the_limit_is_counted_or_cut(folder):
  make = lambda **keys: reward_model.from_config(  # noqa: E731
    reward_model.RewardModelConfig(str(folder), batch=8, max_tokens=32, **keys),
    parallel.make_mesh(),
  )
  long = f"<no_think>{'4 ' * 40}</no_think>"
  assert make()("2+2?", long, "").reason == "too_long"
  assert 0 < make(long_answers="truncate_left")("2+2?", long, "") < 1


def test_answers_beyond_the_limit_never_end_a_run(folder):
  c = reward_model.RewardModelConfig(str(folder), batch=8, max_tokens=32)
  long = stub([PromptRow("2+2?" + " please" * 40, "")] * 20)
  with scoring.Scorer(reward_model.from_config(c, parallel.make_mesh())) as scorer:
    found = scorer.wait([scorer.start(*long)])
  assert not found.scores.any() and found.failed["too_long"] >= 20


def test_the_reward_model_is_shown_the_whole_conversation(folder):
  c = reward_model.RewardModelConfig(str(folder), batch=8, max_tokens=64)
  model = reward_model.from_config(c, parallel.make_mesh())
  earlier = (("system", "Be brief."), ("user", "2+2?"), ("assistant", "4"))
  rows, rollouts, texts = stub([PromptRow("And 3+3?", "", earlier=earlier)])
  with scoring.Scorer(model) as scorer:
    found = scorer.wait([scorer.start(rows, rollouts, texts)]).scores.ravel()
  turns = [(*earlier, ("user", "And 3+3?"))] * len(texts)
  np.testing.assert_allclose(found, model.score_batch(turns, texts, [""] * len(texts)), rtol=1e-6)
  alone = model.score_batch(["And 3+3?"] * len(texts), texts, [""] * len(texts))
  assert not np.allclose(found, alone)


def test_a_sum_may_hold_the_reward_model(folder):
  weights = ConfigDict({"exact_match": 1.0, "reward_model": 0.5})
  reward = setup.make(config_with(folder, reward_weights=weights)).reward_fn
  parts = reward.components("2+2?", "<no_think>4</no_think>", "4")
  assert parts["exact_match"] == 1.0 and 0 < parts["reward_model"] < 1
  assert parts["total"] == 1.0 + 0.5 * parts["reward_model"]


def test_rows_of_one_batch_are_scored_by_their_source(folder):
  by_source = ConfigDict({"deepscaler": "exact_match", "*": "reward_model"})
  reward = setup.make(config_with(folder, reward_by_source=by_source)).reward_fn
  rows = [PromptRow("2+2?", "7", source="deepscaler"), PromptRow("Hello?", "", source="tulu3")]
  _, rollouts, texts = stub(rows)
  with scoring.Scorer(reward) as scorer:
    found = scorer.wait([scorer.start(rows, rollouts, texts)])
  rule, model = found.components["exact_match"], found.components["reward_model"]
  assert np.isnan(rule[1]).all() and np.isnan(model[0]).all()
  np.testing.assert_array_equal(found.scores, np.stack([rule[0], model[1]]))
  assert set(found.scores[0].ravel()) == {0.0, 1.0}
  own = [reward.parts["reward_model"]("Hello?", text, "") for text in texts[len(texts) // 2 :]]
  np.testing.assert_allclose(found.scores[1].ravel(), own, rtol=1e-6)


def test_a_row_whose_source_has_no_reward_is_refused(folder):
  reward = rewards.chosen("exact_match", by_source={"deepscaler": "math"})
  rewards.check_answer(reward, "7", "deepscaler")
  with pytest.raises(rewards.BadAnswer, match=r"no reward for the source 'tulu3': add it, or '\*'"):
    rewards.check_answer(reward, "7", "tulu3")
  rows, rollouts, texts = stub([PromptRow("2+2?", "7", source="tulu3")])
  with scoring.Scorer(reward) as scorer, pytest.raises(rewards.RewardError, match="'tulu3'"):
    scorer.wait([scorer.start(rows, rollouts, texts)])
  with pytest.raises(rewards.CannotJudge, match="need the row"):
    reward("", "<no_think>7</no_think>", "7")


@pytest.mark.parametrize("stages", [(), STAGES])
def test_a_row_that_is_only_evaluated_needs_a_reward_too(stages):
  config = arithmetic.get_config()
  config.reward_by_source = ConfigDict({"sums": "exact_match"})
  run = setup.make(config)
  train = [PromptRow("2+2?", "4", source="sums")]
  task = types.SimpleNamespace(
    queries=train, prompts=lambda *_: train, demonstrations=lambda *_: ([], []),
    evaluation=lambda _: [PromptRow("Hello?", "", source="tulu3")],
  )  # fmt: skip
  with pytest.raises(UserError, match="no reward for the source 'tulu3'"):
    setup.check_rows(dataclasses.replace(run, task=task), stages)


def test_a_source_that_no_row_has_is_refused():
  rows = [PromptRow("2+2?", "4", source="math"), PromptRow("Hello?", "", source="tulu3")]
  validation.check_sources(rewards.chosen("", by_source={"math": "math", "*": "numeric"}), rows)
  reward = rewards.chosen("", by_source={"maths": "math", "*": "numeric"})
  with pytest.raises(ValueError, match=r"'maths', which no row has .*'math', 'tulu3'"):
    validation.check_sources(reward, rows)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"reward": "reward_model"}, r"needs a model: set reward_model\.init_from"),
    ({"reward_by_source": {"a": "reward_model"}}, r"set reward_model\.init_from"),
    ({"reward_by_source": {"a": "maths"}}, "reward_by_source: no reward named 'maths'"),
    ({"reward_by_source": {"a": 1.0}}, r"reward_by_source=.* must be sources with the names"),
    ({"reward_by_source": {"a": "math"}, "reward_weights": {"math": 1.0}}, "reward_by_source, wh"),
    ({"reward_model.batch": 16}, r"reward_model\.batch=16 has no effect with rewards that do not"),
    ({"reward_model.scale": "percentile"}, "one of 'raw', 'sigmoid'"),
    ({"reward_model.long_answers": "cut"}, "one of 'score_0', 'truncate_left'"),
  ],
)
def test_what_the_keys_say_together_is_checked(changes, message):
  config = arithmetic.get_config()
  for key, value in changes.items():
    if isinstance(value, dict):
      config[key] = ConfigDict(value)
    else:
      config.update_from_flattened_dict({key: value})
  with pytest.raises(UserError, match=message):
    from_config_dict(config)


def test_a_folder_that_holds_no_reward_model_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"reward_model: .*nowhere"):
    setup.make(config_with(tmp_path / "nowhere", reward="reward_model"))
  with pytest.raises(UserError, match=r"reward_model: .*no score\.weight"):
    setup.make(config_with(LLAMA, reward="reward_model"))

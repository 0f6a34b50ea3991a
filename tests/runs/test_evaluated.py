"""What a config evaluates on, and how an evaluation is resumed."""

import dataclasses
import json

import pytest

from lhrm_jax.data import tasks
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.errors import UserError
from lhrm_jax.evaluation import EvaluationConfig, samples
from lhrm_jax.evaluation.overlap import overlap
from lhrm_jax.runs import evaluated, reporting
from lhrm_jax.runs.config import from_config_dict, get_config, plain
from lhrm_jax.runs.paths import with_absolute_paths
from tests.data.test_sources import write_jsonl
from tests.evaluation.test_samples import sample_of


def config_of(**changes):
  config = get_config()
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return from_config_dict(config)


def test_an_evaluation_has_lengths_of_its_own_within_the_positions(config):
  policy = dataclasses.replace(config, max_positions=100)
  lengths = {"evaluation__max_prompt_tokens": 20, "evaluation__max_response_tokens": 80}
  evaluated.check_positions(config_of(**lengths), policy)
  with pytest.raises(UserError, match=r"needs 101 positions.*set policy.max_positions=101"):
    evaluated.check_positions(config_of(**{**lengths, "evaluation__max_prompt_tokens": 21}), policy)
  with pytest.raises(UserError, match="needs 1536 positions"):
    evaluated.check_positions(config_of(), policy)


def test_training_texts_are_prompts_and_responses_that_the_config_names(tmp_path):
  assert evaluated.training_texts(config_of(), tasks.get("arithmetic")) is None
  write_jsonl(tmp_path / "q.jsonl", [{"prompt": f"Ask {i}", "answer": i} for i in range(30)])
  shown = [{"prompt": "Say it", "response": "<no_think>it</no_think>"}]
  write_jsonl(tmp_path / "d.jsonl", shown)
  files = {"prompts": f"{tmp_path}/q.jsonl", "demonstrations": f"{tmp_path}/d.jsonl"}
  c = config_of(task="rows", **{f"data__{name}": path for name, path in files.items()})
  task = dataclasses.replace(
    tasks.get("rows", c.data), reserved=(PromptRow("Something else?", "7"),)
  )
  texts = list(evaluated.training_texts(c, task))
  assert len(texts) == 32 and texts[-2:] == ["Say it", "<no_think>it</no_think>"]
  assert overlap(["Ask 3", "Ask 99"], texts)["prompt_ids"] == [0]


def test_samples_of_another_evaluation_are_not_resumed(tmp_path):
  reporting.open_log(tmp_path, {"step": 1}).append([sample_of()])
  assert reporting.open_log(tmp_path, {"step": 1}).known
  assert not reporting.open_log(tmp_path, {"step": 2}).known
  assert json.loads((tmp_path / "key.json").read_text()) == {"step": 2}


def test_damaged_samples_are_sampled_again(tmp_path, capsys):
  reporting.open_log(tmp_path, {"step": 1}).append([sample_of()])
  with (tmp_path / "samples.jsonl").open("a") as file:
    file.write("{}\n")
  assert not reporting.open_log(tmp_path, {"step": 1}).known
  assert "samples.jsonl:2 is damaged" in capsys.readouterr().err
  assert not list(samples.read_samples(tmp_path))


def test_an_evaluation_older_than_a_knob_counts_as_made_with_its_default():
  now = {"step": 3, "evaluation": plain(EvaluationConfig()), "policy": {}, "prompts": "a",
         "parameters": "b"}  # fmt: skip
  older = {name: now["evaluation"][name] for name in ("prompts", "samples", "temperature")}
  assert reporting.with_defaults({"step": 3, "evaluation": older}, now) == now
  assert reporting.with_defaults(None, now) is None
  for name in ("policy", "prompts", "parameters"):
    assert reporting.with_defaults({**now, name: "other"}, now) != now


def test_paths_of_suites_are_made_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a.jsonl").write_text("")
  config = get_config()
  config.evaluation.suites = "gsm8k=a.jsonl, math500"
  with_absolute_paths(config)
  assert config.evaluation.suites == f"gsm8k={tmp_path}/a.jsonl, math500"

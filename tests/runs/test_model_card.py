"""The card of an exported model tells what the run's files tell."""

import json
import types

import pytest
from huggingface_hub import ModelCard
from ml_collections import ConfigDict

from experiments import export
from lhrm_jax import policy
from lhrm_jax.errors import UserError
from lhrm_jax.runs import run_folder
from lhrm_jax.runs.model_card import model_card
from lhrm_jax.text import CharacterTokenizer

VALUES = {"accuracy": 0.5, "mean_tokens": 20.25, "think_rate": 0.75, "prompts": 8}
GROUPS = {
  "by_level": {"1": VALUES},
  "by_source": {"sums": {**VALUES, "accuracy": 0.875}, "words": VALUES},
}
HACC = {
  "score": 0.625, "always_think": 0.4, "always_no_think": 0.3, "random": 0.35, "tie_frac": 0.125,
  "decided_score": 0.6, "invalid_frac": 0.0625, "interval": [0.25, 0.9],
}  # fmt: skip


def write_run(folder, init_from, *, report):
  config = {
    "init_from": init_from, "task": "reasoning", "seed": 3, "hgpo": {"delta": 0.2},
    "evaluation": {"temperature": 0.6, "top_p": 0.95, "samples": 4, "prompts": 8},
  }  # fmt: skip
  (folder / "policy").mkdir(parents=True)
  (folder / "policy" / "config.json").write_text("{}")
  (folder / "config.json").write_text(json.dumps(config))
  if report:
    stage = {mode: {**VALUES, **GROUPS} for mode in ("auto", "think", "no_think")}
    summary = {"stages": {"hgpo": {**stage, "hacc": HACC}}, "config": config,
               "versions": {"jax": "0.10.2", "devices": "1 x cpu"}}  # fmt: skip
    (folder / "report").mkdir()
    (folder / "report" / "summary.json").write_text(json.dumps(summary))
  return folder


def test_results_configuration_and_the_first_model_of_the_chain_are_on_the_card(tmp_path):
  first = write_run(tmp_path / "hft", "HuggingFaceTB/SmolLM2-135M-Instruct", report=False)
  card = model_card(write_run(tmp_path / "hgpo", str(first / "checkpoints"), report=True))
  assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in card
  assert "| hgpo | no_think | 0.500 | 20.2 | 0.750 |" in card
  assert "| hgpo | 0.625 | 0.250 to 0.900 | 0.400 | 0.300 | 0.350 | 0.125 | 0.062 |" in card
  assert "| sums | 0.875 | 20.2 | 0.875 | 20.2 | 0.875 | 20.2 | 0.750 |" in card
  assert "By level" not in card, "one level is the whole"
  assert "8 evaluation prompts, temperature 0.6, top-p 0.95, seed 3; jax 0.10.2" in card
  assert '"delta": 0.2' in card


def test_the_hub_reads_the_results_of_the_last_stage(tmp_path):
  run = write_run(tmp_path / "hgpo", "someone/tiny@v1", report=True)
  data = ModelCard(model_card(run)).data
  assert (data.model_name, data.base_model) == ("hgpo", "someone/tiny")
  assert [(r.dataset_name, r.metric_type, r.metric_value) for r in data.eval_results] == [
    *[("reasoning", "accuracy", 0.5)] * 3, ("reasoning", "hybrid_accuracy", 0.625)
  ]  # fmt: skip
  assert data.eval_results[0].metric_name == "Accuracy, mode left free"


def test_a_run_without_a_report_has_a_card_without_results(tmp_path):
  card = model_card(write_run(tmp_path / "hft", "", report=False))
  assert "random parameters" in card and "## Results" not in card and "base_model" not in card


def test_the_card_of_adapters_says_what_they_are_added_to(tmp_path):
  first = write_run(tmp_path / "hft", "someone/tiny@v1", report=False)
  (first / "policy" / "base_model.json").write_text('{"commit": "abc"}')
  later = write_run(tmp_path / "hgpo", str(first), report=True)
  for run in (first, later):
    (run / "policy" / "config.json").write_text('{"lora_rank": 2}')
  card = model_card(later, adapter=True)
  assert "library_name: peft\n" in card and "base_model: someone/tiny\n" in card
  assert "Low-rank adapters of `someone/tiny` (commit `abc`); task" in card and "vllm" not in card
  assert 'AutoModelForCausalLM.from_pretrained("someone/tiny")\n' in card
  (first / "policy" / "config.json").write_text("{}")
  card = model_card(later, adapter=True)
  assert f"Low-rank adapters of `{first}`; task" in card and "base_model" not in card
  assert "vllm serve FOLDER" in model_card(later) and "peft" not in model_card(later)


def test_a_dtype_of_adapters_is_refused(tmp_path, monkeypatch):
  run = write_run(tmp_path / "hft", "someone/tiny", report=False)
  asked = types.SimpleNamespace(init_from=str(run), adapter=True, dtype="bfloat16")
  for name, value in (("_CONFIG", asked), ("_OUT", str(tmp_path / "out"))):
    monkeypatch.setattr(export, name, types.SimpleNamespace(value=value), raising=False)
  monkeypatch.setattr(export.command_line, "given_keys", lambda: {"dtype"})
  with pytest.raises(UserError, match="dtype=bfloat16 would change nothing"):
    export.main([])


def test_names_of_rows_are_no_markup_of_the_card(tmp_path):
  run = write_run(tmp_path / "hgpo", "", report=True)
  path = run / "report" / "summary.json"
  path.write_text(path.read_text().replace('"words"', '"a|b\\n\\n# <b>c"'))
  (row,) = [line for line in model_card(run).splitlines() if line.startswith("| a")]
  assert "a&#124;b<br><br># &#60;b&#62;c |" in row and row.count("|") == 9


@pytest.mark.parametrize(
  "start", ["owner/file.gguf", "a/b\ninjected: 1", "a/b c", "/gone/model", "-/./x", "models/x/y"]
)
def test_what_is_no_repository_is_no_base_model(start, tmp_path):
  card = model_card(write_run(tmp_path / "hft", start, report=False))
  data = ModelCard(card).data.to_dict()
  assert set(data) == {"library_name", "pipeline_tag", "tags"}


def test_the_card_names_the_repository_without_its_revision_and_the_commit_that_was_read(tmp_path):
  first = write_run(tmp_path / "hft", "someone/tiny@v1", report=False)
  base = {"init_from": "someone/tiny@v1", "commit": "0123abc"}
  (first / "policy" / "base_model.json").write_text(json.dumps(base))
  card = model_card(write_run(tmp_path / "hgpo", str(first), report=False))
  assert "base_model: someone/tiny\n" in card
  assert "Started from `someone/tiny@v1` (commit `0123abc`)" in card


def test_a_run_records_the_commit_of_a_hub_model_that_it_has_loaded(tmp_path, monkeypatch):
  monkeypatch.setattr(run_folder, "hub_commit", {"someone/tiny": "0123abc"}.get)
  for params, init_from, recorded in (
    ({}, "someone/tiny", True), (None, "someone/tiny", False), ({}, "models/mine", False)
  ):  # fmt: skip
    run = types.SimpleNamespace(
      policy_config=policy.PolicyConfig(8, 8, 8, 1, 1, 1), tokenizer=CharacterTokenizer("ab"),
      params=params, config=ConfigDict({"init_from": init_from}),
    )  # fmt: skip
    folder = types.SimpleNamespace(path=tmp_path, policy=tmp_path / "policy", _stages=())
    run_folder.RunFolder.describe(folder, run)
    path = tmp_path / "policy" / "base_model.json"
    assert path.is_file() == recorded
    if recorded:
      assert json.loads(path.read_text()) == {"init_from": init_from, "commit": "0123abc"}
      path.unlink()

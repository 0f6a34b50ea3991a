"""The real command, stopped and run again: it resumes, and nothing is done or logged twice."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from lhrm_jax.errors import UserError
from lhrm_jax.runs import loading
from lhrm_jax.runs.preemption import EXIT_STATUS
from lhrm_jax.storage import bucket
from tests.chaos import small_run
from tests.chaos.small_run import log_of, outcome, start


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "alone"
  assert start(workdir).wait(timeout=300) == 0, log_of(workdir)
  return workdir


def until(workdir, process, stage, rows, said=None):
  """Waits until a stage has logged so many rows; `said` names the log, if not `workdir`."""
  deadline = time.monotonic() + 200
  metrics = workdir / "metrics.jsonl"
  while time.monotonic() < deadline and process.poll() is None:
    if metrics.exists() and metrics.read_text().count(f'"{stage}"') >= rows:
      return
    time.sleep(0.02)
  raise AssertionError(log_of(said or workdir))


def test_a_killed_run_and_a_terminated_one_end_like_the_one_left_alone(alone, tmp_path):
  workdir = tmp_path / "run"
  process = start(workdir)
  until(workdir, process, "hgpo", 6)
  process.kill()
  process.wait()
  process = start(workdir)
  until(workdir, process, "hgpo", 9)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=30) == EXIT_STATUS, log_of(workdir)
  assert start(workdir).wait(timeout=300) == 0, log_of(workdir)
  assert outcome(workdir) == outcome(alone)


def test_a_second_process_and_another_config_are_refused(alone, tmp_path):
  process = start(alone, "--config.hgpo.beta=0.5", "--config.hgpo.steps=13")
  assert process.wait(timeout=100) == 2
  text = log_of(alone)
  assert "hgpo.beta: 0.02 -> 0.5" in text and "hgpo.steps: 12 -> 13" in text
  assert "--config.allow_config_change=hgpo.beta,hgpo.steps" in text

  workdir = tmp_path / "locked"
  first = start(workdir)
  while not (workdir / "lock").exists() or not (workdir / "lock").read_text():
    assert first.poll() is None, log_of(workdir)
    time.sleep(0.02)
  second = subprocess.run(
    small_run.command(workdir), cwd=small_run.ROOT, capture_output=True, text=True, timeout=100,
    env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=False,
  )  # fmt: skip
  first.kill()
  first.wait()
  assert second.returncode == 2 and f"is in use by process {first.pid}" in second.stderr


@pytest.mark.slow  # of the checkpoints alone: tests/runs/test_checkpoints.py
def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(alone, tmp_path):
  workdir = tmp_path / "damaged"
  shutil.copytree(alone, workdir)
  file = next((workdir / "checkpoints" / "hgpo" / "12" / "params").rglob("d/*"))
  file.write_bytes(file.read_bytes()[:-1])
  assert start(workdir).wait(timeout=300) == 0, log_of(workdir)
  assert "set aside as damaged-12" in log_of(workdir) and "hgpo step 9" in log_of(workdir)
  assert outcome(workdir) == outcome(alone)


@pytest.mark.slow
def test_an_allowed_change_goes_on(alone, tmp_path):
  workdir = tmp_path / "longer"
  shutil.copytree(alone, workdir)
  # A finished run is run again: nothing changes.
  assert start(workdir).wait(timeout=300) == 0, log_of(workdir)
  assert outcome(workdir) == outcome(alone)
  longer = ("--config.hgpo.steps=13", "--config.allow_config_change=hgpo.steps")
  assert start(workdir, *longer).wait(timeout=300) == 0, log_of(workdir)
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert [r["step"] for r in rows if r["stage"] == "hgpo" and "loss" in r] == list(range(1, 14))


@pytest.mark.slow
def test_a_run_in_a_bucket_goes_on_from_machine_to_machine(alone, tmp_path, monkeypatch, s3):
  """The first one is lost with its disk."""
  url = f"s3://runs/{tmp_path.name}"

  def job(machine):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
    with (tmp_path / "run.log").open("a") as log:
      return small_run.start(url, log=log), bucket.folder_for(url, "runs")

  said = tmp_path / "run"  # whose log it is
  process, folder = job("first")
  until(folder, process, "hgpo", 5, said)
  process.kill()
  process.wait()
  shutil.rmtree(tmp_path / "first")
  process, folder = job("second")
  assert process.wait(timeout=300) == 0, log_of(said)
  assert f"Resuming in {folder}: hgpo step" in log_of(said)
  assert outcome(folder) == outcome(alone)

  # Another run can start from what is there, or from one of its checkpoints.
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third"))
  run, newest = loading.find_checkpoint(url)
  assert newest == run / "checkpoints/hgpo/12" and not (run / "rollouts").exists()
  assert loading.find_checkpoint(f"{url}/checkpoints/hgpo/9")[1].name == "9"
  with pytest.raises(UserError, match="init_from: s3://runs/none does not exist"):
    loading.find_checkpoint("s3://runs/none")

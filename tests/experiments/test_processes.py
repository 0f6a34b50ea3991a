"""The real command as several processes: the same run as one, one log, and an end when one dies."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from launch.local import environment, free_port
from lhrm_jax.runs.preemption import EXIT_STATUS
from tests.chaos.small_run import ROOT, command, events_of, log_of

# Shorter yet; eight rows divide over four devices in every chunk.
FLAGS = ["--config.hgpo.steps=6", "--config.hgpo.prompts_per_step=8",
         "--config.evaluation.prompts=8",
         "--config.evaluation.batch_prompts=4", "--config.hft.steps=12",
         "--config.hgpo.eval_every=3"]  # fmt: skip


def start_job(workdir, processes: int, *more: str) -> subprocess.Popen:
  """A job of so many processes with four devices together; its output goes to WORKDIR.log."""
  launcher = [
    sys.executable, "launch/local.py", "--processes", str(processes),
    "--devices", str(4 // processes), "--", *command(workdir, *FLAGS, *more),
  ]  # fmt: skip
  with workdir.with_suffix(".log").open("a") as log:
    return subprocess.Popen(
      launcher, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
      env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen, workdir, status: int = 0) -> None:
  assert process.wait(timeout=600) == status, log_of(workdir)[-5000:]


def until(workdir, stage: str, rows: int, process: subprocess.Popen) -> None:
  """Waits until a stage has logged so many rows."""
  metrics = workdir / "metrics.jsonl"
  deadline = time.monotonic() + 400
  while not metrics.exists() or metrics.read_text().count(f'"{stage}"') < rows:
    assert time.monotonic() < deadline and process.poll() is None, log_of(workdir)[-5000:]
    time.sleep(0.05)


def rollouts_of(workdir) -> list[dict]:
  return [json.loads(line) for line in (workdir / "rollouts" / "train.jsonl").open()]


def assert_same_run(workdir, expected) -> None:
  """The same sampled tokens, and metrics that differ by rounding; nothing is logged twice."""
  rows, wanted = rollouts_of(workdir), rollouts_of(expected)
  assert [(r["step"], r["text"], r["score"]) for r in rows] == [
    (r["step"], r["text"], r["score"]) for r in wanted
  ]
  logged = [
    [json.loads(line) for line in (path / "metrics.jsonl").open()] for path in (workdir, expected)
  ]
  assert [(r["stage"], r["step"]) for r in logged[0]] == [
    (r["stage"], r["step"]) for r in logged[1]
  ]
  for row, other in zip(*logged, strict=True):
    for name in ("loss", "reward", "grad_norm", "mode/think_rate"):
      np.testing.assert_allclose(row.get(name, 0), other.get(name, 0), rtol=1e-4, atol=1e-5)
  assert (workdir / "report" / "index.html").exists()
  assert events_of(workdir) == events_of(expected)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "alone"
  finish(start_job(workdir, 1), workdir)
  return workdir


@pytest.mark.slow
def test_two_processes_preempted_go_on_as_one(alone, tmp_path):
  """SIGTERM reaches all; they save the same step; one process then ends the run."""
  workdir = tmp_path / "two"
  job = start_job(workdir, 2)
  until(workdir, "hgpo", 2, job)
  job.send_signal(signal.SIGTERM)
  finish(job, workdir, EXIT_STATUS)
  finish(start_job(workdir, 1), workdir)
  assert_same_run(workdir, alone)


@pytest.mark.slow
def test_four_processes_are_the_run_of_one(alone, tmp_path):
  workdir = tmp_path / "four"
  finish(start_job(workdir, 4), workdir)
  assert_same_run(workdir, alone)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_job_goes_on(alone, tmp_path):
  """Without a launcher that would end them: each must notice by itself."""
  workdir, coordinator = tmp_path / "killed", f"127.0.0.1:{free_port()}"
  logs = [tmp_path / f"{i}.log" for i in range(2)]
  workers = [
    subprocess.Popen(
      command(workdir, *FLAGS), cwd=ROOT, stdout=logs[i].open("w"), stderr=subprocess.STDOUT,
      env=environment(i, 2, 2, coordinator, {**os.environ, "PYTHONUNBUFFERED": "1"}),
    )
    for i in range(2)
  ]  # fmt: skip
  try:
    until(workdir, "hgpo", 2, workers[0])
    workers[1].kill()
    assert workers[0].wait(timeout=120) not in (0, EXIT_STATUS)
  finally:
    for worker in workers:
      worker.kill()
  # Ours where it waited in a collective, JAX's where its heartbeat was missed first.
  said = logs[0].read_text()
  assert "Another process of this job" in said or "another task died" in said, said[-3000:]
  finish(start_job(workdir, 2), workdir)
  assert_same_run(workdir, alone)

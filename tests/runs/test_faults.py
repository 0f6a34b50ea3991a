"""The real command meets what is not finite, and a full disk."""

import json
import os
import subprocess
import sys

import pytest

from tests.chaos.small_run import ROOT, command, log_of, outcome, start

pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}


def run_faulty(fault: str, workdir) -> subprocess.CompletedProcess:
  module, *rest = command(workdir, module="tests.chaos.faulty_run")[2:]
  return subprocess.run(
    [sys.executable, "-m", module, fault, *rest],
    cwd=ROOT, capture_output=True, text=True, timeout=600, env=ENVIRONMENT, check=False,
  )  # fmt: skip


@pytest.mark.parametrize(
  "fault, replayed", [("reward", "batch: not finite"), ("logprobs", "batch: not finite"),
                      ("gradient", "batch: finite")]
)  # fmt: skip
def test_one_bad_value_costs_one_update(tmp_path, fault, replayed):
  """It is skipped, counted, and dumped; replay shows what was bad. The run continues to its end."""
  workdir = tmp_path / "run"
  done = run_faulty(fault, workdir)
  assert done.returncode == 0, done.stderr[-3000:]
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
  skipped = [(r["step"], r["skipped"]) for r in rows if r["stage"] == "hgpo" and "skipped" in r]
  assert skipped == [(step, float(step >= 3)) for step in range(1, 13)]
  assert [path.name for path in (workdir / "dumps").iterdir()] == ["hgpo-000003"]
  replay = subprocess.run(
    [sys.executable, "-m", "experiments.replay", str(workdir / "dumps" / "hgpo-000003")],
    cwd=ROOT, capture_output=True, text=True, timeout=200, env=ENVIRONMENT, check=False,
  )  # fmt: skip
  assert replayed in replay.stdout, replay.stdout + replay.stderr[-2000:]


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(tmp_path):
  workdir, alone = tmp_path / "full", tmp_path / "alone"
  done = run_faulty("disk", workdir)
  assert done.returncode == 2
  assert "error:" in done.stderr and "Traceback" not in done.stderr, done.stderr[-3000:]
  assert start(workdir).wait(timeout=600) == 0, log_of(workdir)
  assert start(alone).wait(timeout=600) == 0, log_of(alone)
  assert outcome(workdir) == outcome(alone)

"""The real command, killed once and run again: two methods and their start, over two seeds."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.chaos.small_run import FLAGS
from tests.runs.test_command_line import ROOT

CONFIG = "experiments/configs/compare_arithmetic.py"
SEEDS, ARMS = ("0", "1"), ("hgpo", "grpo", "hft")
ONLY = """
from experiments.configs import compare_arithmetic

def get_config():
  config = compare_arithmetic.get_config()
  for arm in {*config.arms} - {"hgpo", "grpo", "hft"}:
    del config.arms[arm]
  config.seeds = (0, 1)
  return config
"""


def start(workdir, config):
  command = [
    sys.executable, "-m", "experiments.compare", "--config", str(config), "--workdir", str(workdir),
    *FLAGS, "--config.hft.steps=2", "--config.hgpo.steps=2", "--config.hgpo.eval_every=1",
    "--config.checkpoint.every=1", "--config.hgpo.packed_length=128",
  ]  # fmt: skip
  environment = {
    **os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  }  # fmt: skip
  with workdir.with_suffix(".log").open("a") as log:
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def steps(run):
  rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
  return [row["step"] for row in rows if row["stage"] == "hgpo" and "loss" in row]


@pytest.mark.slow
def test_a_killed_comparison_is_resumed_and_its_finished_arms_are_left_alone(tmp_path):
  workdir, config = tmp_path / "compare", tmp_path / "config.py"
  config.write_text(ONLY)
  log = workdir.with_suffix(".log")
  interrupted = workdir / "arms" / "grpo" / "0"
  with start(workdir, config) as process:
    deadline = time.monotonic() + 300
    while not (interrupted / "checkpoints" / "hgpo" / "1").exists():
      if process.poll() is not None or time.monotonic() > deadline:
        break
      time.sleep(0.02)
    process.kill()
  first = workdir / "arms" / "hgpo" / "0"
  assert (interrupted / "checkpoints" / "hgpo" / "1").exists(), log.read_text()
  assert (first / "record.json").exists() and not (interrupted / "record.json").exists()
  before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}

  assert start(workdir, config).wait(timeout=400) == 0, log.read_text()
  assert {path: path.stat().st_mtime_ns for path in before} == before, "it was run again"
  assert f"Resuming in {interrupted}" in log.read_text()
  for arm in ("hgpo", "grpo"):
    for seed in SEEDS:
      run = workdir / "arms" / arm / seed
      assert steps(run) == [1, 2]
      assert {"report", "tensorboard", "policy", "config.json"} <= {p.name for p in run.iterdir()}
      record = json.loads((run / "record.json").read_text())
      assert record["config"]["seed"] == int(seed)
      lines = (run / "rollouts" / "train.jsonl").read_text().splitlines()
      tokens = sum(len(json.loads(line)["token_ids"]) for line in lines)
      assert record["cost"]["sampled_tokens"] == tokens and record["cost"]["flops"] > tokens
      assert [point["step"] for point in record["curve"]] == [0, 1, 2]
      assert record["curve"][-1]["sampled_tokens"] == tokens and "hacc" in record["curve"][0]
      assert record["curve"][-1]["accuracy"] == record["summary"]["auto"]["accuracy"]
      start_of = json.loads((workdir / "start" / seed / "record.json").read_text())
      assert record["curve"][0]["accuracy"] == start_of["summary"]["auto"]["accuracy"]
      took = [
        json.loads((folder / "evaluation" / "hft.json").read_text())["seconds"]
        for folder in (run, workdir / "start" / seed)
      ]
      assert took[0] == took[1], "the start was evaluated once"

  found = json.loads((workdir / "compare.json").read_text())
  assert tuple(found["arms"]) == ARMS and found["first"] == "hgpo"
  assert all(arm["seeds"] == [0, 1] for arm in found["arms"].values())
  assert found["arms"]["hft"]["cost"]["sampled_tokens"] == 0
  assert (workdir / "compare.html").exists() and "| grpo |" in (workdir / "compare.md").read_text()
  assert log.read_text().count("HFT: ") == len(SEEDS), "one cold start per seed"

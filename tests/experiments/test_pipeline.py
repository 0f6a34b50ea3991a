"""The whole pipeline in small: the real commands, their files, and what they hold."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from lhrm_jax.runs import metric_writer
from tests.runs.test_command_line import CONFIG, ROOT

SMALL = [
  "--config.policy.hidden_size=32", "--config.policy.intermediate_size=48",
  "--config.policy.num_layers=2", "--config.hft.steps=20", "--config.hft.until.check_every=10",
  "--config.evaluation.prompts=20", "--config.evaluation.samples=2",
  "--config.hgpo.prompts_per_step=4", "--config.hgpo.samples_per_mode=2",
  "--config.hgpo.eval_every=2", "--config.hgpo.micro_batch_rows=2",
  "--config.hgpo.updates_per_rollout=2",
]  # fmt: skip
STEPS = 3


def run(module, *arguments, seconds=400):
  command = [sys.executable, "-m", f"experiments.{module}", *arguments]
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "160"}
  result = subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
  )
  assert result.returncode == 0, result.stderr[-3000:]
  return result.stdout


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("runs") / "small"
  run("hgpo", "--config", CONFIG, "--workdir", str(folder), f"--config.hgpo.steps={STEPS}", *SMALL)
  return folder


def rows_of(workdir, stage):
  rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [row for row in rows if row["stage"] == stage]


def test_summary_has_the_promised_shape(workdir):
  summary = json.loads((workdir / "report" / "summary.json").read_text())
  assert set(summary) == {"stages", "seconds", "config", "versions", "notes"}
  assert set(summary["stages"]) == {"hft", "hgpo"}
  for stage in summary["stages"].values():
    assert set(stage) == {
      "auto", "think", "no_think", "first_token", "hacc", "calibration", "mode_leak", "differences",
      "suites", "sampling", "overlap",
    }  # fmt: skip
    assert stage["suites"]["arithmetic"]["hacc"] == stage["hacc"]
    assert sum(stage["first_token"].pop("greedy").values()) == pytest.approx(1)
    for mode in ("auto", "think", "no_think"):
      assert {"accuracy", "mean_tokens", "think_rate", "malformed_rate"} <= set(stage[mode])
      assert stage[mode]["form"]
      assert set(stage[mode]["by_level"]) == {"1", "2", "3", "4", "5", "6"}
    assert stage["think"]["think_rate"] == 1 and stage["no_think"]["think_rate"] == 0
    assert set(stage["hacc"]) == {
      "score", "always_think", "always_no_think", "random", "tie_frac", "decided_score",
      "invalid_frac", "interval", "expected_score", "ceiling", "regret_accuracy", "regret_tokens",
    }  # fmt: skip
    for first in (stage["first_token"], *stage["first_token"].pop("by_level").values()):
      assert set(first) == {"think", "no_think", "neither"}
      assert sum(first.values()) == pytest.approx(1, abs=1e-5)
  kept = json.loads((workdir / "evaluation" / "hgpo.json").read_text())
  assert kept["mode_leak"]["drift"] > 0, "direct replies are held against HFT's"
  dials = json.loads((workdir / "evaluation" / "hgpo" / "dials.json").read_text())
  assert {point["think_rate"] for point in dials["threshold"]} >= {0.0, 1.0}
  assert summary["config"]["hgpo"]["steps"] == STEPS
  assert summary["seconds"]["total"] > 0


def test_report_is_one_page_that_needs_nothing_else(workdir):
  page = (workdir / "report" / "index.html").read_text()
  assert page.count("<svg") >= 7 and page.count("application/gzip") >= 4, "figures and replies"
  assert "p(neither)" in page and "it must be right with" in page
  for outside in ("src=", "<link"):
    assert outside not in page
  assert len(list((workdir / "report").glob("*.png"))) >= 7


def test_every_rollout_is_on_record(workdir):
  lines = [json.loads(x) for x in (workdir / "rollouts" / "train.jsonl").read_text().splitlines()]
  assert len(lines) == STEPS * 4 * 2 * 2
  for line in lines:
    assert line["mode"] in ("think", "no_think")
    assert line["text"].startswith(f"<{line['mode']}>")
    assert line["policy_version"] == line["step"] - 1
    assert {"prompt", "answer", "level", "token_ids", "score", "r_inter", "r_intra"} <= set(line)
  for step in range(1, STEPS + 1):
    modes = [line["mode"] for line in lines if line["step"] == step]
    assert modes.count("think") == modes.count("no_think") == 8
  first = lines[0]
  group = [x for x in lines if x["step"] == 1 and x["prompt_id"] == first["prompt_id"]]
  assert sum(x["r_inter"] for x in group) == 2, "one mode wins, with both of its responses"


def test_metrics_bear_the_promised_names(workdir):
  steps = [row for row in rows_of(workdir, "hgpo") if "loss" in row]
  assert [row["step"] for row in steps] == [1, 2, 3]
  assert set(steps[-1]) >= {
    "reward", "kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean",
    "completions/mean_length", "sampling/sampling_logp_difference/mean",
    "sampling/sampling_logp_difference/max", "mode/think/reward",
    "mode/think/mean_length", "mode/no_think/clipped_ratio", "mode/winner_think_frac",
    "mode/tie_frac", "mode/tag_entropy", "mode/tag_kl", "time/rollout", "time/reward",
    "time/logprob", "time/update", "time/checkpoint", "perf/tokens_per_second", "perf/mfu",
    "perf/compiles", "perf/live_slots", "mode/think/malformed_rate", "mode/no_think/leak_rate",
    "mode/no_think/malformed_rate", "mode/think/empty_rate", "completions/malformed_rate",
    "rollout/tokens_total",
  }  # fmt: skip
  assert [(row["rollout/samples_total"], row["updates"]) for row in steps] == [
    (16, 2), (32, 4), (48, 6)
  ]  # fmt: skip
  # The second mini-batch of a step meets a policy that the first has moved, a little.
  assert all(1e-7 < abs(row["importance_ratio/mean"] - 1) < 0.1 for row in steps)
  assert steps[0]["kl"] == pytest.approx(0, abs=5e-3), "the reference is where HGPO starts"
  free = [row for row in rows_of(workdir, "hgpo") if "mode/think_rate" in row]
  assert [row["step"] for row in free] == [0, 2, 3]
  assert {"eval/neither_prob", "eval/neither_prob/level_1", "eval/malformed_rate"} <= set(free[0])
  judged = rows_of(workdir, "evaluation")
  assert {"hacc/score", "hacc/always_think", "hacc/ceiling", "mode/neither_prob"} <= set(judged[0])


def test_nothing_is_compiled_after_the_first_step(workdir):
  steps = [row for row in rows_of(workdir, "hgpo") if "loss" in row]
  assert steps[1]["perf/compiles"] == steps[2]["perf/compiles"]


def test_the_first_step_of_each_stage_is_timed_once(workdir):
  for stage in ("hft", "hgpo"):
    rows = [row for row in rows_of(workdir, stage) if "loss" in row]
    (first,) = [row for row in rows if "time/to_first_step" in row]
    assert first is rows[0]
    assert first["time/to_first_step"] > first["time/update"]


def test_the_source_of_the_config_is_kept(workdir):
  assert (workdir / "config.py").read_bytes() == (ROOT / CONFIG).read_bytes()


def test_tensorboard_reads_the_events(workdir):
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  assert {path.name for path in (workdir / "tensorboard").iterdir()} == {"hft", "hgpo"}
  tags = {}
  for stage in ("hft", "hgpo"):
    events = EventAccumulator(str(workdir / "tensorboard" / stage), size_guidance={"tensors": 0})
    events.Reload()
    tags[stage] = events.Tags()
  scalars = tags["hgpo"]["scalars"]
  assert {"loss", "final/accuracy"} <= set(tags["hft"]["scalars"])
  assert {"reward", "Mode/think_rate", *metric_writer.FINAL} <= set(scalars)
  assert min(scalars).startswith("Mode/"), "cards are sorted by tag"
  figures = ("accuracy_against_tokens", "think_rate_by_level", "hybrid_accuracy", "by_level")
  assert {"Mode/think_rate_by_level", *(f"final/{name}" for name in figures)} <= set(
    tags["hgpo"]["images"]
  )
  assert {"config/text_summary", "rollouts/text_summary", "custom_scalars__config__"} <= set(
    tags["hgpo"]["tensors"]
  )


def test_later_jobs_start_from_the_run(workdir, tmp_path):
  run(
    "evaluate", "--config", CONFIG, f"--config.init_from={workdir}",
    "--workdir", str(tmp_path / "e"),
    "--config.evaluation.prompts=20", "--config.evaluation.samples=2",
  )  # fmt: skip
  again = json.loads((tmp_path / "e" / "report" / "summary.json").read_text())["stages"]["hgpo"]
  first = json.loads((workdir / "report" / "summary.json").read_text())["stages"]["hgpo"]
  assert again == first, "the same policy, loaded, gets the same evaluation"

  printed = run(
    "sample", f"--config.init_from={workdir}", "Left to right, last digit: what is 3+4?"
  )
  assert "p(think) =" in printed and "p(neither) =" in printed
  assert "<think>" in printed and "<no_think>" in printed

  refused = subprocess.run(
    [sys.executable, "-m", "experiments.sample", f"--config.init_from={workdir}", "What is love?"],
    cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    check=False,
  )  # fmt: skip
  assert refused.returncode == 2 and "never seen" in refused.stderr


@pytest.mark.slow
def test_hgpo_continues_a_cold_start(workdir, tmp_path):
  start = workdir / "checkpoints" / "hft"
  run("hgpo", "--config", CONFIG, f"--config.init_from={start}", "--workdir", str(tmp_path / "h"),
      "--config.hgpo.steps=1", *SMALL)  # fmt: skip
  assert not rows_of(tmp_path / "h", "hft")
  steps = [row for row in rows_of(tmp_path / "h", "hgpo") if "loss" in row]
  # The same start, seed and prompts: the first step is the first step of the run it came from.
  original = next(row for row in rows_of(workdir, "hgpo") if "loss" in row)
  assert steps[0]["reward"] == original["reward"]
  assert steps[0]["grad_norm"] == pytest.approx(original["grad_norm"], rel=1e-5)

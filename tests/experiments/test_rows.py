"""Files of rows and a pretrained model, through the real jobs, by config alone."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from experiments.configs import arithmetic
from lhrm_jax.config import replaced
from lhrm_jax.data import tasks
from lhrm_jax.runs import setup
from lhrm_jax.runs.demonstrations import demonstration_batch
from tests.data.test_sources import write_jsonl
from tests.experiments.test_pipeline import ROOT, rows_of, run

TINY = pathlib.Path(__file__).parents[1] / "golden" / "qwen3_tied"


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  """Command-line flags: one file for both stages, one prompt in five too long."""
  folder = tmp_path_factory.mktemp("rows")
  long = " please" * 40
  rows = [{"question": f"{i}+{i}?{long * (i % 5 == 0)}", "answer": f"#### {2 * i}"}
          for i in range(100)]  # fmt: skip
  write_jsonl(folder / "gsm8k.jsonl", rows)
  replies = ("<think>twice {i}</think>{i}", "<no_think>{i}</no_think>")
  shown = [
    {"prompt": f"{i}+{i}?", "response": reply.format(i=i)} for i in range(100) for reply in replies
  ]
  write_jsonl(folder / "shown.jsonl", shown)
  config = folder / "config.py"
  config.write_text(
    "from experiments.configs import defaults\n\n\n"
    "def get_config():\n"
    "  config = defaults.get_config()\n"
    "  config.task = 'rows'\n"
    f"  config.data.sources.gsm = {{'path': '{folder}/gsm8k.jsonl', 'format': 'gsm8k'}}\n"
    "  config.data.prompts = 'gsm'\n"
    f"  config.data.demonstrations = '{folder}/shown.jsonl'\n"
    "  return config\n"
  )
  return [
    "--config", str(config), f"--config.init_from={TINY}",
    "--config.data.long_prompts=skip", "--config.data.max_prompt_tokens=150",
    "--config.data.max_response_tokens=40", "--config.data.max_no_think_tokens=12",
    "--config.hft.steps=2", "--config.hft.think_per_step=6", "--config.hft.no_think_per_step=6",
    "--config.hft.packed_length=192", "--config.hft.micro_batch_rows=2",
    "--config.hgpo.steps=2", "--config.hgpo.prompts_per_step=4", "--config.hgpo.eval_every=0",
    "--config.evaluation.prompts=4", "--config.evaluation.samples=1",
  ]  # fmt: skip


@pytest.mark.slow
def test_both_stages_run_on_files_from_a_pretrained_model(flags, tmp_path):
  run("hft", *flags, "--workdir", str(tmp_path / "hft"))
  assert [row["step"] for row in rows_of(tmp_path / "hft", "hft") if "loss" in row] == [2]
  start = f"--config.init_from={tmp_path / 'hft'}"
  # Prompts are all that it needs, also when it is resumed.
  hgpo = (*flags, start, "--config.data.demonstrations=", "--workdir", str(tmp_path / "hgpo"))
  run("hgpo", *hgpo, "--config.hgpo.steps=1")
  run("hgpo", *hgpo, "--config.allow_config_change=hgpo.steps")
  steps = [row for row in rows_of(tmp_path / "hgpo", "hgpo") if "loss" in row]
  assert [row["step"] for row in steps] == [1, 2]
  lines = (tmp_path / "hgpo" / "rollouts" / "train.jsonl").read_text().splitlines()
  assert not any("please" in json.loads(line)["prompt"] for line in lines)
  assert sum(row["data/long_prompts"] for row in steps) > 0
  page = (tmp_path / "hgpo" / "report" / "index.html").read_text()
  assert "100 rows from gsm" in page, "the report says where the rows come from"


def test_a_bad_row_ends_the_job_before_it_trains(flags, tmp_path):
  bad = write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "1+1?", "response": "2"}])
  result = subprocess.run(
    [sys.executable, "-m", "experiments.hft", *flags, f"--config.data.demonstrations={bad}",
     "--workdir", str(tmp_path / "run")],
    cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    check=False,
  )  # fmt: skip
  assert result.returncode == 2 and "Traceback" not in result.stderr
  assert "bad.jsonl:1: the response opens with no tag" in result.stderr


def test_what_was_skipped_and_left_out_is_said_before_training(tmp_path, capsys):
  asked, other = {"prompt": "2 + 2?", "answer": 4}, {"prompt": "3 + 3?", "answer": 6}
  write_jsonl(tmp_path / "asked.jsonl", [asked])
  write_jsonl(tmp_path / "mixed.jsonl", [asked, {"prompt": "?"}, other, {"\x1b[2J": 1}])
  config = arithmetic.get_config()
  config.task = "rows"
  config.data.prompts, config.data.evaluation = (
    f"{tmp_path}/{name}.jsonl" for name in ("mixed", "asked")
  )
  config.data.on_bad_row = "skip"
  task = tasks.get(config.task, config.data)
  task.prompts(0, 0, 1)  # as check_rows does for HGPO, with a mesh
  setup.check_rows(
    types.SimpleNamespace(
      config=config, task=task, tokenizer=None, reward_fn=None, suite_rows=None
    ),
    (),
  )
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 2 and said[1].endswith("asked.jsonl.")
  assert "2 rows from" in said[0] and "2 bad rows were skipped" in said[0]
  assert "By reason: 2 no 'answer'" in said[0] and "1 are left out, being eval" in said[0]


def test_evaluation_prompts_that_are_left_out_are_counted(demo, capsys):
  config = replaced(demo.config, {"data.max_prompt_tokens": 18, "data.long_prompts": "skip"})
  rows = dataclasses.replace(demo, config=config).evaluator().rows
  (said,) = capsys.readouterr().out.splitlines()
  assert said.startswith(f"{config.evaluation.prompts - len(rows)} evaluation prompts have more")


@pytest.fixture(scope="module")
def demo():
  """The embedded task and its policy, with few demonstrations a step."""
  config = arithmetic.get_config()
  config.hft.think_per_step, config.hft.no_think_per_step = 5, 9
  config.policy.num_layers = 1
  config.compilation_cache = ""
  return setup.make(config)


def packed(demo, length: int, rows: int):
  config = replaced(demo.config, {"hft.packed_length": length, "hft.micro_batch_rows": rows})
  return dataclasses.replace(demo, config=config)


def test_a_batch_is_a_function_of_the_step_and_of_one_shape(demo):
  run_of = packed(demo, 64, 2)
  fifth, sixth = (demonstration_batch(run_of, step)[0] for step in (5, 6))
  jax.tree.map(np.testing.assert_array_equal, fifth, demonstration_batch(run_of, 5)[0])
  assert (fifth.tokens != sixth.tokens).any()
  assert fifth.tokens.shape == sixth.tokens.shape and not fifth.filled.all()

"""Keys of the user's own on the command line: sources of data, weights of rewards."""

import os
import pathlib
import subprocess
import sys

import pytest

from lhrm_jax.runs import defaults, overrides
from lhrm_jax.runs.config import problems

ROOT = pathlib.Path(__file__).parents[2]


def config(*arguments):
  locked = defaults.get_config()
  locked.lock()
  rest, values = overrides.split_off(["job", *arguments])
  overrides.apply(locked, values)
  assert locked.is_locked
  return rest, locked


def test_sources_and_weights_are_named_on_the_command_line():
  rest, found = config(
    "--config", "c.py", "--config.data.sources.mine.path=a=b.jsonl", "--config.seed=3",
    "-config.data.sources.mine.split", "train[:9]", "--config.data.sources.mine.streaming=true",
    "--config.data.sources.mine.columns.prompt=7", "--config.data.sources.mine.constants.level=7",
    '--config.data.sources.mine.constants.note="7"', "--config.data.sources.mine.subset=7",
    "--config.data.sources.mine.constants.mode=no_think", "--config.reward_weights.math=.5",
    "--", "--config.reward_weights.code=1",
  )  # fmt: skip
  assert rest == ["job", "--config", "c.py", "--config.seed=3", "--",
                  "--config.reward_weights.code=1"]  # fmt: skip
  assert found.data.sources.to_dict() == {"mine": {
    "path": "a=b.jsonl", "split": "train[:9]", "streaming": True, "columns": {"prompt": "7"},
    "constants": {"level": 7, "note": "7", "mode": "no_think"}, "subset": "7",
  }}  # fmt: skip
  assert found.reward_weights.to_dict() == {"math": 0.5}


def test_fields_of_a_source_that_the_config_has_are_replaced():
  locked = defaults.get_config()
  locked.data.sources = {"mine": {"path": "a.jsonl", "split": "test"}}
  locked.lock()
  overrides.apply(locked, {"data.sources.mine.path": "b.jsonl"})
  assert locked.data.sources.mine.to_dict() == {"path": "b.jsonl", "split": "test"}


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--config.data.sources.mine=a.jsonl", "data.sources="),
    ("--config.reward_weights.math=much", "reward_weights="),
    ("--config.reward_weights.math.x=1", "reward_weights="),
  ],
)
def test_values_of_other_types_are_found_with_those_of_other_keys(argument, message):
  _, found = config(argument)
  assert any(problem.startswith(message) for problem in problems(found))


def test_a_key_below_a_value_is_an_error():
  with pytest.raises(ValueError, match=r"data\.sources\.mine\.path is not a section"):
    config("--config.data.sources.mine.path=a", "--config.data.sources.mine.path.more=b")


@pytest.mark.slow
def test_a_job_takes_them(tmp_path):
  arguments = ["--config", "experiments/configs/arithmetic.py", "--workdir", str(tmp_path / "run"),
               "--config.task=rows", "--config.data.prompts=mine",
               "--config.data.sources.mine.path=none.jsonl"]  # fmt: skip
  done = subprocess.run(
    [sys.executable, "-m", "experiments.hgpo", *arguments], cwd=ROOT, capture_output=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"}, text=True, timeout=120, check=False,
  )  # fmt: skip
  assert done.returncode == 2
  assert done.stderr == "error: data.sources.mine: none.jsonl does not exist.\n"

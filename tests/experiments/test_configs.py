"""Every config of the folder names only what exists, and what goes together."""

import importlib
import pathlib

import pytest

from experiments import configs
from experiments.compare import JOBS
from lhrm_jax import rewards
from lhrm_jax.data import tasks
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs import compare
from lhrm_jax.runs.config import from_config_dict

FOLDER = pathlib.Path(configs.__file__).parent
COMPARISONS = sorted(path.stem for path in FOLDER.glob("compare_*.py"))
OTHERS = {"__init__", "defaults", "export", "sample", "serve", *COMPARISONS}  # not of one run
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - OTHERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_names_only_what_exists(name):
  config = importlib.import_module(f"experiments.configs.{name}").get_config()
  c = from_config_dict(config)
  tasks.get(c.task, c.data)
  PolicyConfig.from_dict({**vars(c.policy), "vocab_size": 64})


@pytest.mark.parametrize("name", NAMES)
def test_the_evaluation_of_a_config_is_drawn_and_judged(name):
  c = from_config_dict(importlib.import_module(f"experiments.configs.{name}").get_config())
  if c.evaluation.suites:
    sources = set()  # a suite says itself how it is judged
  elif c.task == tasks.ROWS:
    sources = {source_of(name) for name in filter(None, c.data.evaluation.split(","))}
  else:
    try:
      rows = tasks.get(c.task, c.data).evaluation(c.evaluation.prompts)
    except ImportError:
      pytest.skip("needs reasoning-gym")
    assert len(rows) == c.evaluation.prompts
    sources = {row.source for row in rows}
  named = set(c.reward_by_source.values()) - {"reward_model"}
  own = {"reward_model": rewards.get("exact_match")} if c.reward_by_source else {}
  reward = rewards.chosen(c.reward, c.reward_weights, c.reward_by_source, **own)
  assert named <= set(rewards.names())
  for source in sources:
    rewards.check_answer(reward, "1", source)


def source_of(data_set: str) -> str:
  """The column `source` of its rows."""
  return {"math500": "math"}.get(data_set, data_set)


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_arms_of_a_comparison_are_configs_of_runs(name):
  config = importlib.import_module(f"experiments.configs.{name}").get_config()
  plan = compare.of_config(config, JOBS)
  assert len(plan.arms) > 1 and len(plan.seeds) > 1

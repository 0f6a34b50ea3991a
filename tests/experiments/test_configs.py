"""Every config of the folder names only what exists, and what goes together."""

import importlib
import pathlib

import pytest

from experiments import configs
from experiments.compare import JOBS
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


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_arms_of_a_comparison_are_configs_of_runs(name):
  config = importlib.import_module(f"experiments.configs.{name}").get_config()
  plan = compare.of_config(config, JOBS)
  assert len(plan.arms) > 1 and len(plan.seeds) > 1

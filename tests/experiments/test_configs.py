"""Every config of the folder names only what exists, and what goes together."""

import importlib
import pathlib

import pytest

from experiments import configs
from lhrm_jax.data import tasks
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs.config import from_config_dict

FOLDER = pathlib.Path(configs.__file__).parent
OTHERS = {"__init__", "compare_arithmetic", "defaults", "export", "sample"}  # not of one run
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - OTHERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_names_only_what_exists(name):
  config = importlib.import_module(f"experiments.configs.{name}").get_config()
  c = from_config_dict(config)
  tasks.get(c.task, c.data)
  PolicyConfig.from_dict({**vars(c.policy), "vocab_size": 64})

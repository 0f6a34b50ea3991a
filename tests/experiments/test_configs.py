"""Every config of the folder names only what exists, and what goes together."""

import importlib
import pathlib

import pytest

from experiments import configs, setup
from lhrm_jax import rewards
from lhrm_jax.data import tasks
from lhrm_jax.policy import PolicyConfig

FOLDER = pathlib.Path(configs.__file__).parent
OTHERS = {"__init__", "defaults", "export", "sample"}  # not of a training run
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - OTHERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_names_only_what_exists(name):
  config = importlib.import_module(f"experiments.configs.{name}").get_config()
  setup.check(config)
  tasks.get(config.task, config.data)
  rewards.get(config.reward)
  PolicyConfig.from_dict({"vocab_size": 64, **config.policy.to_dict()})
  assert config.hgpo.prompts_per_step % config.hgpo.sampling_chunks == 0
  longest = config.data.max_prompt_tokens + config.data.max_response_tokens
  assert not config.hft.packed_length or config.hft.packed_length >= longest - 1, (
    "the longest demonstration that the limits allow fits into a row"
  )

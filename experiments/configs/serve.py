"""Settings of `python -m experiments.serve`; the policy's own come with the run."""

import dataclasses

from ml_collections import ConfigDict

from lhrm_jax.serving import ServingConfig


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.init_from = ""
  config.compilation_cache = "~/.cache/lhrm_jax/xla"
  config.update(ConfigDict(dataclasses.asdict(ServingConfig())))
  return config

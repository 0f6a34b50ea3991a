"""Settings of `python -m experiments.sample`; the policy's own come with the run."""

import dataclasses

from ml_collections import ConfigDict

from lhrm_jax.sampling import DialsConfig


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.init_from = ""
  config.seed = 0
  config.temperature = 0.0
  config.top_p = 1.0
  config.max_response_tokens = 0  # 0: as many as the policy's positions allow
  config.dials = ConfigDict(dataclasses.asdict(DialsConfig()))
  config.compilation_cache = "~/.cache/lhrm_jax/xla"
  return config

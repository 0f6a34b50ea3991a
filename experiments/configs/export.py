"""Settings of `python -m experiments.export`."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.init_from = ""
  config.dtype = "bfloat16"
  config.adapter = False
  return config

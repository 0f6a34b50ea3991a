"""Paths of a config, made absolute."""

import functools
import pathlib

from ml_collections import ConfigDict

from lhrm_jax.storage import urls


def absolute(path: str) -> str:
  """Returns an existing path made absolute; anything else (URL, hub id, "") unchanged.

  Args:
    path: a path, a URL, a hub id, `package:NAME` or "".
  """
  try:
    found = pathlib.Path(path).expanduser()
    return str(found.absolute()) if path and not urls.is_url(path) and found.exists() else path
  except (OSError, RuntimeError, ValueError):  # ~nobody, a name too long
    return path


def with_absolute_paths(config: ConfigDict) -> ConfigDict:
  """Makes each path absolute, in place, so that the run's record can be read anywhere."""
  for key in (
    "init_from", "reward_model.init_from", "rollouts.path", "evaluation.judge.baseline", "data.root"
  ):  # fmt: skip
    *above, name = key.split(".")
    section = functools.reduce(lambda found, part: found and found.get(part), above, config)
    # `from_config_dict` reports any other type.
    if isinstance(section, ConfigDict) and isinstance(section.get(name), str):
      section[name] = absolute(section[name])
  section = config.get("evaluation")
  if isinstance(section, ConfigDict) and isinstance(section.get("suites"), str):
    section["suites"] = ",".join(map(_with_absolute_path, section["suites"].split(",")))
  return config


def _with_absolute_path(suite: str) -> str:
  """An entry of `evaluation.suites`, as "gsm8k" or "gsm8k=test.jsonl"."""
  name, given, path = suite.partition("=")
  return f"{name.strip()}={absolute(path.strip())}" if given else suite

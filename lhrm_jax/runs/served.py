"""What `experiments.serve` reads before it serves: its settings, the key, calibrated thresholds."""

import json
import os
import pathlib
from collections.abc import Callable

from ml_collections import ConfigDict

from lhrm_jax.config import build, flatten, section_problems
from lhrm_jax.errors import UserError
from lhrm_jax.routing.thresholds import RATES, Thresholds
from lhrm_jax.serving import ServingConfig

KEY_VARIABLE, ENDPOINT_KEY_VARIABLE = "LHRM_API_KEY", "LHRM_ENDPOINT_API_KEY"
_OF_THE_JOB = ("init_from", "compilation_cache")
_LARGEST_FILE = 2**20  # bytes


def settings(config: ConfigDict, init_from: str) -> ServingConfig:
  """The checked settings of a server, with a name.

  Args:
    config: config of the job.
    init_from: the policy, which the model is named after where the config names none.

  Raises:
    UserError: names each wrong key, its value and the values allowed.
  """
  values = {key: value for key, value in flatten(config) if key not in _OF_THE_JOB}
  if found := section_problems(ServingConfig, values):
    raise UserError("\n  ".join(found))
  values["name"] = values["name"] or pathlib.PurePosixPath(init_from.rstrip("/")).name
  if ":" in values["name"]:
    raise UserError(
      f"name={values['name']!r} holds a colon, which stands before the mode in requests: set "
      "--config.name."
    )
  return build(ServingConfig, values)


def api_key(file: str | None) -> str:
  """The key that requests have to bear: the text of a file, or else the environment's; "" for none.

  Raises:
    UserError: the file cannot be read.
  """
  if file is None:
    return os.environ.get(KEY_VARIABLE, "")
  try:
    key = pathlib.Path(file).expanduser().read_bytes()[:_LARGEST_FILE].decode("ascii").strip()
  except (OSError, ValueError) as error:
    raise UserError(f"--api_key_file {file}: {error}") from error
  if not key:
    raise UserError(f"--api_key_file {file} is empty: write a key into it.")
  return key


def endpoint_key() -> str:
  """The key that lanes elsewhere are asked with, from the environment; "" for none."""
  return os.environ.get(ENDPOINT_KEY_VARIABLE, "")


def thresholds(path: str) -> Callable[[float], float] | None:
  """The threshold on p(think) for a wanted think rate, from a file; `None` for no file.

  Raises:
    UserError: the file holds no thresholds.
  """
  if not path:
    return None
  try:
    with pathlib.Path(path).expanduser().open("rb") as file:
      held = json.loads(file.read(_LARGEST_FILE))
    values, prompts = held["values"], held["prompts"]
    whole = len(values) == RATES + 1 and all(
      type(x) in (int, float) and 0 <= x <= 1 for x in values
    )
    if not whole or type(prompts) is not int:
      raise ValueError(f"expected {RATES + 1} thresholds from 0 to 1")
  except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
    raise UserError(f"thresholds={path!r} holds no thresholds by think rate: {error}.") from error
  return Thresholds(tuple(map(float, values)), prompts).at

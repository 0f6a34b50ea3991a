"""What `experiments.serve` reads before it serves: its settings, the key, calibrated thresholds."""

import os
import pathlib
from collections.abc import Callable

from ml_collections import ConfigDict

from lhrm_jax import routing
from lhrm_jax.config import build, flatten, section_problems
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.serving import CORE, FAST, ServingConfig
from lhrm_jax.text import tags

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
  with as_user_error(FileNotFoundError, ValueError):
    return routing.load_thresholds(pathlib.Path(path).expanduser()).at


def router(named: str) -> Callable[[str], tuple[int, float]] | None:
  """What judges a prompt, its mode with the probability that thinking is better.

  Args:
    named: a router's file, a rule, or a lane, whose policy then chooses: `None` is returned.

  Raises:
    UserError: there is no such router.
  """
  if named in (CORE, FAST):
    return None
  with as_user_error(FileNotFoundError, ValueError, KeyError):
    file = pathlib.Path(named).expanduser()
    is_file = file.exists() or named.endswith(".json")
    judge = routing.load(file) if is_file else routing.untrained(named)

  def judged(prompt: str) -> tuple[int, float]:
    p = judge.probability([prompt])
    return (tags.THINK if p[0] >= judge.threshold else tags.NO_THINK), float(p[0])

  return judged

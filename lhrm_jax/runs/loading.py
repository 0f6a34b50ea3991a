"""Loads what `init_from` names: a run, one of its checkpoints, or a pretrained model."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from lhrm_jax import parallel, policy, text
from lhrm_jax.errors import UserError
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs import checkpoints, committed, policy_settings, saved_arrays, validation
from lhrm_jax.runs.config import STAGES
from lhrm_jax.runs.json_files import read_json
from lhrm_jax.runs.paths import absolute
from lhrm_jax.storage import bucket, urls
from lhrm_jax.storage.urls import BucketError
from lhrm_jax.text import Tokenizer
from lhrm_jax.text.characters import printable

# Parts of a run in a bucket that are not fetched to start from it.
_LOGS = ("dumps/", "profile/", "rollouts/", "tensorboard/")


def load_policy(
  init_from: str, mesh: Mesh, asked: Mapping[str, Any] | None = None, seed: int = 0
) -> tuple[PolicyConfig, Tokenizer, policy.Params]:
  """Loads a run's policy, or a pretrained model, with the adapters that are asked for.

  A policy that has adapters keeps them.

  Args:
    init_from: a run folder (the newest checkpoint of its last stage), one stage's folder of
      checkpoints (its newest), one checkpoint, or what `policy.load_pretrained` takes: a model's
      folder, a hub id, a GGUF file, `package:NAME`. A folder may be a URL in a bucket.
    mesh: mesh that the parameters are placed on.
    asked: fields of the policy, see `policy_settings.asked`.
    seed: seed of new adapters.

  Raises:
    UserError: there is no such run, checkpoint or model, or its sizes are not those asked for.
  """
  init_from, asked = on_this_machine(init_from), asked or {}
  if run_folder(init_from) is None:
    config, tokenizer, params = _load_pretrained(init_from, mesh, asked)
  else:
    run, checkpoint = find_checkpoint(init_from)
    config, tokenizer = saved_policy(run / "policy")
    config = policy_settings.applied(config, asked, f"init_from={init_from!r}")
    validation.check_shards(config, mesh)
    params = saved_arrays.restore_params(checkpoint, config, mesh)
  if adapters := policy_settings.adapters(asked, config):
    tags = tokenizer.tag_ids
    tokens = tuple(sorted({*tags.opening, *tags.closing}))
    config = dataclasses.replace(config, **adapters, lora_tokens=tokens)
    shardings = parallel.param_shardings(mesh, policy.logical_axes(config))
    params = policy.add_lora(config, params, jax.random.key(seed), shardings)
  return config, tokenizer, params


def saved_policy(folder: pathlib.Path) -> tuple[PolicyConfig, Tokenizer]:
  try:
    fields = read_json(folder / "config.json")
    return PolicyConfig.from_dict(fields), text.load_tokenizer(folder)
  except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
    raise UserError(
      printable(f"{folder} holds no policy and tokenizer of this version: {error}", 500)
    ) from error


def _load_pretrained(init_from: str, mesh: Mesh, asked: Mapping[str, Any]):
  def shardings(config: PolicyConfig) -> Any:
    policy_settings.check(config, asked, f"init_from={init_from!r}")
    validation.check_shards(config, mesh)
    return parallel.param_shardings(mesh, policy.logical_axes(config))

  try:
    config, params, tokenizer = policy.load_pretrained(
      init_from, shardings=shardings, settings=policy_settings.for_pretrained(asked)
    )
    return config, tokenizer, params
  except (ImportError, OSError, ValueError) as error:
    raise UserError(
      f"init_from={init_from!r} is neither a run folder (it has no policy/config.json) nor a model "
      f"that can be loaded: {error}"
    ) from error


@functools.cache
def on_this_machine(init_from: str) -> str:
  """Returns an absolute path for `init_from`, or the name of a model not on this machine.

  A folder in a bucket is fetched, once per job.

  Raises:
    UserError: it cannot be fetched.
  """
  if not urls.is_url(init_from):
    return absolute(init_from)
  root, _, inside = init_from.rstrip("/").partition("/checkpoints/")
  try:
    folder = bucket.fetched(root, lambda name: not name.startswith(_LOGS))
    committed.fetch(root, folder, inside)
  except (BucketError, OSError) as error:  # OSError: the cache cannot be written
    raise UserError(f"init_from: {error}") from error
  return str(folder / "checkpoints" / inside if inside else folder)


def run_folder(init_from: str) -> pathlib.Path | None:
  """Returns the run that `init_from` names, by its folder or by checkpoints in it, if any.

  Raises:
    UserError: it is a URL that cannot be read.
  """
  path = pathlib.Path(on_this_machine(init_from))
  above = path.parents[:3]  # RUN/checkpoints/STAGE/STEP
  within = [p for n, p in enumerate(above) if path.parts[-1 - n] == "checkpoints"]
  return next((p for p in (path, *within) if is_run(p)), None)


def is_run(folder: pathlib.Path) -> bool:
  """Whether a training run or an evaluation wrote into this folder."""
  try:
    return (folder / "policy" / "config.json").is_file()
  except OSError:  # too long a name, or an unreadable folder
    return False


def find_checkpoint(init_from: str) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns the run folder and the checkpoint that `init_from` names.

  Raises:
    UserError: there is no such run, or it has no whole checkpoint.
  """
  init_from = on_this_machine(init_from)
  path = pathlib.Path(init_from)
  run = run_folder(init_from)
  if run is None:
    raise UserError(f"init_from={init_from!r} is not a run folder: it has no policy/config.json.")
  if path.name.isdigit() and path.parent.parent == run / "checkpoints":
    if not path.exists():
      kept = ", ".join(sorted(p.name for p in path.parent.glob("[0-9]*"))) or "none"
      raise UserError(f"init_from={init_from!r} does not exist; checkpoints there: {kept}.")
    if problem := checkpoints.damage_of(path):
      raise UserError(f"init_from={init_from!r} is damaged: {problem}.")
    return run, path
  within = path not in (run, run / "checkpoints")
  stages = [path] if within else [run / "checkpoints" / stage for stage in reversed(STAGES)]
  for stage in stages:
    with contextlib.suppress(FileNotFoundError):
      return run, checkpoints.newest(stage)
  raise UserError(f"init_from={init_from!r} has no whole checkpoint.")

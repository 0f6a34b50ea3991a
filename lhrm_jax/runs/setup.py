"""Builds what a job works with from its config; reads and writes a run folder's JSON files."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lhrm_jax import parallel, policy, rewards, text
from lhrm_jax.data import tasks
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.evaluation import Evaluator
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.rewards import RewardFn
from lhrm_jax.rewards import model as reward_model
from lhrm_jax.runs import (
  checkpoints,
  committed,
  evaluated,
  policy_settings,
  repeats,
  saved_arrays,
  validation,
)
from lhrm_jax.runs.config import Config, from_config_dict
from lhrm_jax.storage import bucket, urls
from lhrm_jax.storage.urls import BucketError
from lhrm_jax.text import Tokenizer
from lhrm_jax.text.characters import printable

_LARGEST_JSON = 2**26
STAGES = HFT, HGPO, DPO, RFT = ("hft", "hgpo", "dpo", "rft")  # each a section of the config
# Parts of a run in a bucket that are not fetched to start from it.
_LOGS = ("dumps/", "profile/", "rollouts/", "tensorboard/")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Setup:
  """What every job needs, built once from a config.

  Attributes:
    config: checked config, with `policy.*` as the policy truly is.
    mesh: mesh over all devices, for updates.
    sampling: layout of the weights over each host's devices, for sampling.
    policy_config: static part of the policy.
    tokenizer: tokenizer of the policy.
    task: source of rows.
    reward_fn: reward of a response.
    params: parameters that `init_from` names; `None` for random ones or a resumed run.
    suite_rows: rows of the suites that are evaluated; empty for the task's own prompts.
  """

  config: Config
  mesh: Mesh
  sampling: parallel.SamplingLayout
  policy_config: PolicyConfig
  tokenizer: Tokenizer
  task: tasks.Task
  reward_fn: RewardFn
  params: policy.Params | None
  suite_rows: Sequence[PromptRow] = ()

  def sampling_params(self, params: policy.Params) -> policy.Params:
    """Returns this host's copy of the parameters, for sampling and evaluation."""
    cast = _in_compute_dtype(self.policy_config, params)
    return self.sampling.place(cast, policy.logical_axes(self.policy_config))

  def evaluator(self) -> Evaluator:
    """Returns the evaluator that the config describes.

    Raises:
      UserError: a prompt is longer than the evaluation's or the data's `max_prompt_tokens`, or
        cannot be encoded; or the policy has too few positions.
    """
    return evaluated.make_evaluator(self)

  def scoring_options(self) -> dict[str, Any]:
    """Returns the options of `rewards.scoring.Scorer`, shared by training and evaluation."""
    return {"workers": self.config.hgpo.reward_workers, **vars(self.config.judging)}


def make(config: ConfigDict | Config, saved_policy: pathlib.Path | None = None) -> Setup:
  """Builds everything a config names.

  Args:
    config: config, checked here.
    saved_policy: the `policy/` folder of a resumed run, which policy config and tokenizer are read
      from; `init_from` is not loaded again. Numerics follow the config.

  Raises:
    UserError: the config asks for something impossible; says what.
  """
  config = from_config_dict(config)
  use_compilation_cache(config.compilation_cache)
  asked = policy_settings.asked(config)
  with as_user_error(KeyError, OSError, ValueError):
    mesh = parallel.make_mesh(**vars(config.mesh))
    task = tasks.get(config.task, config.data)
    suite_rows = evaluated.suite_rows(config.evaluation)
    if suite_rows and config.task == tasks.ROWS:
      task = dataclasses.replace(task, reserved=suite_rows)
    sampling = parallel.SamplingLayout.make(**vars(config.sampling_mesh))
    reward_fn = _reward(config, sampling.mesh)
    if saved_policy is not None:
      (policy_config, tokenizer), params = _saved_policy(saved_policy), None
      policy_config = policy_settings.applied(policy_config, asked, str(saved_policy))
    elif config.init_from:
      policy_config, tokenizer, params = load_policy(
        config.init_from, mesh, asked, seed=config.seed
      )
    else:
      tokenizer, params = tasks.own_tokenizer(config.task, task), None
      policy_config = PolicyConfig.from_dict({
        **vars(config.policy), "vocab_size": tokenizer.vocab_size
      })  # fmt: skip
      policy_settings.check(policy_config, asked, f"task={config.task!r} with its tokenizer")
  validation.check_shards(policy_config, mesh)
  validation.check_shards(policy_config, sampling.mesh, "sampling_mesh")
  validation.check_policy(config, policy_config, tokenizer)
  truth = policy_settings.recorded(config, policy_config)
  return Setup(truth, mesh, sampling, policy_config, tokenizer, task, reward_fn, params, suite_rows)


def _reward(config: Config, mesh: Mesh) -> RewardFn:
  own, c = {}, config.reward_model
  if c.init_from:
    c = dataclasses.replace(c, init_from=_on_this_machine(c.init_from))
    try:
      own["reward_model"] = reward_model.from_config(c, mesh)
    except (ImportError, OSError, ValueError) as error:
      raise UserError(f"reward_model: {error}") from error
  fn = rewards.chosen(config.reward, config.reward_weights, config.reward_by_source, **own)
  scale = config.hgpo.reward_scale
  try:
    return rewards.rescaled(fn, scale) if scale else fn
  except ValueError as error:
    raise UserError(f"hgpo.reward_scale={scale!r}: {error}.") from error


_in_compute_dtype = jax.jit(policy.in_compute_dtype, static_argnums=0)


def check_rows(run: Setup, stages: Sequence[str]) -> None:
  """Draws the first rows of the evaluation and of each stage, so that bad ones end a job early.

  For rows from files and data sets, prints how many were read, skipped and left out.

  Raises:
    UserError: a source cannot be read; a row is bad (says where); the chat template refuses a
      conversation; or a step's prompts do not divide over the mesh.
  """
  seed, c = run.config.seed, run.config.hft
  if HGPO in stages:
    validation.check_prompts(run.config, run.mesh)
    validation.check_advantage(run.config)
  try:
    # The evaluator checks the rows of suites, whose rewards are their own.
    queries = [] if run.suite_rows else run.task.evaluation(run.config.evaluation.prompts)
    if HFT in stages:
      if shards := getattr(run.task, "shards", None):
        shards.check_tokenizer(run.tokenizer)
      run.task.demonstrations(seed, 0, c.think_per_step, c.no_think_per_step)
    if HGPO in stages:
      first = run.task.prompts(seed, 0, 1)
      queries = [*getattr(run.task, "queries", first), *queries]
    validation.check_answers(run.reward_fn, queries)
    if HGPO in stages and hasattr(run.task, "queries"):
      validation.check_sources(run.reward_fn, queries)
    if run.config.task == tasks.ROWS:
      run.task.check_conversations(run.tokenizer)
    found = [
      warning for stage in stages for warning in repeats.warnings(run.config, run.task, stage)
    ]
  except (ImportError, OSError, ValueError) as error:
    raise UserError(f"task={run.config.task!r}: {error}") from error
  if run.config.task == tasks.ROWS and parallel.is_writer():
    print(*run.task.notes, sep="\n", flush=True)  # what was read, skipped and left out
  if parallel.is_writer():
    for warning in found:
      print(f"warning: {warning}", file=sys.stderr, flush=True)


def use_compilation_cache(folder: str) -> None:
  """Caches compiled programs between runs: a short run's first minute is mostly compiling."""
  if folder:
    absolute = str(pathlib.Path(folder).expanduser().resolve())
    jax.config.update("jax_compilation_cache_dir", absolute)
    # Each of a small policy's programs takes this long; what is left compiles faster than it loads.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


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
  init_from, asked = _on_this_machine(init_from), asked or {}
  if run_folder(init_from) is None:
    config, tokenizer, params = _load_pretrained(init_from, mesh, asked)
  else:
    run, checkpoint = find_checkpoint(init_from)
    config, tokenizer = _saved_policy(run / "policy")
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


def _saved_policy(folder: pathlib.Path) -> tuple[PolicyConfig, Tokenizer]:
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
def _on_this_machine(init_from: str) -> str:
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


def run_folder(init_from: str) -> pathlib.Path | None:
  """Returns the run that `init_from` names, by its folder or by checkpoints in it, if any.

  Raises:
    UserError: it is a URL that cannot be read.
  """
  path = pathlib.Path(_on_this_machine(init_from))
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
  init_from = _on_this_machine(init_from)
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


@functools.cache
def versions() -> dict[str, str]:
  """Returns the versions that a result depends on, the devices, and the commit if known."""
  found = {"python": platform.python_version()}
  found |= {package: importlib.metadata.version(package) for package in _PACKAGES}
  device = jax.devices()[0]
  found["devices"] = f"{jax.device_count()} x {device.device_kind}"
  found["commit"] = _commit() or "unknown"
  return found


def _commit() -> str:
  """Returns the commit of this checkout; "" outside of one, or (with a warning) without git."""
  git = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"]
  try:
    return subprocess.run(
      git, capture_output=True, text=True, errors="replace", timeout=30, check=False
    ).stdout.strip()
  except (OSError, subprocess.TimeoutExpired):
    if parallel.is_writer():
      print("git cannot be run: versions.json names no commit.", file=sys.stderr, flush=True)
    return ""


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file.

  Raises:
    OSError: there is no such file.
    ValueError: it is not JSON; the message names it.
  """
  if path.exists() and not (path.is_file() and path.stat().st_size <= _LARGEST_JSON):
    raise ValueError(f"{path} is damaged: it is not a file of at most {_LARGEST_JSON:,} bytes")
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (RecursionError, ValueError) as error:
    raise ValueError(f"{path} is damaged: {error or 'it is nested too deeply'}") from error


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes `value` atomically; a link in its place is replaced, not followed."""
  unfinished = path.with_name(f"{path.name}.tmp")
  unfinished.unlink(missing_ok=True)
  with unfinished.open("x", encoding="utf-8") as file:
    file.write(json.dumps(value, indent=2) + "\n")
  unfinished.rename(path)

"""From a config to the objects an experiment works with, and the run folder's fixed files."""

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
from lhrm_jax.data import limits, tasks
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.evaluation import Evaluator
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.rewards import RewardFn
from lhrm_jax.rewards import model as reward_model
from lhrm_jax.runs import checkpoints, policy_settings, validation
from lhrm_jax.runs.config import Config, from_config_dict
from lhrm_jax.storage import bucket, urls
from lhrm_jax.storage.urls import BucketError
from lhrm_jax.text import Tokenizer
from lhrm_jax.text.characters import printable

_LARGEST_JSON = 2**26
STAGES = HFT, HGPO = ("hft", "hgpo")
# Of a run in a bucket: nobody who starts from it reads these.
_LOGS = ("dumps/", "profile/", "rollouts/", "tensorboard/")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Setup:
  """What every job needs; made from a config, once.

  Attributes:
    config: its `policy.*` are those of the policy that is trained.
    mesh: over all devices, for updates.
    sampling: over each host's devices.
    policy_config: static part of the policy.
    tokenizer: the policy's.
    task: where rows come from.
    reward_fn: scores a response.
    params: to start from, where `init_from` was given.
  """

  config: Config
  mesh: Mesh
  sampling: parallel.SamplingLayout
  policy_config: PolicyConfig
  tokenizer: Tokenizer
  task: tasks.Task
  reward_fn: RewardFn
  params: policy.Params | None

  def sampling_params(self, params: policy.Params) -> policy.Params:
    """This host's copy of the update's parameters, as sampling and evaluation take them."""
    cast = _in_compute_dtype(self.policy_config, params)
    return self.sampling.place(cast, policy.logical_axes(self.policy_config))

  def evaluator(self) -> Evaluator:
    """The evaluation that the config describes.

    Raises:
      UserError: a prompt is longer than `data.max_prompt_tokens`, or the tokenizer can't read it.
    """
    c, data = self.config.evaluation, self.config.data
    with as_user_error(ValueError):
      rows, long = limits.evaluation_prompts(
        self.task, self.tokenizer, c.prompts,
        max_tokens=data.max_prompt_tokens, long_prompts=data.long_prompts,
      )  # fmt: skip
      if long and parallel.is_writer():
        done = {"skip": "left out", "truncate_left": "cut"}[data.long_prompts]
        print(
          f"{long:,} evaluation prompts have more than data.max_prompt_tokens="
          f"{data.max_prompt_tokens} tokens and are {done}.",
          flush=True,
        )
      return Evaluator(
        self.policy_config,
        self.tokenizer,
        self.reward_fn,
        rows,
        c,
        data,
        **self.scoring_options(),
      )

  def scoring_options(self) -> dict[str, Any]:
    """How `rewards.scoring.Scorer` judges, of training and of evaluation alike."""
    return {"workers": self.config.hgpo.reward_workers, **vars(self.config.judging)}


def make(config: ConfigDict | Config, saved_policy: pathlib.Path | None = None) -> Setup:
  """Builds everything a config names.

  Args:
    config: checked here.
    saved_policy: the `policy/` folder of a run that goes on: policy config and tokenizer are taken
      from there, and `init_from` is not loaded again. Numerics are as the config asks.

  Raises:
    UserError: the config asks for something that cannot be; says what.
  """
  config = from_config_dict(config)
  use_compilation_cache(config.compilation_cache)
  asked = policy_settings.asked(config)
  with as_user_error(KeyError, OSError, ValueError):
    mesh = parallel.make_mesh(**vars(config.mesh))
    task = tasks.get(config.task, config.data)
    sampling = parallel.SamplingLayout.make(**vars(config.sampling_mesh))
    reward_fn = _reward(config, sampling.mesh)
    if config.hgpo.reward_scale:
      try:
        reward_fn = rewards.rescaled(reward_fn, config.hgpo.reward_scale)
      except ValueError as error:
        raise UserError(f"hgpo.reward_scale={config.hgpo.reward_scale!r}: {error}.") from error
    if saved_policy is not None:
      (policy_config, tokenizer), params = _saved_policy(saved_policy), None
      policy_config = policy_settings.applied(policy_config, asked, str(saved_policy))
    elif config.init_from:
      policy_config, tokenizer, params = load_policy(config.init_from, mesh, asked)
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
  return Setup(truth, mesh, sampling, policy_config, tokenizer, task, reward_fn, params)


def _reward(config: Config, mesh: Mesh) -> RewardFn:
  own, c = {}, config.reward_model
  if c.init_from:
    c = dataclasses.replace(c, init_from=_on_this_machine(c.init_from))
    try:
      own["reward_model"] = reward_model.from_config(c, mesh)
    except (ImportError, OSError, ValueError) as error:
      raise UserError(f"reward_model: {error}") from error
  return rewards.chosen(config.reward, config.reward_weights, config.reward_by_source, **own)


_in_compute_dtype = jax.jit(policy.in_compute_dtype, static_argnums=0)


def check_rows(run: Setup, stages: Sequence[str]) -> None:
  """Draws the first rows of the evaluation and of each stage: bad ones end a job before it trains.

  Of rows from files and data sets, says once how many were read, skipped and left out.

  Raises:
    UserError: a source cannot be read, or a row is bad; says where. Or the chat template refuses a
      conversation, or a step's prompts do not divide over the mesh.
  """
  seed, c = run.config.seed, run.config.hft
  if HGPO in stages:
    validation.check_prompts(run.config, run.mesh)
    validation.check_advantage(run.config)
  if HFT in stages and c.steps:
    validation.check_memory(run.config, run.policy_config)
  try:
    queries = run.task.evaluation(run.config.evaluation.prompts)
    if HFT in stages:
      run.task.demonstrations(seed, 0, c.think_per_step, c.no_think_per_step)
    if HGPO in stages:
      first = run.task.prompts(seed, 0, 1)
      queries = [*getattr(run.task, "queries", first), *queries]
    validation.check_answers(run.reward_fn, queries)
    if HGPO in stages and hasattr(run.task, "queries"):
      validation.check_sources(run.reward_fn, queries)
    if run.config.task == tasks.ROWS:
      run.task.check_conversations(run.tokenizer)
  except (ImportError, OSError, ValueError) as error:
    raise UserError(f"task={run.config.task!r}: {error}") from error
  if run.config.task == tasks.ROWS and parallel.is_writer():
    print(*run.task.notes, sep="\n", flush=True)  # what was read, skipped and left out


def use_compilation_cache(folder: str) -> None:
  """Keeps compiled programs between runs: most of a short run's first minute is compiling."""
  if folder:
    absolute = str(pathlib.Path(folder).expanduser().resolve())
    jax.config.update("jax_compilation_cache_dir", absolute)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def load_policy(
  init_from: str, mesh: Mesh, asked: Mapping[str, Any] | None = None
) -> tuple[PolicyConfig, Tokenizer, policy.Params]:
  """Loads a run's policy, or a pretrained model.

  Args:
    init_from: a run folder (its newest HGPO checkpoint, or HFT's where it has no other), one
      stage's folder of checkpoints in it (its newest), one checkpoint, or what
      `policy.load_pretrained` takes: a model's folder, a hub id, a GGUF file, `package:NAME`. Each
      of these folders may be a URL in a bucket.
    mesh: where the parameters will lie.
    asked: fields of the policy, see `policy_settings.asked`.

  Raises:
    UserError: there is no such run, checkpoint or model, or it has other sizes than asked for.
  """
  init_from = _on_this_machine(init_from)
  if run_folder(init_from) is None:
    return _load_pretrained(init_from, mesh, asked or {})
  run, checkpoint = find_checkpoint(init_from)
  config, tokenizer = _saved_policy(run / "policy")
  config = policy_settings.applied(config, asked or {}, f"init_from={init_from!r}")
  validation.check_shards(config, mesh)
  return config, tokenizer, checkpoints.restore_params(checkpoint, config, mesh)


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
      f"init_from={init_from!r} is no run folder (no policy/config.json in it), and no model that "
      f"can be loaded: {error}"
    ) from error


@functools.cache
def _on_this_machine(init_from: str) -> str:
  """An absolute path for `init_from`, or the name of a model that is not on this machine.

  It may be a URL: what lies in a bucket is fetched, once per job.

  Raises:
    UserError: it cannot be.
  """
  if not urls.is_url(init_from):
    return absolute(init_from)
  root, _, inside = init_from.rstrip("/").partition("/checkpoints/")
  try:
    folder = bucket.fetched(root, lambda name: not name.startswith(_LOGS))
  except (BucketError, OSError) as error:  # OSError: the cache cannot be written
    raise UserError(f"init_from: {error}") from error
  return str(folder / "checkpoints" / inside if inside else folder)


def absolute(path: str) -> str:
  """A path that holds wherever this process goes; what is no path of this machine stays as it is.

  Args:
    path: or a URL, a hub id, `package:NAME`, "".
  """
  try:
    found = pathlib.Path(path).expanduser()
    return str(found.absolute()) if path and not urls.is_url(path) and found.exists() else path
  except (OSError, RuntimeError, ValueError):  # ~nobody, a name too long
    return path


def same_path(a: str, b: str) -> bool:
  """Whether two `init_from` name the same, be it there or not."""
  if not (a and b) or urls.is_url(a) or urls.is_url(b):
    return a == b
  return pathlib.Path(a).expanduser().absolute() == pathlib.Path(b).expanduser().absolute()


def with_absolute_paths(config: ConfigDict) -> ConfigDict:
  """The config itself, whose `init_from` now holds wherever the run's record is read."""
  for section in (config, config.get("reward_model")):
    # Whatever else it is, `from_config_dict` reports.
    if isinstance(section, ConfigDict) and isinstance(section.get("init_from"), str):
      section.init_from = absolute(section.init_from)
  return config


def run_folder(init_from: str) -> pathlib.Path | None:
  """The run that a path names as `load_policy` does: by its folder or by checkpoints in it, if any.

  Raises:
    UserError: it is a URL that cannot be read.
  """
  path = pathlib.Path(_on_this_machine(init_from))
  above = path.parents[:3]  # RUN/checkpoints/STAGE/STEP
  within = [p for n, p in enumerate(above) if path.parts[-1 - n] == "checkpoints"]
  return next((p for p in (path, *within) if is_run(p)), None)


def is_run(folder: pathlib.Path) -> bool:
  """Whether a folder is one that a training run or an evaluation wrote into."""
  try:
    return (folder / "policy" / "config.json").is_file()
  except OSError:  # a name longer than any file's, a folder not to be looked into
    return False


def find_checkpoint(init_from: str) -> tuple[pathlib.Path, pathlib.Path]:
  """The run folder and the checkpoint that `init_from` names.

  Raises:
    UserError: there is no such run, or it holds no whole checkpoint.
  """
  init_from = _on_this_machine(init_from)
  path = pathlib.Path(init_from)
  run = run_folder(init_from)
  if run is None:
    raise UserError(f"init_from={init_from!r} is no run folder: no policy/config.json in it.")
  if path.name.isdigit() and path.parent.parent == run / "checkpoints":
    if not path.exists():
      kept = ", ".join(sorted(p.name for p in path.parent.glob("[0-9]*"))) or "none"
      raise UserError(f"init_from={init_from!r} does not exist; checkpoints there: {kept}.")
    if problem := checkpoints.damage(path):
      raise UserError(f"init_from={init_from!r} is damaged: {problem}.")
    return run, path
  within = path not in (run, run / "checkpoints")
  stages = [path] if within else [run / "checkpoints" / stage for stage in (HGPO, HFT)]
  for stage in stages:
    with contextlib.suppress(FileNotFoundError):
      return run, checkpoints.newest(stage)
  raise UserError(f"init_from={init_from!r} holds no whole checkpoint.")


@functools.cache
def versions() -> dict[str, str]:
  """Versions of what decides a result, the device, and the commit where there is one."""
  found = {"python": platform.python_version()}
  found |= {package: importlib.metadata.version(package) for package in _PACKAGES}
  device = jax.devices()[0]
  found["devices"] = f"{jax.device_count()} x {device.device_kind}"
  found["commit"] = _commit() or "unknown"
  return found


def _commit() -> str:
  """ "" where there is none, or no git to ask, which is said."""
  git = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"]
  try:
    return subprocess.run(
      git, capture_output=True, text=True, errors="replace", timeout=30, check=False
    ).stdout.strip()
  except (OSError, subprocess.TimeoutExpired):
    if parallel.is_writer():
      print("git cannot be asked: versions.json names no commit.", file=sys.stderr, flush=True)
    return ""


def read_json(path: pathlib.Path) -> Any:
  """Raises:
  OSError: there is no such file.
  ValueError: it is no JSON; the message names it.
  """
  if path.exists() and not (path.is_file() and path.stat().st_size <= _LARGEST_JSON):
    raise ValueError(f"{path} is damaged: it is no file of at most {_LARGEST_JSON:,} bytes")
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (RecursionError, ValueError) as error:
    raise ValueError(f"{path} is damaged: {error or 'it is nested too deeply'}") from error


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes `value`, whole or not at all; a link in its place is replaced and not followed."""
  unfinished = path.with_name(f"{path.name}.tmp")
  unfinished.unlink(missing_ok=True)
  with unfinished.open("x", encoding="utf-8") as file:
    file.write(json.dumps(value, indent=2) + "\n")
  unfinished.rename(path)

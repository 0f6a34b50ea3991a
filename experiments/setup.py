"""From a config to the objects an experiment works with, and the run folder's fixed files."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import validation
from experiments.command_line import UserError, mendable
from lhrm_jax import parallel, policy, rewards, text
from lhrm_jax.data import limits, tasks, urls
from lhrm_jax.data.urls import BucketError
from lhrm_jax.evaluation import EvaluationSpec, Evaluator
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.rewards import RewardFn
from lhrm_jax.text import Tokenizer
from lhrm_jax.training import bucket, checkpoints

STAGES = HFT, HGPO = ("hft", "hgpo")
_NUMERICS = ("dtype", "scan_layers", "remat", "logprob_chunk", "attention_chunk")
# Beside init_from, what a config may change of a model whose sizes it names, and those sizes.
_CONTEXT = ("max_positions", "rope_theta")
_SIZES = (
  "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads",
  "head_dim", "rms_norm_eps", "qkv_bias", "qk_norm", "tie_embeddings",
)  # fmt: skip
# Of a run in a bucket: nobody who starts from it reads these.
_LOGS = ("dumps/", "profile/", "rollouts/", "tensorboard/")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Setup:
  """What every job needs; made from a config, once.

  Attributes:
    config: locked.
    mesh: over all devices, for updates.
    sampling: over each host's devices.
    policy_config: static part of the policy.
    tokenizer: the policy's.
    task: where rows come from.
    reward_fn: scores a response.
    params: to start from, where `init_from` was given.
  """

  config: ConfigDict
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
    c = self.config.evaluation
    spec = EvaluationSpec(
      temperature=c.temperature,
      top_p=c.top_p,
      samples=c.samples,
      hacc_temperature=c.hacc_temperature,
      margin=c.margin,
      batch_prompts=min(c.batch_prompts, c.prompts),
      max_prompt_tokens=self.config.data.max_prompt_tokens,
      max_response_tokens=self.config.data.max_response_tokens,
    )
    with mendable(ValueError):
      rows, long = limits.evaluation_prompts(
        self.task, self.tokenizer, c.prompts,
        max_tokens=spec.max_prompt_tokens, long_prompts=self.config.data.long_prompts,
      )  # fmt: skip
      if long and parallel.is_writer():
        done = {"skip": "left out", "truncate_left": "cut"}[self.config.data.long_prompts]
        print(
          f"{long:,} evaluation prompts have more than data.max_prompt_tokens="
          f"{spec.max_prompt_tokens} tokens and are {done}.",
          flush=True,
        )
      return Evaluator(
        self.policy_config, self.tokenizer, self.reward_fn, rows, spec, **self.scoring_options()
      )

  def scoring_options(self) -> dict[str, Any]:
    """How `rewards.scoring.Scorer` judges, of training and of evaluation alike."""
    return {"workers": self.config.hgpo.reward_workers, **self.config.judging.to_dict()}


def make(config: ConfigDict, saved_policy: pathlib.Path | None = None) -> Setup:
  """Builds everything a config names.

  Args:
    config: locked.
    saved_policy: the `policy/` folder of a run that goes on: policy config and tokenizer are taken
      from there, and `init_from` is not loaded again.

  Raises:
    UserError: the config asks for something that cannot be; says what.
  """
  validation.check(config)
  use_compilation_cache(config.compilation_cache)
  with mendable(KeyError, OSError, ValueError):
    mesh = parallel.make_mesh(**config.mesh)
    task = tasks.get(config.task, config.data)
    sampling = parallel.SamplingLayout.make(**config.sampling_mesh)
    reward_fn = rewards.get(config.reward)
    if config.reward_weights:
      reward_fn = rewards.compose(config.reward_weights.to_dict())
    if config.hgpo.reward_scale:
      try:
        reward_fn = rewards.rescaled(reward_fn, config.hgpo.reward_scale)
      except ValueError as error:
        raise UserError(f"hgpo.reward_scale={config.hgpo.reward_scale!r}: {error}.") from error
    if saved_policy is not None:
      policy_config, tokenizer, params = *_saved_policy(saved_policy), None
    elif config.init_from:
      policy_config, tokenizer, params = load_policy(config.init_from, mesh, config.policy)
    else:
      tokenizer, params = task.tokenizer(), None
      policy_config = PolicyConfig.from_dict({
        **config.policy.to_dict(), "vocab_size": tokenizer.vocab_size
      })  # fmt: skip
  validation.check_shards(policy_config, mesh)
  validation.check_shards(policy_config, sampling.mesh, "sampling_mesh")
  validation.check_policy(config, policy_config, tokenizer)
  return Setup(config, mesh, sampling, policy_config, tokenizer, task, reward_fn, params)


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
  if HFT in stages and c.steps:
    validation.check_memory(run.config, run.policy_config)
  try:
    run.task.evaluation(1)
    if HFT in stages:
      run.task.demonstrations(seed, 0, c.think_per_step, c.no_think_per_step)
    if HGPO in stages:
      rows = run.task.prompts(seed, 0, 1)
      if any(hasattr(fn, "check") for fn in rewards.parts_of(run.reward_fn)):
        for row in getattr(run.task, "queries", rows):
          rewards.check_answer(run.reward_fn, row.answer)
    if run.config.task == tasks.ROWS:
      run.task.check_conversations(run.tokenizer)
  except (ImportError, OSError, ValueError) as error:
    raise UserError(f"task={run.config.task!r}: {error}") from error
  if run.config.task == tasks.ROWS and parallel.is_writer():
    print(*run.task.notes, sep="\n", flush=True)  # what was read, skipped and left out


def use_compilation_cache(folder: str) -> None:
  """Keeps compiled programs between runs: most of a short run's first minute is compiling."""
  if folder:
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def load_policy(
  init_from: str, mesh: Mesh, numerics: Mapping[str, Any] | None = None
) -> tuple[PolicyConfig, Tokenizer, policy.Params]:
  """Loads a run's policy, or a pretrained model.

  Args:
    init_from: a run folder (its newest HGPO checkpoint, or HFT's where it has no other), one
      stage's folder of checkpoints in it (its newest), one checkpoint, or what
      `policy.load_pretrained` takes: a model's folder, a hub id, a GGUF file, `package:NAME`. Each
      of these folders may be a URL in a bucket.
    mesh: where the parameters will lie.
    numerics: of a pretrained model, which decides its sizes itself: `dtype`, `scan_layers`, `remat`
      and `logprob_chunk` are taken from here.

  Raises:
    UserError: there is no such run, checkpoint or model.
  """
  init_from = _on_this_machine(init_from)
  if run_folder(init_from) is None:
    return _load_pretrained(init_from, mesh, numerics or {})
  run, checkpoint = find_checkpoint(init_from)
  config, tokenizer = _saved_policy(run / "policy")
  validation.check_shards(config, mesh)
  return config, tokenizer, checkpoints.restore_params(checkpoint, config, mesh)


def _saved_policy(folder: pathlib.Path) -> tuple[PolicyConfig, Tokenizer]:
  try:
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return PolicyConfig.from_dict(fields), text.load_tokenizer(folder)
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    raise UserError(f"{folder} holds no policy and tokenizer of this version: {error}") from error


def _load_pretrained(init_from: str, mesh: Mesh, numerics: Mapping[str, Any]):
  declared = bool(numerics.get("vocab_size"))
  settings = (*_NUMERICS, *(_CONTEXT if declared else ()))

  def shardings(config: PolicyConfig) -> Any:
    if declared:
      _check_sizes(init_from, config, numerics)
    validation.check_shards(config, mesh)
    return parallel.param_shardings(mesh, policy.logical_axes(config))

  try:
    config, params, tokenizer = policy.load_pretrained(
      init_from,
      shardings=shardings,
      settings={name: numerics[name] for name in settings if name in numerics},
    )
    return config, tokenizer, params
  except (ImportError, OSError, ValueError) as error:
    raise UserError(
      f"init_from={init_from!r} is no run folder (no policy/config.json in it), and no model that "
      f"can be loaded: {error}"
    ) from error


def _check_sizes(init_from: str, config: PolicyConfig, declared: Mapping[str, Any]) -> None:
  """Raises:
  UserError: the model is not of the sizes that the config says it has.
  """
  wrong = [
    f"policy.{name}={declared[name]} (the model's: {getattr(config, name)})"
    for name in _SIZES
    if (declared[name] or getattr(config, name)) != getattr(config, name)
  ]
  if wrong:
    raise UserError(
      f"init_from={init_from!r} is another model than the config describes: {', '.join(wrong)}. "
      "Correct these keys, or set policy.vocab_size=0 to take whatever the model has."
    )


@functools.cache
def _on_this_machine(init_from: str) -> str:
  """A path for `init_from`, which may be a URL: what lies in a bucket is fetched, once per job.

  Raises:
    UserError: it cannot be.
  """
  if not urls.is_url(init_from):
    return init_from
  root, _, inside = init_from.rstrip("/").partition("/checkpoints/")
  try:
    folder = bucket.fetched(root, lambda name: not name.startswith(_LOGS))
  except BucketError as error:
    raise UserError(f"init_from: {error}") from error
  return str(folder / "checkpoints" / inside if inside else folder)


def run_folder(init_from: str) -> pathlib.Path | None:
  """The run folder that a path lies in, if any.

  Raises:
    UserError: it is a URL that cannot be read.
  """
  path = pathlib.Path(_on_this_machine(init_from))
  return next((p for p in (path, *path.parents) if (p / "policy" / "config.json").is_file()), None)


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
    if problem := checkpoints.damage(path):
      raise UserError(f"init_from={init_from!r} is damaged: {problem}.")
    return run, path
  stages = [path] if path != run else [run / "checkpoints" / stage for stage in (HGPO, HFT)]
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
  git = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"]
  result = subprocess.run(git, capture_output=True, text=True, check=False)
  found["commit"] = result.stdout.strip() or "unknown"
  return found


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config as nested plain dicts."""
  return json.loads(config.to_json())


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes `value`, whole or not at all."""
  unfinished = path.with_name(f"{path.name}.tmp")
  unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
  unfinished.rename(path)

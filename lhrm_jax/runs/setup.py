"""Builds what a job works with from its config."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lhrm_jax import parallel, policy, rewards
from lhrm_jax.data import tasks
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.evaluation import Evaluator
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.rewards import RewardFn
from lhrm_jax.rewards import model as reward_model
from lhrm_jax.runs import evaluated, loading, policy_settings, repeats, validation
from lhrm_jax.runs.config import HFT, HGPO, Config, from_config_dict
from lhrm_jax.text import Tokenizer


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
    weights = _for_sampling(self.policy_config, params)
    config = policy.as_laid_out(self.policy_config, weights)
    return self.sampling.place(weights, policy.logical_axes(config))

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
      (policy_config, tokenizer), params = loading.saved_policy(saved_policy), None
      policy_config = policy_settings.applied(policy_config, asked, str(saved_policy))
    elif config.init_from:
      policy_config, tokenizer, params = loading.load_policy(
        config.init_from, mesh, asked, seed=config.seed
      )
      if parallel.is_writer():
        for remark in policy_settings.kept(config, policy_config):
          print(remark, file=sys.stderr, flush=True)
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
    c = dataclasses.replace(c, init_from=loading.on_this_machine(c.init_from))
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


_for_sampling = jax.jit(policy.for_sampling, static_argnums=0)


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
    if HFT in stages and (warning := evaluated.overlap_warning(run.config, run.task)):
      found.append(warning)
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

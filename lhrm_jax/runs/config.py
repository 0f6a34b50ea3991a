"""The config of a run: the sections that the library declares, and the run's own keys.

Config files start from `get_config()` and change what they need; `from_config_dict` checks the
result and returns the typed `Config` that jobs use. docs/config.md lists every key.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from lhrm_jax import rewards
from lhrm_jax.config import (
  NAME,
  PATH,
  REWARDS,
  SHORT,
  TEXT,
  WEIGHTS,
  Knob,
  build,
  flatten,
  idle,
  knob,
  knobs,
  read,
  replaced,
  retired,
  section,
  section_problems,
  short,
  together,
  whole,
  without_effect,
)
from lhrm_jax.data import tasks
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.prepare_config import PrepareConfig
from lhrm_jax.errors import UserError
from lhrm_jax.evaluation import EvaluationConfig
from lhrm_jax.evaluation.config import judged
from lhrm_jax.parallel import MeshConfig, SamplingMeshConfig
from lhrm_jax.policy.config import PolicySettings
from lhrm_jax.registry import UnknownName
from lhrm_jax.rewards.judging import JudgingConfig
from lhrm_jax.rewards.model import RewardModelConfig
from lhrm_jax.rewards.rollout_files import RolloutFilesConfig
from lhrm_jax.runs.checkpoints import CheckpointConfig
from lhrm_jax.runs.gates import GatesConfig
from lhrm_jax.runs.instruments import parse_steps
from lhrm_jax.runs.nonfinite import NumericsConfig
from lhrm_jax.training import hgpo_checks  # noqa: F401, importing it registers its checks
from lhrm_jax.training.dpo import DPOConfig
from lhrm_jax.training.hft import HFTConfig
from lhrm_jax.training.hgpo import HGPOConfig
from lhrm_jax.training.offline import RFTConfig

STAGES = HFT, HGPO, DPO, RFT = ("hft", "hgpo", "dpo", "rft")  # each a section of the config
_LINES = 20  # problems listed in one message


@dataclasses.dataclass(frozen=True)
class Config:
  """Every setting of a run."""

  seed: int = knob(0, whole(0, 2**32 - 1), "Seed of random numbers and of the order of the data.")
  task: str = knob("arithmetic", NAME, "Registered task, the source of rows (docs/data.md).")
  reward: str = knob("exact_match", NAME, "Registered reward (docs/rewards.md).")
  reward_weights: Mapping[str, float] = knob(
    {}, WEIGHTS, 'Weighted sum of rewards in place of `reward`, as {"math": 1.0, "mine": 0.2}.'
  )
  reward_by_source: Mapping[str, str] = knob(
    {},
    REWARDS,
    'Rewards by source of rows, in place of `reward` and `reward_weights`, as {"deepscaler": '
    '"math", "tulu3": "reward_model"}; "*" stands for all other sources.',
  )
  reward_model: RewardModelConfig = section(RewardModelConfig)
  init_from: str = knob(
    "",
    PATH,
    "Run or model to start from: a run's folder or one of its checkpoints, a model's folder, a hub "
    "id, a GGUF file, or `package:NAME`. HGPO then skips the cold start.",
  )
  compilation_cache: str = knob(
    "~/.cache/lhrm_jax/xla", PATH, 'Folder of compiled programs, shared by runs; "" for none.'
  )
  profile_steps: str = knob(
    "",
    SHORT,
    'Steps of each stage to profile, as "10:12" for 10 and 11; open WORKDIR/profile with XProf.',
  )
  policy: PolicySettings = section(PolicySettings)
  mesh: MeshConfig = section(MeshConfig)
  sampling_mesh: SamplingMeshConfig = section(SamplingMeshConfig)
  data: DataConfig = section(DataConfig)
  prepare: PrepareConfig = section(PrepareConfig)
  hft: HFTConfig = section(HFTConfig)
  hgpo: HGPOConfig = section(HGPOConfig)
  rollouts: RolloutFilesConfig = section(RolloutFilesConfig)
  dpo: DPOConfig = section(DPOConfig)
  rft: RFTConfig = section(RFTConfig)
  evaluation: EvaluationConfig = section(EvaluationConfig)
  checkpoint: CheckpointConfig = section(CheckpointConfig)
  allow_config_change: str = knob(
    "",
    TEXT,
    "Keys that may differ from the config that the run in --workdir was started with, separated "
    'by commas, as "hgpo.steps,hgpo.beta".',
  )
  judging: JudgingConfig = section(JudgingConfig)
  gates: GatesConfig = section(GatesConfig)
  numerics: NumericsConfig = section(NumericsConfig)


KNOBS: dict[str, Knob] = {declared.key: declared for declared in knobs(Config)}
RETIRED: dict[str, str] = retired(Config)


def get_config() -> ConfigDict:
  """Returns every key at its default, for a config file to start from."""
  return ConfigDict(to_dict(Config()))


def from_config_dict(config: ConfigDict | Config) -> Config:
  """Returns the typed config, after checking everything that would otherwise fail hours later.

  Raises:
    UserError: names every wrong key, its value and the values allowed.
  """
  if found := problems(config):
    more = [f"and {len(found) - _LINES} more."] if len(found) > _LINES else []
    lines = [f"{len(found)} problems in the config:", *found[:_LINES], *more]
    raise UserError("\n  ".join(lines) if len(found) > 1 else found[0])
  return build(Config, dict(flatten(config, KNOBS)))


def problems(config: ConfigDict | Config) -> list[str]:
  """Returns the problems of a config, a sentence or two each, in the order of declaration."""
  return section_problems(Config, dict(flatten(config, KNOBS)))


def to_dict(config: Any) -> dict[str, Any]:
  """Returns a config, or a section of one, as nested plain dicts."""
  return config.to_dict() if isinstance(config, ConfigDict) else dataclasses.asdict(config)


def plain(config: Any) -> dict[str, Any]:
  """Returns `to_dict` as JSON reads it back."""
  return json.loads(json.dumps(to_dict(config)))


def of_older_run(saved: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
  """Returns the unchecked config of a run that may be older than some keys.

  Args:
    saved: contents of its config.json.

  Returns:
    The config, with keys newer than the run set to reproduce it; and those of the values that
    differ from the key's default, `None` where no value reproduces the run.
  """
  values = dict(flatten(saved, KNOBS))
  config, differ = build(Config, values), {}
  for key, declared in KNOBS.items():
    if key in values:
      continue
    before = declared.before
    if callable(before):
      before = before(read(config, key.rpartition(".")[0]) if "." in key else config)
    if before == declared.default:
      continue
    tried = replaced(config, {key: before})
    if not list(without_effect(tried, [key])):
      differ[key] = before
      config = config if before is None else tried
  return config, differ


# ---- Between sections


@together(Config, "hft.packed_length", "data.max_prompt_tokens", "data.max_response_tokens",
          "data.long_demonstrations")  # fmt: skip
def _packed_length(c: Config) -> str:
  packed, prompt = c.hft.packed_length, c.data.max_prompt_tokens
  response = c.data.max_response_tokens
  if not packed or packed >= prompt + response - 1 or c.data.long_demonstrations == "skip":
    return ""
  return (
    f"hft.packed_length={packed} is less than data.max_prompt_tokens={prompt} + "
    f"data.max_response_tokens={response} - 1: a demonstration within the limits might fit in no "
    f"row. Set it to {prompt + response - 1} or more, or data.long_demonstrations='skip'."
  )


@together(Config, "hgpo.packed_length", "data.max_prompt_tokens", "data.max_response_tokens")
def _packed_rollouts(c: Config) -> str:
  packed, prompt = c.hgpo.packed_length, c.data.max_prompt_tokens
  longest = prompt + c.data.max_response_tokens - 1
  if not packed or packed >= longest:
    return ""
  return (
    f"hgpo.packed_length={packed} is less than data.max_prompt_tokens={prompt} + "
    f"data.max_response_tokens={c.data.max_response_tokens} - 1: the longest response and its "
    f"prompt would fit in no row. Set it to {longest} or more, or to 0."
  )


_OF_ROWS = ("demonstrations", "prompts", "evaluation", "sources", "root", "weights", "epochs")


@together(Config, "task", *(f"data.{name}" for name in _OF_ROWS))
def _rows(c: Config) -> str:
  given = ", ".join(f"data.{name}" for name in _OF_ROWS if getattr(c.data, name))
  if c.task == tasks.ROWS or not given:
    return ""
  return f"{given}: task={short(c.task)} does not read them. Set task='rows', or leave them empty."


@together(Config, "policy.lora_rank", "init_from")
def _adapters_of_something(c: Config) -> str:
  if not c.policy.lora_rank or c.init_from:
    return ""
  return (
    f"policy.lora_rank={c.policy.lora_rank} trains adapters of a policy that stays as it is, and "
    "without init_from that is a random one: set init_from, or policy.lora_rank=0."
  )


def rewards_named(c: Config) -> set[str]:
  """Returns the names of the rewards that score a run's responses."""
  return set(c.reward_by_source.values()) or set(c.reward_weights) or {c.reward}


@together(Config, "reward", "reward_weights", "reward_by_source", "reward_model.init_from")
def _rewards_known(c: Config) -> str:
  for key in ("reward", "reward_weights", "reward_by_source"):
    named = getattr(c, key)
    try:
      if named:
        rewards.chosen(**{"reward": c.reward, key.removeprefix("reward_"): named})
    except ValueError as error:
      return f"reward={c.reward!r}: {error}" if key == "reward" else f"{key}: {error}"
  if c.reward_model.init_from or "reward_model" not in rewards_named(c):
    return ""
  return "the reward 'reward_model' needs a model: set reward_model.init_from."


@together(Config, "task")
def _task_known(c: Config) -> str:
  try:
    tasks.REGISTRY.get(c.task)
  except UnknownName as error:
    return f"task={c.task!r}: {error}"
  return ""


@together(Config, "profile_steps")
def _profile(c: Config) -> str:
  try:
    parse_steps(c.profile_steps)
  except ValueError as error:
    return str(error)
  return ""


@together(Config, "checkpoint.best", "hgpo.eval_every", "hgpo.eval_hacc", "hgpo.steps")
def _best(c: Config) -> str:
  metric = c.checkpoint.best
  known = ("eval/accuracy", "hacc/score", "eval/think", "eval/no_think", "mode/think_rate")
  of_groups = ("mode/think_rate/level_", "mode/think_rate/source_", "eval/accuracy/source_")
  if metric == "hacc/score" and not c.hgpo.eval_hacc and c.hgpo.eval_every:
    return "checkpoint.best='hacc/score' is measured with hgpo.eval_hacc: set that to True."
  if not metric or metric in known or metric.startswith(of_groups):
    if metric not in known[:2] or c.hgpo.eval_every or not c.hgpo.steps:
      return ""
    return f"checkpoint.best={metric!r} is measured every hgpo.eval_every steps: set that above 0."
  return f"checkpoint.best={short(metric)} must be '' or one of {', '.join(known)}."


@idle(Config, "reward")
def _weighted(c: Config) -> str:
  return "reward_weights, which take its place" if c.reward_weights else ""


@idle(Config, "reward", "reward_weights")
def _by_source(c: Config) -> str:
  return "reward_by_source, which takes its place" if c.reward_by_source else ""


@idle(Config, *(f"reward_model.{field.name}" for field in dataclasses.fields(RewardModelConfig)))
def _no_reward_model(c: Config) -> str:
  judges = judged(c.evaluation) and not c.evaluation.judge.endpoint
  named = judges or "reward_model" in rewards_named(c)
  return "" if named else "rewards that do not name 'reward_model'"


@together(Config, "evaluation.suites", "evaluation.judge.endpoint", "reward_model.init_from")
def _judge(c: Config) -> str:
  named = judged(c.evaluation)
  if not named or c.evaluation.judge.endpoint or c.reward_model.init_from:
    return ""
  return (
    f"evaluation.suites names {', '.join(named)}, which a judge scores: set "
    "evaluation.judge.endpoint to an OpenAI-compatible API, or reward_model.init_from."
  )


@idle(Config, "reward_model.scale")
def _rescaled(c: Config) -> str:
  return f"hgpo.reward_scale={c.hgpo.reward_scale!r}" if c.hgpo.reward_scale else ""


@idle(Config, "data.on_bad_row")
def _no_sources(c: Config) -> str:
  return "" if c.task == tasks.ROWS else f"task={c.task!r}: only 'rows' reads sources"


@together(Config, "rollouts.steps", "hgpo.prompts_per_step")
def _sampled_prompts(c: Config) -> str:
  if c.rollouts.steps * c.hgpo.prompts_per_step < 2**31:
    return ""
  return (
    f"rollouts.steps={c.rollouts.steps} of hgpo.prompts_per_step={c.hgpo.prompts_per_step} are "
    "more prompts than int32 numbers, which their random keys come from."
  )


@idle(Config, "rollouts.max_samples", "rollouts.max_tokens", "rollouts.policy",
      "rollouts.on_bad_line")  # fmt: skip
def _no_rollouts(c: Config) -> str:
  return "" if c.rollouts.path else "rollouts.path='': no rollouts are read"


@idle(Config, "checkpoint.best")
def _no_training(c: Config) -> str:
  return "" if c.hgpo.steps or c.hft.steps else "hgpo.steps=0 and hft.steps=0"

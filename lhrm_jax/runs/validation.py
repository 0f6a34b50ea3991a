"""What the values of a config must be, checked before anything is read, compiled or written.

`RULES` has one rule for every key of `configs.defaults`; `_TOGETHER` says what must hold between
keys. `check` reports all problems of a config at once. What depends on the devices and on the
policy, whose sizes may be a pretrained model's, is checked as soon as they are known.
"""

from lhrm_jax.runs.instruments import parse_steps
from lhrm_jax.errors import UserError
import dataclasses
import functools
import math
import numbers
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lhrm_jax.runs import command_line
from lhrm_jax.runs import idle
from lhrm_jax.runs import defaults
from lhrm_jax import parallel, rewards
from lhrm_jax.config import (FLAG, LEVELS, MESH_SIZE, MOST_ROWS, MOST_TOKENS, MOST_WIDTH, NAME, NAMES, OPTIONS, PATH, REWARDS, SHARE, SHORT, SOURCES, TEMPERATURE, TEMPERATURE_OR_GREEDY, TEXT, WEIGHTS, Range, one_of, real, whole)
from lhrm_jax.data import limits, sources, tasks
from lhrm_jax.objectives import advantages, hgpo, losses
from lhrm_jax.policy import PolicyConfig, flash
from lhrm_jax.policy import config as policy_config
from lhrm_jax.registry import UnknownName
from lhrm_jax.rewards import rules as binary_rewards
from lhrm_jax.rewards import scales
from lhrm_jax.rewards.model import RewardModelConfig
from lhrm_jax.text import Tokenizer
from lhrm_jax.training import hgpo as hgpo_update
from lhrm_jax.runs import instruments

# Of the scores of all pairs of tokens, in the forward and backward pass of one layer.
_SCORE_COPIES = 4
_SHOWN = 80  # characters of a value in a message
_LINES = 20  # of a message


RULES: dict[str, Range] = {
  "seed": whole(0, 2**32 - 1),
  "task": NAME,
  "reward": NAME,
  "reward_weights": WEIGHTS,
  "reward_by_source": REWARDS,
  **{
    f"reward_model.{field.name}": field.metadata["allowed"]
    for field in dataclasses.fields(RewardModelConfig)
  },
  "init_from": PATH,
  "compilation_cache": PATH,
  "profile_steps": SHORT,
  "policy.vocab_size": whole(0, MOST_TOKENS),
  "policy.hidden_size": whole(1, MOST_WIDTH),
  "policy.intermediate_size": whole(1, MOST_WIDTH),
  "policy.num_layers": whole(1, 10_000),
  "policy.num_heads": whole(1, 10_000),
  "policy.num_kv_heads": whole(1, 10_000),
  "policy.head_dim": whole(0, MOST_WIDTH),
  "policy.max_positions": whole(1, MOST_TOKENS),
  "policy.rope_theta": real(1, 1e12, above=True),
  "policy.rms_norm_eps": real(0, 1, above=True),
  "policy.qkv_bias": FLAG,
  "policy.qk_norm": FLAG,
  "policy.tie_embeddings": FLAG,
  "policy.scan_layers": FLAG,
  "policy.remat": one_of(*policy_config.REMAT_POLICIES),
  "policy.dtype": one_of(*policy_config.DTYPES),
  "policy.attention": one_of(*policy_config.ATTENTIONS),
  "policy.logprob_chunk": whole(1),
  "policy.attention_chunk": whole(0),
  "mesh.data": MESH_SIZE,
  "mesh.fsdp": MESH_SIZE,
  "mesh.tensor": MESH_SIZE,
  "sampling_mesh.tensor": whole(1, MOST_ROWS),
  "data.max_prompt_tokens": whole(1, MOST_TOKENS),
  "data.max_response_tokens": whole(2, MOST_TOKENS),  # a tag and the end
  "data.max_no_think_tokens": whole(2, MOST_TOKENS),
  "data.long_prompts": one_of(*limits.LONG_PROMPTS),
  "data.long_demonstrations": one_of(*limits.LONG_DEMONSTRATIONS),
  "data.demonstrations": NAMES,
  "data.prompts": NAMES,
  "data.evaluation": NAMES,
  "data.sources": SOURCES,
  "data.on_bad_row": one_of(*sources.ON_BAD_ROW),
  "hft.steps": whole(0),
  "hft.think_per_step": whole(0, MOST_ROWS),
  "hft.no_think_per_step": whole(0, MOST_ROWS),
  "hft.packed_length": whole(0, MOST_TOKENS),
  "hft.micro_batch_rows": whole(1, MOST_ROWS),
  "hft.learning_rate": real(0),
  "hft.warmup_steps": whole(0),
  "hft.weight_decay": real(0),
  "hft.clip_norm": real(0, above=True),
  "hft.until.think": SHARE,
  "hft.until.no_think": SHARE,
  "hft.until.no_think_levels": LEVELS,
  "hft.until.check_every": whole(1),
  "hgpo.steps": whole(0),
  "hgpo.prompts_per_step": whole(1, MOST_ROWS),
  "hgpo.sampling_chunks": whole(1, MOST_ROWS),
  "hgpo.reward_workers": whole(1, 1024),
  "hgpo.samples_per_mode": whole(1, 2**16),
  "hgpo.pairing": one_of("paired", "free"),
  "hgpo.temperature": TEMPERATURE,
  "hgpo.top_p": real(0, 1, above=True),
  "hgpo.top_k": whole(0),
  "hgpo.advantage": NAME,
  "hgpo.advantage_options": OPTIONS,
  "hgpo.alpha": real(0),
  "hgpo.delta": real(),
  "hgpo.tie": one_of(*hgpo.TIES),
  "hgpo.intra_scope": one_of("", *hgpo.INTRA_SCOPES),
  "hgpo.estimator": one_of(*hgpo.ESTIMATORS),
  "hgpo.ddof": one_of(0, 1),
  "hgpo.literal": FLAG,
  "hgpo.skip_unsolved": FLAG,
  "hgpo.beta": real(0),
  "hgpo.clip_low": SHARE,
  "hgpo.clip_high": real(0),
  "hgpo.aggregation": one_of(*losses.AGGREGATIONS),
  "hgpo.tag_weight": real(0),
  "hgpo.gamma": SHARE,
  "hgpo.tag_normalisation": one_of(*hgpo_update.TAG_NORMALISATIONS),
  "hgpo.tag_kl": one_of(*hgpo_update.TAG_KLS),
  "hgpo.neither_penalty": real(0),
  "hgpo.updates_per_rollout": whole(1, 10_000),
  "hgpo.epochs": whole(1, 10_000),
  "hgpo.micro_batches": whole(1, MOST_ROWS),
  "hgpo.length_buckets": whole(1, 2**16),
  "hgpo.skip_zero_advantages": FLAG,
  "hgpo.learning_rate": real(0),
  "hgpo.weight_decay": real(0),
  "hgpo.clip_norm": real(0, above=True),
  "hgpo.eval_every": whole(0),
  "evaluation.prompts": whole(1, MOST_ROWS),
  "evaluation.batch_prompts": whole(1, MOST_ROWS),
  "evaluation.temperature": TEMPERATURE_OR_GREEDY,
  "evaluation.top_p": real(0, 1, above=True),
  "evaluation.samples": whole(1, 2**16),
  "evaluation.hacc_temperature": TEMPERATURE_OR_GREEDY,
  "evaluation.margin": real(0),
  "checkpoint.every": whole(1),
  "checkpoint.keep": whole(1),
  "checkpoint.best": SHORT,
  "allow_config_change": TEXT,
  "hgpo.reward_scale": one_of("", *scales.SCALES),
  "judging.deadline_s": real(0, 86_400, above=True),
  "judging.max_failed_share": SHARE,
  "gates.max_logp_difference": real(0),
  "gates.max_clip_ratio": SHARE,
  "gates.max_kl": real(0),
  "gates.pinned_steps": whole(0),
  "gates.stop": FLAG,
  "numerics.max_skipped_in_a_row": whole(1),
  "numerics.max_dumps": whole(0),
}

# Keys, and what is wrong with their values together or "". Asked where each is right by itself.
_TOGETHER: list[tuple[tuple[str, ...], Callable[..., str]]] = []


def _together(*keys: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
  def add(problem: Callable[..., str]) -> Callable[..., str]:
    _TOGETHER.append((keys, problem))
    return problem

  return add


def check(config: ConfigDict) -> None:
  """Refuses values that would fail only later, inside a compiled step or after hours.

  Raises:
    UserError: names every key that is wrong, its value, and what would do.
  """
  if found := problems(config):
    more = [f"and {len(found) - _LINES} more."] if len(found) > _LINES else []
    lines = [f"{len(found)} of the config's values cannot be:", *found[:_LINES], *more]
    raise UserError("\n  ".join(lines) if len(found) > 1 else found[0])


def problems(config: ConfigDict) -> list[str]:
  """What is wrong with a config, a sentence or two each, in the order of `RULES`."""
  values = dict(flatten(config))
  wrong = {key: message for key, rule in RULES.items() if (message := _wrong(key, rule, values))}
  found = list(dict.fromkeys(wrong.values()))
  for keys, problem in _TOGETHER:
    if not wrong.keys() & set(keys) and (message := problem(*(values[key] for key in keys))):
      found.append(message)
  if not found:
    found += [
      f"{key}={short(values[key])} has no effect with {reason}. Set it back to "
      f"{short(_defaults()[key])}, its default, or change the other."
      for key, reason in idle.without_effect(values, _defaults())
    ]
    found += idle.argument_problems(values)
  return found


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Dotted keys with their values; what a user fills with names of their own is one value."""
  for name, value in config.items():
    key = f"{prefix}{name}"
    if isinstance(value, Mapping | ConfigDict) and key not in RULES:
      yield from flatten(value, f"{key}.")
    else:
      yield key, value


def _wrong(key: str, rule: Range, values: Mapping[str, Any]) -> str:
  if key not in values:
    parents = [key.rsplit(".", n)[0] for n in range(1, key.count(".") + 1)]
    for section in filter(values.__contains__, parents):
      return f"{section}={short(values[section])} must be a section with keys of its own."
    return f"{key} is missing: start a config from lhrm_jax.runs.defaults.get_config()."
  if rule.holds(values[key]):
    return ""
  return (
    f"{key}={short(values[key])} must be {rule.allowed}. Set --config.{key}; the default is "
    f"{short(_defaults()[key])}."
  )


def short(value: Any) -> str:
  """A value as an error shows it: its beginning, where it is long."""
  try:
    text = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
  except ValueError:  # a whole number of more digits than Python prints
    return f"<a {type(value).__name__} too large to print>"
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@functools.cache
def _defaults() -> dict[str, Any]:
  return dict(flatten(defaults.get_config()))


# ---- Between keys


@_together("hft.packed_length", "data.max_prompt_tokens", "data.max_response_tokens",
           "data.long_demonstrations")  # fmt: skip
def _packed_length(packed: int, prompt: int, response: int, long: str) -> str:
  if not packed or packed >= prompt + response - 1 or long == "skip":
    return ""
  return (
    f"hft.packed_length={packed} is less than data.max_prompt_tokens={prompt} + "
    f"data.max_response_tokens={response} - 1: a demonstration within the limits could fit into no "
    f"row. Set it to {prompt + response - 1} or more, or data.long_demonstrations='skip'."
  )


@_together("hft.think_per_step", "hft.no_think_per_step")
def _demonstrations(think: int, direct: int) -> str:
  if think or direct:
    return ""
  return (
    "hft.think_per_step=0 and hft.no_think_per_step=0 leave nothing to train on: raise one. To do "
    "without fine-tuning, set hft.steps=0."
  )


@_together("hgpo.prompts_per_step", "hgpo.updates_per_rollout", "hgpo.micro_batches")
def _parts_of_a_step(prompts: int, updates: int, parts: int) -> str:
  if prompts % updates:
    return (
      f"hgpo.updates_per_rollout={updates} does not divide hgpo.prompts_per_step={prompts}: each "
      "update is made from an equal part of a step's queries."
    )
  if prompts // updates % parts:
    return (
      f"hgpo.micro_batches={parts} does not divide the {prompts // updates} queries of an update "
      "(hgpo.prompts_per_step / hgpo.updates_per_rollout): micro-batches are equal parts of it."
    )
  return ""


@_together("hgpo.prompts_per_step", "hgpo.sampling_chunks")
def _sampling_chunks(prompts: int, chunks: int) -> str:
  if prompts % chunks == 0:
    return ""
  return (
    f"hgpo.prompts_per_step={prompts} does not divide into hgpo.sampling_chunks={chunks} equal "
    "chunks: choose a divisor of the prompts."
  )


@_together("hgpo.prompts_per_step", "hgpo.steps")
def _prompt_ids(prompts: int, steps: int) -> str:
  if prompts * steps < 2**31:
    return ""
  return (
    f"hgpo.steps={steps} of hgpo.prompts_per_step={prompts} are more prompts than int32 numbers, "
    f"which their random keys come from: at most {(2**31 - 1) // prompts:,} steps."
  )


@_together("hgpo.advantage")
def _advantage_known(name: str) -> str:
  try:
    advantages.get(name)
  except UnknownName as error:
    return f"hgpo.advantage={name!r}: {error}"
  return ""


@_together("task")
def _task_known(name: str) -> str:
  try:
    tasks.REGISTRY.get(name)
  except UnknownName as error:
    return f"task={name!r}: {error}"
  return ""


@_together("hgpo.advantage", "hgpo.pairing")
def _pairing(advantage: str, pairing: str) -> str:
  if advantage != "hgpo" or pairing == "paired":
    return ""
  return (
    "hgpo.advantage='hgpo' compares the modes of paired rollouts; with hgpo.pairing='free' "
    "choose another, such as 'grpo'."
  )


@_together("hgpo.top_p", "hgpo.top_k")
def _truncation(top_p: float, top_k: int) -> str:
  if top_p == 1 and not top_k:
    return ""
  return (
    f"hgpo.top_p={top_p} and hgpo.top_k={top_k}: the update takes log-probabilities under the "
    "whole distribution, so rollouts must be drawn from it: hgpo.top_p=1 and hgpo.top_k=0. To "
    "sharpen rollouts, lower hgpo.temperature, which the update follows."
  )


@_together("hgpo.advantage", "hgpo.samples_per_mode")
def _group_size(advantage: str, samples: int) -> str:
  if advantage != "hgpo" or samples > 1:
    return ""
  return (
    "hgpo.samples_per_mode=1 with hgpo.advantage='hgpo': a mode's only response is always its "
    "best, so every token after the tag has advantage 0. Take at least 2."
  )


@_together("hgpo.skip_zero_advantages", "hgpo.beta")
def _skipping(skip: bool, beta: float) -> str:
  if not (skip and beta):
    return ""
  return (
    f"hgpo.skip_zero_advantages with hgpo.beta={beta}: the KL penalty gives every response a "
    "gradient, advantage or not. Set hgpo.beta=0, or skip none."
  )


@_together("task", "data.demonstrations", "data.prompts", "data.evaluation", "data.sources")
def _rows(task: str, *named: Any) -> str:
  keys = ("data.demonstrations", "data.prompts", "data.evaluation", "data.sources")
  if task == tasks.ROWS or not any(named):
    return ""
  given = ", ".join(key for key, value in zip(keys, named, strict=True) if value)
  return f"{given}: task={short(task)} does not read them. Set task='rows', or leave them empty."


@_together("reward", "reward_weights", "reward_by_source", "reward_model.init_from")
def _rewards_known(
  name: str, weights: Mapping[str, float], by_source: Mapping[str, str], model: str
) -> str:
  settings = {"reward": name, "reward_weights": weights, "reward_by_source": by_source}
  for key, named in settings.items():
    try:
      if named:
        rewards.chosen(**{"reward": name, key.removeprefix("reward_"): named})
    except ValueError as error:
      return f"{key}={name!r}: {error}" if key == "reward" else f"{key}: {error}"
  if model or "reward_model" not in idle.rewards_named(name, weights, by_source):
    return ""
  return "the reward 'reward_model' needs a model: set reward_model.init_from."


@_together("profile_steps")
def _profile(steps: str) -> str:
  try:
    parse_steps(steps)
  except ValueError as error:
    return str(error)
  return ""


@_together("checkpoint.best", "hgpo.eval_every", "hgpo.steps")
def _best(metric: str, eval_every: int, steps: int) -> str:
  known = ("eval/accuracy", "eval/mean_tokens", "eval/think", "eval/no_think", "mode/think_rate")
  if not metric or metric in known or metric.startswith("mode/think_rate/level_"):
    if metric not in known[:2] or eval_every or not steps:
      return ""
    return f"checkpoint.best={metric!r} is measured every hgpo.eval_every steps: set that above 0."
  return f"checkpoint.best={short(metric)} must be '' or one of {', '.join(known)}."


# ---- With the devices and the policy


# The field of `PolicyConfig` that is the size of each logical axis of a parameter.
_SPLIT = {"embed": "hidden_size", "vocab": "vocab_size", "heads": "num_heads",
          "kv_heads": "num_kv_heads", "mlp": "intermediate_size"}  # fmt: skip


def check_shards(policy: PolicyConfig, mesh: Mesh, section: str = "mesh") -> None:
  """Checks that a mesh cuts every parameter of a policy into equal parts.

  Args:
    policy: whose parameters are laid out.
    mesh: over these devices.
    section: of the config, which the mesh comes from.

  Raises:
    UserError: it does not; names every pair of keys.
  """
  found = []
  for axis, field in _SPLIT.items():
    names, size = parallel.LOGICAL_RULES[axis], getattr(policy, field)
    if size % math.prod(mesh.shape[name] for name in names):
      parts = " * ".join(f"{section}.{name}={mesh.shape[name]}" for name in names)
      found.append(f"policy.{field}={size} does not divide by {parts}")
  if found:
    raise UserError(
      f"{'; '.join(found)}: every device holds an equal part of each parameter. Choose a divisor."
    )


def check_policy(config: ConfigDict, policy: PolicyConfig, tokenizer: Tokenizer) -> None:
  """Checks the config and the tokenizer against the policy that is trained.

  Raises:
    UserError: sequences are longer than its positions, the tokenizer gives ids beyond its
      vocabulary, or its attention is not to be had here.
  """
  c = config.data
  responses = ["max_response_tokens"]
  if not config.hft.packed_length:  # what is packed is held against the positions row by row
    responses.append("max_no_think_tokens")
  for key in responses:
    longest = c.max_prompt_tokens + c[key]
    if longest > policy.max_positions:
      raise UserError(
        f"data.max_prompt_tokens + data.{key} = {longest}, more than "
        f"policy.max_positions={policy.max_positions}: lower the limits or use a longer policy."
      )
  tokens = policy.logit_vocab_size or policy.vocab_size
  special = (*tokenizer.tag_ids.opening, *tokenizer.tag_ids.closing, *tokenizer.eos_ids,
             tokenizer.pad_id)  # fmt: skip
  largest = max(tokenizer.vocab_size - 1, *special)
  if largest >= tokens or min(special) < 0:
    raise UserError(
      f"the tokenizer has ids from {min(0, *special)} to {largest}, and the policy a vocabulary of "
      f"{tokens}: they are not of the same model (policy/ of the run, or init_from)."
    )
  try:
    flash.choose(policy, 2)
  except ValueError as error:
    raise UserError(str(error)) from error


def policy_problems(fields: Any) -> list[str]:
  """What is wrong with the fields of a saved policy's config, before anything is made of them."""
  if not isinstance(fields, Mapping):
    return ["it is no object with fields"]
  rules = {key.removeprefix("policy."): rule for key, rule in RULES.items() if "policy." in key}
  rules["logit_vocab_size"] = rules["vocab_size"]
  return [
    f"{name}={short(fields[name])} must be {rule.allowed}"
    for name, rule in rules.items()
    if name in fields and not rule.holds(fields[name])
  ]


def check_prompts(config: ConfigDict, mesh: Mesh) -> None:
  """Checks that the prompts of an HGPO step divide over the mesh and, on each host, into chunks.

  Raises:
    UserError: they do not.
  """
  prompts, chunks = config.hgpo.prompts_per_step, config.hgpo.sampling_chunks
  try:
    mine = len(parallel.local_rows(mesh, prompts))
  except ValueError as error:
    raise UserError(f"hgpo.prompts_per_step={prompts}: {error}") from error
  if mine % chunks:
    raise UserError(
      f"hgpo.sampling_chunks={chunks} does not divide {mine}, a host's share of "
      f"hgpo.prompts_per_step={prompts}: choose a divisor."
    )


def check_memory(config: ConfigDict, policy: PolicyConfig) -> None:
  """Checks that a step of unpacked HFT is not far beyond the memory of a machine of CPUs.

  There attention keeps the scores of all pairs of tokens, which grow with the square of the limits.

  Raises:
    UserError: it is; a system out of memory would kill the process without a word.
  """
  c, d = config.hft, config.data
  chunked = policy.attention_chunk or c.packed_length or jax.default_backend() != "cpu"
  if chunked or policy.attention not in ("auto", "xla"):
    return
  rows = (c.think_per_step, c.no_think_per_step)
  widths = (d.max_response_tokens, d.max_no_think_tokens)
  pairs = max(n * (d.max_prompt_tokens + w) ** 2 for n, w in zip(rows, widths, strict=True))
  layers = policy.num_layers if policy.remat == "none" else 1
  needed = _SCORE_COPIES * 4 * pairs * policy.num_heads * layers
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  if needed > memory:
    raise UserError(
      f"attention over hft.think_per_step={c.think_per_step} demonstrations of up to "
      f"data.max_prompt_tokens={d.max_prompt_tokens} + data.max_response_tokens="
      f"{d.max_response_tokens} tokens takes about {needed / 2**30:.0f} GiB; this machine has "
      f"{memory / 2**30:.0f}. Lower these, or set policy.attention_chunk, e.g. 128."
    )


# ---- What is allowed, and perhaps not meant


def warnings(config: ConfigDict) -> list[str]:
  """What a config may not mean, a sentence or two each: for the terminal, before HGPO.

  Only of what somebody set: who keeps the default of `hgpo.delta` needs no telling at every run.
  """
  given = "hgpo.delta" in command_line.given_keys()
  return notes(config) if given or config.hgpo.delta != _defaults()["hgpo.delta"] else []


def notes(config: ConfigDict) -> list[str]:
  """What a reader of the report must know about the config."""
  c = config.hgpo
  binary = not config.reward_weights and all(
    rewards.get(name) in binary_rewards.BINARY
    for name in idle.rewards_named(config.reward, {}, config.reward_by_source)
  )
  if not (c.steps and c.advantage == "hgpo" and binary):
    return []
  g = c.samples_per_mode
  low, high = hgpo.equivalent_deltas(c.delta, g)
  if high > 1:
    rule = "no-think always wins"
  elif low < -1:
    rule = "thinking always wins"
  else:
    rule = f"thinking wins with at least {round(high * g)} more right responses of {g}"
  return [
    f"hgpo.delta={c.delta:g}, with rewards of 0 or 1 and hgpo.samples_per_mode={g}, is the same "
    f"rule as every value in [{low:g}, {high:g}): {rule}. More samples per mode, or a reward with "
    "more values, would tell them apart."
  ]

"""Checks of a config against the devices and the policy, whose sizes may be a pretrained model's.

They run as soon as both are known; `lhrm_jax.runs.config` checks everything else before.
"""

import math
from collections.abc import Sequence

from jax.sharding import Mesh

from lhrm_jax import parallel, rewards
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.objectives import hgpo
from lhrm_jax.policy import PolicyConfig, flash
from lhrm_jax.rewards import rules as binary_rewards
from lhrm_jax.runs import command_line
from lhrm_jax.runs.config import KNOBS, Config, rewards_named
from lhrm_jax.text import Tokenizer
from lhrm_jax.training import advantages

# Field of `PolicyConfig` that holds the size of each logical axis of a parameter.
_SPLIT = {"embed": "hidden_size", "vocab": "vocab_size", "heads": "num_heads",
          "kv_heads": "num_kv_heads", "mlp": "intermediate_size"}  # fmt: skip


def check_shards(policy: PolicyConfig, mesh: Mesh, section: str = "mesh") -> None:
  """Checks that a mesh divides every parameter of a policy into equal parts.

  Args:
    policy: static part of the policy.
    mesh: mesh of the parameters.
    section: config section that the mesh comes from.

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


def check_policy(config: Config, policy: PolicyConfig, tokenizer: Tokenizer) -> None:
  """Checks the config and the tokenizer against the policy that is trained.

  Raises:
    UserError: sequences are longer than its positions, the tokenizer has ids beyond its
      vocabulary, or its attention kernel is not available here.
  """
  c = config.data
  responses = ["max_response_tokens"]
  if not config.hft.packed_length:  # packed sequences are checked one by one when drawn
    responses.append("max_no_think_tokens")
  for key in responses:
    longest = c.max_prompt_tokens + getattr(c, key)
    if longest > policy.max_positions:
      raise UserError(
        f"data.max_prompt_tokens + data.{key} = {longest}, more than "
        f"policy.max_positions={policy.max_positions}: lower the limits or raise the positions."
      )
  tokens = policy.logit_vocab_size or policy.vocab_size
  special = (*tokenizer.tag_ids.opening, *tokenizer.tag_ids.closing, *tokenizer.eos_ids,
             tokenizer.pad_id)  # fmt: skip
  largest = max(tokenizer.vocab_size - 1, *special)
  if largest >= tokens or min(special) < 0:
    raise UserError(
      f"the tokenizer has ids from {min(0, *special)} to {largest}, and the policy a vocabulary of "
      f"{tokens}: they belong to different models (policy/ of the run, or init_from)."
    )
  try:
    flash.choose(policy, 2)
  except ValueError as error:
    raise UserError(str(error)) from error


def check_prompts(config: Config, mesh: Mesh) -> None:
  """Checks that an HGPO step's prompts divide over the mesh and, on each host, into chunks.

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


def check_advantage(config: Config) -> None:
  """Checks that the advantage function runs with its options, before anything is trained.

  Raises:
    UserError: it does not.
  """
  if config.hgpo.steps and config.hgpo.advantage != "hgpo":  # whose knobs are all checked
    with as_user_error(ValueError):
      advantages.try_out(config.hgpo)


def check_answers(reward_fn: rewards.RewardFn, rows: Sequence[PromptRow]) -> None:
  """Checks that a reward can judge by the answers and sources of rows.

  Raises:
    ValueError: it cannot by one of them.
  """
  parts = rewards.parts_of(reward_fn)
  if isinstance(reward_fn, rewards.BySource) or any(hasattr(fn, "check") for fn in parts):
    for row in rows:
      rewards.check_answer(reward_fn, row.answer, row.source)


def check_sources(reward_fn: rewards.RewardFn, rows: Sequence[PromptRow]) -> None:
  """Checks that every source that has a reward of its own has rows.

  Raises:
    ValueError: one has none.
  """
  if not isinstance(reward_fn, rewards.BySource):
    return
  found = {row.source for row in rows}
  if missing := set(reward_fn.names) - found - {rewards.registry.ANY_SOURCE}:
    raise ValueError(
      f"reward_by_source names {', '.join(map(repr, sorted(missing)))}, which no row has as its "
      f"source; the rows have {', '.join(map(repr, sorted(found)))}"
    )


# ---- Warnings: legal settings that are probably mistakes


def warnings(config: Config) -> list[str]:
  """Returns warnings for the terminal before HGPO, a sentence or two each.

  A default that was not set explicitly causes none.
  """
  given = "hgpo.delta" in command_line.given_keys()
  return notes(config) if given or config.hgpo.delta != KNOBS["hgpo.delta"].default else []


def binary_scores(config: Config) -> bool:
  """Whether every response scores 0 or 1."""
  return not config.reward_weights and all(
    rewards.get(name) in binary_rewards.BINARY for name in rewards_named(config)
  )


def notes(config: Config) -> list[str]:
  """Returns notes on the config for the reader of the report."""
  c = config.hgpo
  if not (c.steps and c.advantage == "hgpo" and binary_scores(config)):
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

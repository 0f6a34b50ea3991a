"""How `policy.*` of a config applies to a policy that is loaded with its own sizes.

A new policy follows the config entirely. A run's or a pretrained model's takes its numerics from
the config; a size that differs from the loaded one is an error. Only keys that were set count: a
default asks for nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from lhrm_jax.errors import UserError
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.policy.config import PolicySettings
from lhrm_jax.runs.command_line import given_keys
from lhrm_jax.runs.config import Config, to_dict

# Numerics, which may differ each time a policy is loaded.
NUMERICS = ("dtype", "remat", "attention", "logprob_chunk", "attention_chunk", "max_positions")
# Fixed when a pretrained model is first loaded.
_LAYOUT = "scan_layers"
# Chosen when adapters are added to a policy without any.
_ADAPTERS = ("lora_rank", "lora_alpha", "lora_targets")
_DERIVED = ("vocab_size", "head_dim")  # 0 derives them from the tokenizer and other sizes


def asked(config: Config | ConfigDict) -> dict[str, Any]:
  """Returns the fields of a policy that a config asks for, with their values.

  All of them for a new policy, and all but adapters where `policy.vocab_size` says that the config
  describes the model; otherwise those that the config file or the command line set.
  """
  fields = {name: x for name, x in to_dict(config.policy).items() if x or name not in _DERIVED}
  if not config.init_from:
    return fields
  default, overridden = vars(PolicySettings()), given_keys()
  described = config.policy.vocab_size > 0
  return {
    name: x
    for name, x in fields.items()
    if (described and name not in _ADAPTERS) or x != default[name] or f"policy.{name}" in overridden
  }


def adapters(fields: Mapping[str, Any], loaded: PolicyConfig) -> dict[str, Any]:
  """Returns those of the requested fields that describe adapters to be added to a loaded policy."""
  if loaded.lora_rank or not fields.get("lora_rank"):
    return {}
  return {name: x for name, x in fields.items() if name in _ADAPTERS}


def for_pretrained(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns those of the requested fields that a pretrained model takes as settings.

  `rope_theta` is among them where the config describes the model: it then extends the context.
  """
  names = {*NUMERICS, _LAYOUT, *(["rope_theta"] if "vocab_size" in fields else [])}
  return {name: x for name, x in fields.items() if name in names}


def applied(loaded: PolicyConfig, fields: Mapping[str, Any], source: str) -> PolicyConfig:
  """Returns a loaded policy's config with the requested numerics.

  Args:
    loaded: config the policy was saved with.
    fields: result of `asked`.
    source: where it was loaded from, for messages.

  Raises:
    UserError: a size differs from the one asked for; names every key.
  """
  numerics = {name: x for name, x in fields.items() if name in NUMERICS}
  policy = dataclasses.replace(loaded, **numerics)
  check(policy, fields, source)
  return policy


def check(policy: PolicyConfig, fields: Mapping[str, Any], source: str) -> None:
  """Checks a policy against the requested fields.

  Raises:
    UserError: a field differs; names every key.
  """
  added = adapters(fields, policy)
  found = {name: getattr(policy, name) for name in fields if name not in added}
  wrong = [f"policy.{n}={fields[n]} (there: {x})" for n, x in found.items() if x != fields[n]]
  if wrong:
    raise UserError(
      f"{source} holds another policy than the config describes: {', '.join(wrong)}. Leave these "
      "keys out of the config or correct them; with policy.vocab_size=0 it describes none."
    )


def kept(config: Config, policy: PolicyConfig) -> list[str]:
  """Returns remarks on numerics that a loaded policy keeps although the config has others.

  A config file cannot ask for a default: it looks like a key that was left out.
  """
  return [
    f"policy.{name} stays {getattr(policy, name)!r}, as init_from={config.init_from!r} has it: "
    f"--config.policy.{name}={getattr(config.policy, name)} on the command line would change it."
    for name in ("dtype", "remat")
    if getattr(policy, name) != getattr(config.policy, name)
  ]


def recorded(config: Config, policy: PolicyConfig) -> Config:
  """Returns the config with `policy.*` as the policy truly is; derived fields (0) stay 0."""
  fields = {
    name: getattr(policy, name) if x or name not in _DERIVED else x
    for name, x in vars(config.policy).items()
  }
  return dataclasses.replace(config, policy=PolicySettings(**fields))

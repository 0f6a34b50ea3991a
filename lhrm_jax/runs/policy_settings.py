"""What `policy.*` of a config asks of a policy that is loaded, and so has sizes of its own.

A policy made from nothing is all that the config says. A run's or a pretrained model's takes from
the config how it is computed; a size that is not the loaded one's is an error. Only keys that
somebody set count: a default that was left alone asks for nothing.
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

# How a policy is computed: may differ each time that it is loaded.
NUMERICS = ("dtype", "remat", "attention", "logprob_chunk", "attention_chunk", "max_positions")
# Decided where a pretrained model is loaded first, and then for good.
_LAYOUT = "scan_layers"
_DERIVED = ("vocab_size", "head_dim")  # 0 leaves them to the tokenizer and to other sizes


def asked(config: Config | ConfigDict) -> dict[str, Any]:
  """The fields of a policy that a config asks for, with their values.

  All of them, where there is nothing to load, or where `policy.vocab_size` says that the config
  describes the model; otherwise those that its file or the command line set.
  """
  fields = {name: x for name, x in to_dict(config.policy).items() if x or name not in _DERIVED}
  if not config.init_from or config.policy.vocab_size:
    return fields
  default, overridden = vars(PolicySettings()), given_keys()
  return {
    name: x for name, x in fields.items() if x != default[name] or f"policy.{name}" in overridden
  }


def for_pretrained(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Of what is asked for, the settings that a pretrained model takes.

  `rope_theta` is one where the config describes the model: it then stretches the context.
  """
  names = {*NUMERICS, _LAYOUT, *(["rope_theta"] if "vocab_size" in fields else [])}
  return {name: x for name, x in fields.items() if name in names}


def applied(loaded: PolicyConfig, fields: Mapping[str, Any], source: str) -> PolicyConfig:
  """A loaded policy's config with the numerics that are asked for.

  Args:
    loaded: as it was saved.
    fields: from `asked`.
    source: what it was loaded from, for messages.

  Raises:
    UserError: the policy is of other sizes than asked for; names every key.
  """
  numerics = {name: x for name, x in fields.items() if name in NUMERICS}
  policy = dataclasses.replace(loaded, **numerics)
  check(policy, fields, source)
  return policy


def check(policy: PolicyConfig, fields: Mapping[str, Any], source: str) -> None:
  """Raises:
  UserError: the policy is not what is asked for; names every key.
  """
  found = {name: getattr(policy, name) for name in fields}
  wrong = [f"policy.{n}={x} (there: {found[n]})" for n, x in fields.items() if x != found[n]]
  if wrong:
    raise UserError(
      f"{source} holds another policy than the config describes: {', '.join(wrong)}. Leave these "
      "keys out of the config or correct them; with policy.vocab_size=0 a config describes none."
    )


def recorded(config: Config, policy: PolicyConfig) -> Config:
  """The config with `policy.*` as the policy truly is; what was left to it (0) stays so."""
  fields = {
    name: getattr(policy, name) if x or name not in _DERIVED else x
    for name, x in vars(config.policy).items()
  }
  return dataclasses.replace(config, policy=PolicySettings(**fields))

"""Settings without an effect under the other settings; each is an error that names both.

Only what differs from its default counts: a default says nothing of what the user meant.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from lhrm_jax.objectives import advantages
from lhrm_jax.rewards.model import RewardModelConfig

Values = Mapping[str, Any]  # of a config, by dotted key

# Keys of one kind, and why they have no effect under the values of a config; "" where they have.
_IDLE: list[tuple[tuple[str, ...], Callable[[Values], str]]] = [
  (
    ("hft.micro_batch_rows",),
    lambda v: "" if v["hft.packed_length"] else "hft.packed_length=0 (rows are not packed)",
  ),
  (
    ("reward",),
    lambda v: "reward_weights, which take its place" if v["reward_weights"] else "",
  ),
  (
    ("reward", "reward_weights"),
    lambda v: "reward_by_source, which takes its place" if v["reward_by_source"] else "",
  ),
  (
    tuple(f"reward_model.{field.name}" for field in dataclasses.fields(RewardModelConfig)),
    lambda v: (
      ""
      if "reward_model"
      in rewards_named(*(v[key] for key in ("reward", "reward_weights", "reward_by_source")))
      else "rewards that do not name 'reward_model'"
    ),
  ),
  (
    ("reward_model.scale",),
    lambda v: f"hgpo.reward_scale={v['hgpo.reward_scale']!r}" if v["hgpo.reward_scale"] else "",
  ),
  (
    ("data.on_bad_row",),
    lambda v: "" if v["task"] == "rows" else f"task={v['task']!r}: only 'rows' reads sources",
  ),
  (
    ("hgpo.intra_scope",),
    lambda v: _estimator(v, "reinforce_pp", "is over the whole batch"),
  ),
  (
    ("hgpo.ddof",),
    lambda v: (
      _estimator(v, "rloo", "divides by no deviation")
      or _estimator(v, "reinforce_pp", "is over the whole batch")
    ),
  ),
  (("hgpo.literal",), lambda v: _same_literally(v)),
  (
    ("hgpo.gamma",),
    lambda v: (
      ""
      if v["hgpo.estimator"] == "reinforce_pp"
      else f"hgpo.estimator={v['hgpo.estimator']!r}: only 'reinforce_pp' discounts"
    ),
  ),
  (
    ("hgpo.tag_normalisation", "hgpo.neither_penalty"),
    lambda v: "" if v["hgpo.pairing"] == "paired" else "hgpo.pairing='free': no tag is forced",
  ),
  (("hgpo.tag_kl",), lambda v: "" if v["hgpo.beta"] else "hgpo.beta=0"),
  (
    ("evaluation.top_p",),
    lambda v: (
      ""
      if v["evaluation.temperature"]
      or v["evaluation.hacc_temperature"]
      or v["evaluation.top_p"] == 1
      else "evaluation.temperature=0 and evaluation.hacc_temperature=0 (greedy)"
    ),
  ),
  (
    ("evaluation.samples",),
    lambda v: (
      ""
      if v["evaluation.hacc_temperature"] or v["evaluation.samples"] == 1
      else "evaluation.hacc_temperature=0: greedy samples are all the same"
    ),
  ),
  (
    ("gates.stop",),
    lambda v: (
      ""
      if any(v[f"gates.{name}"] for name in _GATES)
      else f"{' and '.join(f'gates.{name}=0' for name in _GATES)}: nothing is watched"
    ),
  ),
  (
    ("checkpoint.best",),
    lambda v: "" if v["hgpo.steps"] or v["hft.steps"] else "hgpo.steps=0 and hft.steps=0",
  ),
]
_GATES = ("max_logp_difference", "max_clip_ratio", "max_kl", "pinned_steps")


def rewards_named(
  reward: str, weights: Mapping[str, float], by_source: Mapping[str, str]
) -> set[str]:
  """Names of the rewards that score a run's responses."""
  return set(by_source.values()) or set(weights) or {reward}


def _estimator(values: Values, name: str, what: str) -> str:
  if values["hgpo.estimator"] != name or "hgpo.estimator" not in _taken(values):
    return ""
  return f"hgpo.estimator={name!r}, which {what}"


def _same_literally(values: Values) -> str:
  """Modes of equal scores, all tied for the best, differ from no other response within the mode."""
  names = ("advantage", "estimator", "tie", "intra_scope")
  advantage, estimator, tie, scope = (values[f"hgpo.{name}"] for name in names)
  scope = scope or ("all" if estimator == "rloo" else "mode")
  if advantage != "hgpo" or estimator == "reinforce_pp" or tie != "all" or scope != "mode":
    return ""
  return (
    f"hgpo.estimator={estimator!r} over the responses of a mode and hgpo.tie='all': the equations "
    "as printed give the same"
  )


def _taken(values: Values) -> set[str]:
  """Keys of the config that the chosen advantage function takes."""
  return {f"hgpo.{name}" for name in advantages.settings_of(values["hgpo.advantage"])}


def without_effect(values: Values, default: Values) -> Iterator[tuple[str, str]]:
  """Each key that is set and has no effect, and under which other settings.

  Args:
    values: the config's, each valid by itself.
    default: of every key.
  """
  for keys, why in _IDLE:
    for key in keys:
      if _plain(values[key]) != _plain(default[key]) and (reason := why(values)):
        yield key, reason
  for setting in advantages.SETTINGS:
    key = f"hgpo.{setting}"
    if key not in _taken(values) and values[key] != default[key]:
      yield key, f"hgpo.advantage={values['hgpo.advantage']!r}, which takes no argument {setting}"


def argument_problems(values: Values) -> Iterator[str]:
  """What is wrong with `hgpo.advantage_options`, a sentence each."""
  name, own = values["hgpo.advantage"], values["hgpo.advantage_options"]
  signature = inspect.signature(advantages.get(name))
  parameters = list(signature.parameters.values())[1:]  # without the scores
  named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
  for option in own:
    if option in advantages.SETTINGS:
      yield f"hgpo.advantage_options.{option}: the config has hgpo.{option} for that."
    elif option not in named and len(named) == len(parameters):
      yield (
        f"hgpo.advantage_options.{option}: hgpo.advantage={name!r} takes no such argument; it "
        f"takes {', '.join(sorted(named)) or 'none'}."
      )
  for p in parameters:
    if isinstance(p.default, int | float) and isinstance(own.get(p.name), str):
      yield (
        f"hgpo.advantage_options.{p.name}={own[p.name]!r} must be a number or a flag, as its "
        f"default {p.default!r} is."
      )
    missing = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    if missing and p.name not in own and p.name not in advantages.SETTINGS:
      yield (
        f"hgpo.advantage={name!r} needs an argument {p.name}: set hgpo.advantage_options.{p.name}."
      )


def _plain(value: Any) -> Any:
  """To be compared: a locked section differs from one that is not."""
  return value.to_dict() if isinstance(value, ConfigDict) else value

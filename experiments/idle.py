"""Settings without an effect under the other settings; each is an error that names both.

Only what differs from its default counts: a default says nothing of what the user meant.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lhrm_jax.objectives import advantages

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
    ("data.demonstrations", "data.prompts", "data.evaluation", "data.sources", "data.on_bad_row"),
    lambda v: "" if v["task"] == "rows" else f"task={v['task']!r}: only 'rows' reads sources",
  ),
  (
    ("hgpo.intra_scope",),
    lambda v: _estimator(v, "reinforce_pp", "standardises over the whole batch"),
  ),
  (("hgpo.ddof",), lambda v: _estimator(v, "rloo", "divides by no deviation")),
  (
    ("evaluation.top_p",),
    lambda v: (
      ""
      if v["evaluation.temperature"] or v["evaluation.hacc_temperature"]
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


def _estimator(values: Values, name: str, what: str) -> str:
  if values["hgpo.estimator"] != name or "hgpo.estimator" not in _taken(values):
    return ""
  return f"hgpo.estimator={name!r}, which {what}"


def _taken(values: Values) -> set[str]:
  """Keys of the config that the chosen advantage function takes."""
  return {f"hgpo.{name}" for name in advantages.settings_of(values["hgpo.advantage"])}


def problems(values: Values, default: Values) -> Iterator[str]:
  """A sentence or two for each setting that has no effect.

  Args:
    values: the config's, each valid by itself.
    default: of every key.
  """
  for keys, why in _IDLE:
    for key in keys:
      if _set(key, values, default) and (reason := why(values)):
        yield f"{key}={values[key]!r} has no effect with {reason}. Leave one of them out."
  yield from _of_advantage(values, default)


def _of_advantage(values: Values, default: Values) -> Iterator[str]:
  name, own = values["hgpo.advantage"], values["hgpo.advantage_options"]
  try:
    signature = inspect.signature(advantages.get(name))
  except ValueError:  # unknown, which is reported elsewhere
    return
  for key in (f"hgpo.{setting}" for setting in advantages.SETTINGS):
    if key not in _taken(values) and _set(key, values, default):
      yield (
        f"{key}={values[key]!r} has no effect with hgpo.advantage={name!r}, which takes no "
        f"argument {key.removeprefix('hgpo.')}. Leave it out, or let the function take it."
      )
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
    missing = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    if missing and p.name not in own and p.name not in advantages.SETTINGS:
      yield (
        f"hgpo.advantage={name!r} needs an argument {p.name}: set hgpo.advantage_options.{p.name}."
      )


def _set(key: str, values: Values, default: Values) -> bool:
  return values[key] != default[key]

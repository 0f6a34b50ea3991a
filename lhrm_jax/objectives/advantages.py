"""Advantage functions by name: from scores `[B, M, G]` to `Advantages`.

`M` is 2 for paired rollouts and 1 where the policy chose the mode itself. Those that are not
hybrid treat all `M * G` responses of a query as one group and the tag as any token.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jax import Array

from lhrm_jax.objectives import group_advantages, hgpo, mode_advantages
from lhrm_jax.objectives.hgpo import Advantages

AdvantageFn = Callable[[Array], Advantages]

# Keys of a config's section `hgpo` that are passed to the functions that name them as arguments.
SETTINGS = ("alpha", "delta", "tie", "intra_scope", "estimator", "ddof", "literal", "skip_unsolved")

# What a function may name as arguments beside those and is then given of the batch and the run.
# `[B, M, G]`: response tokens; 0 think, 1 no_think, -1 neither; cut off at the limit; well formed.
# Scalars: the training step, from 0, and the run's number of them. `[B]`: mean score of the
# reference policy in think, NaN where unknown.
CONTEXT = (
  "lengths", "modes", "truncated", "well_formed", "step", "total_steps", "ref_accuracy",
)  # fmt: skip

_REGISTRY: dict[str, Callable[..., Advantages]] = {}


def register(name: str) -> Callable[[Callable[..., Advantages]], Callable[..., Advantages]]:
  """Makes `fn(scores, *, ...) -> Advantages` known to configs as `hgpo.advantage = name`.

  What the function names as arguments it is given: `SETTINGS` from the config's keys of that name,
  `CONTEXT` from the rollouts and the run, anything else from `hgpo.advantage_options`.
  """

  def add(fn: Callable[..., Advantages]) -> Callable[..., Advantages]:
    _REGISTRY[name] = fn
    return fn

  return add


def get(name: str) -> Callable[..., Advantages]:
  """Looks an advantage function up.

  Raises:
    ValueError: no such name; says which is nearest.
  """
  if name not in _REGISTRY:
    near = difflib.get_close_matches(name, _REGISTRY, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(_REGISTRY))}."
    raise ValueError(f"hgpo.advantage={name!r} is not registered; {hint}")
  return _REGISTRY[name]


def settings_of(name: str) -> tuple[str, ...]:
  """Which of `SETTINGS` an advantage function takes.

  Raises:
    ValueError: no such name.
  """
  named = inspect.signature(get(name)).parameters
  return tuple(setting for setting in SETTINGS if setting in named)


def options(name: str, settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
  """The keyword arguments of an advantage function.

  Args:
    name: registered.
    settings: `SETTINGS` with their values, and perhaps more.
    own: `hgpo.advantage_options`.

  Raises:
    ValueError: no such name.
  """
  return {**{setting: settings[setting] for setting in settings_of(name)}, **own}


for _name, _fn in {
  "hgpo": hgpo.advantages,
  "grpo": group_advantages.grpo,
  "dr_grpo": group_advantages.dr_grpo,
  "rloo": group_advantages.rloo,
  "reinforce_pp": group_advantages.reinforce_pp,
  "dapo": group_advantages.dapo,
  "thinkless": mode_advantages.thinkless,
  "adapt_think": mode_advantages.adapt_think,
  "auto_think": mode_advantages.auto_think,
  "ada_grpo": mode_advantages.ada_grpo,
  "l1_exact": mode_advantages.l1_exact,
  "l1_max": mode_advantages.l1_max,
}.items():
  register(_name)(_fn)

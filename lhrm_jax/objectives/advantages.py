"""Advantage functions by name: from scores `[B, M, G]` to `Advantages`.

`M` is 2 for paired rollouts and 1 where the policy chose the mode itself. Those that are not
hybrid treat all `M * G` responses of a query as one group and the tag as any token.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jax import Array

from lhrm_jax.objectives import group_advantages, hgpo, mode_advantages
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.registry import Registry

AdvantageFn = Callable[[Array], Advantages]

# Keys of a config's section `hgpo` that are passed to the functions that name them as arguments.
SETTINGS = ("alpha", "delta", "tie", "intra_scope", "estimator", "ddof", "literal", "skip_unsolved")

# What a function may name as arguments beside those and is then given of the batch and the run.
# `[B, M, G]`: response tokens; 0 think, 1 no_think, -1 neither; cut off at the limit; well formed.
# Scalars: the training step, from 0, and the run's number of them. `[B]`: mean score of the
# policy that training started from in think, NaN where unknown. Scalar: most tokens of a response.
CONTEXT = (
  "lengths", "modes", "truncated", "well_formed", "step", "total_steps", "ref_accuracy",
  "max_length",
)  # fmt: skip

# `register("mine")` over `fn(scores, *, ...) -> Advantages` makes it available to configs as
# `hgpo.advantage = "mine"`. Of its arguments, `SETTINGS` come from the config's keys of that name,
# `CONTEXT` from the rollouts and the run, all others from `hgpo.advantage_options`.
REGISTRY: Registry[Callable[..., Advantages]] = Registry("advantage")
register, get, names = REGISTRY.register, REGISTRY.get, REGISTRY.names


def settings_of(name: str) -> tuple[str, ...]:
  """The `SETTINGS` that an advantage function takes as arguments.

  Raises:
    UnknownName: see `get`.
  """
  return _named(name, SETTINGS)


def context_of(name: str) -> tuple[str, ...]:
  """What an advantage function takes of `CONTEXT`.

  Raises:
    UnknownName: see `get`.
  """
  return _named(name, CONTEXT)


def _named(name: str, among: tuple[str, ...]) -> tuple[str, ...]:
  named = inspect.signature(get(name)).parameters
  return tuple(argument for argument in among if argument in named)


def options(name: str, settings: Any, own: Mapping[str, Any]) -> dict[str, Any]:
  """The keyword arguments of an advantage function.

  Args:
    name: a registered one.
    settings: has `SETTINGS` as attributes, as the section `hgpo` of a config does.
    own: `hgpo.advantage_options`.

  Raises:
    UnknownName: see `get`.
  """
  return {**{setting: getattr(settings, setting) for setting in settings_of(name)}, **own}


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
  register(_name, _fn)

"""Advantage functions by name: from scores `[B, M, G]` to `Advantages`.

`M` is 2 for paired rollouts and 1 where the policy chose the mode itself. Those that are not
hybrid treat all `M * G` responses of a query as one group and the tag as any token.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from lhrm_jax.objectives import hgpo
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.objectives.masked import group_normalise, leave_one_out
from lhrm_jax.registry import Registry

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
  named = inspect.signature(get(name)).parameters
  return tuple(setting for setting in SETTINGS if setting in named)


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


register("hgpo", hgpo.advantages)


@register("grpo")
def grpo(scores: Array, *, ddof: int = 0) -> Advantages:
  """`(r - mean) / std` over the query's responses (https://arxiv.org/abs/2402.03300)."""
  return _one_group(group_normalise(jnp.asarray(scores, jnp.float32), (1, 2), ddof=ddof))


@register("dr_grpo")
def dr_grpo(scores: Array) -> Advantages:
  """`r - mean`, not scaled (https://arxiv.org/abs/2503.20783); pair with a constant length."""
  scores = jnp.asarray(scores, jnp.float32)
  return _one_group(scores - jnp.mean(scores, axis=(1, 2), keepdims=True))


@register("rloo")
def rloo(scores: Array) -> Advantages:
  """`r` less the mean of the others (https://arxiv.org/abs/2402.14740)."""
  return _one_group(leave_one_out(jnp.asarray(scores, jnp.float32), (1, 2)))


def _one_group(values: Array) -> Advantages:
  return Advantages(tag=values, body=values)

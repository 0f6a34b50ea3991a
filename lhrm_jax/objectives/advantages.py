"""Advantage functions by name: from scores `[B, M, G]` to `Advantages`.

`M` is 2 for paired rollouts and 1 where the policy chose the mode itself. Those that are not
hybrid treat all `M * G` responses of a query as one group and the tag as any token.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from lhrm_jax.objectives import hgpo
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.objectives.masked import group_normalise, leave_one_out

AdvantageFn = Callable[[Array], Advantages]

# Keys of a config's section `hgpo` that are passed to the functions that name them as arguments.
SETTINGS = ("alpha", "delta", "tie", "intra_scope", "estimator", "ddof", "literal", "skip_unsolved")

_REGISTRY: dict[str, Callable[..., Advantages]] = {}


def register(name: str) -> Callable[[Callable[..., Advantages]], Callable[..., Advantages]]:
  """Makes `fn(scores, *, ...) -> Advantages` known to configs as `hgpo.advantage = name`.

  What the function names as arguments it is given: `SETTINGS` from the config's keys of that name,
  anything else from `hgpo.advantage_options`.
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


def names() -> list[str]:
  """Of the registered functions."""
  return sorted(_REGISTRY)


def settings_of(name: str) -> tuple[str, ...]:
  """Which of `SETTINGS` an advantage function takes.

  Raises:
    ValueError: no such name.
  """
  named = inspect.signature(get(name)).parameters
  return tuple(setting for setting in SETTINGS if setting in named)


def options(name: str, settings: Any, own: Mapping[str, Any]) -> dict[str, Any]:
  """The keyword arguments of an advantage function.

  Args:
    name: registered.
    settings: has `SETTINGS` as attributes, as the section `hgpo` of a config does.
    own: `hgpo.advantage_options`.

  Raises:
    ValueError: no such name.
  """
  return {**{setting: getattr(settings, setting) for setting in settings_of(name)}, **own}


register("hgpo")(hgpo.advantages)


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

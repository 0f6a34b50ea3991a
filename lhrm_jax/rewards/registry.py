"""Reward functions by name, and how several are added up.

A reward is a plain function `reward_fn(prompt, response, answer) -> float`. A researcher's own is
registered in one line and named in the config:

```python
@rewards.register("short_proof")
def short_proof(prompt, response, answer): ...
```
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping

RewardFn = Callable[[str, str, str], float]

_REWARDS: dict[str, RewardFn] = {}


def register(name: str, fn: RewardFn | None = None, *, replace: bool = False):
  """Registers `fn` under `name`; without `fn`, a decorator.

  Raises:
    ValueError: the name is taken and `replace` is not set.
  """
  if fn is None:
    return lambda function: register(name, function, replace=replace)
  if name in _REWARDS and not replace:
    raise ValueError(f"a reward named {name!r} exists; pass replace=True to put yours in its place")
  _REWARDS[name] = fn
  return fn


def get(name: str) -> RewardFn:
  """The reward registered as `name`.

  Raises:
    KeyError: there is none; the message names the nearest.
  """
  if name in _REWARDS:
    return _REWARDS[name]
  near = difflib.get_close_matches(name, _REWARDS, n=1, cutoff=0.4)
  hint = f"did you mean {near[0]!r}? " if near else ""
  raise KeyError(f"no reward named {name!r}; {hint}registered: {', '.join(names())}")


def names() -> list[str]:
  """The registered names, sorted."""
  return sorted(_REWARDS)


@dataclasses.dataclass(frozen=True)
class Composed:
  """A weighted sum of rewards that keeps its parts; made by `compose`."""

  weights: Mapping[str, float]
  parts: Mapping[str, RewardFn]

  def components(self, prompt: str, response: str, answer: str) -> dict[str, float]:
    """Each reward by name, unweighted, and their weighted sum as `total`: what a run logs."""
    scores = {name: float(fn(prompt, response, answer)) for name, fn in self.parts.items()}
    return {**scores, "total": sum(self.weights[name] * scores[name] for name in scores)}

  def __call__(self, prompt: str, response: str, answer: str) -> float:
    return self.components(prompt, response, answer)["total"]


def compose(weights: Mapping[str, float], **own: RewardFn) -> Composed:
  """Adds up rewards: `compose({"math": 1.0, "brevity": 0.1}, brevity=my_fn)`.

  Args:
    weights: the weight of each reward, by registered name or by a name in `own`.
    **own: rewards that are not registered.

  Raises:
    KeyError: a name that is neither.
    ValueError: no weights, or the name `total`, which stands for the sum.
  """
  if not weights or "total" in weights:
    raise ValueError(f"compose({dict(weights)}): give one weight or more, and none named 'total'")
  parts = {name: own[name] if name in own else get(name) for name in weights}
  return Composed({name: float(weight) for name, weight in weights.items()}, parts)

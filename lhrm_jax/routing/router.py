"""What a router is, and the registry of routers by name.

A router looks at the prompt alone and says how probable it is that thinking serves it better. It is
a frozen dataclass whose fields are plain: numbers, text, tuples of numbers, and tables of numbers
by text. So a file of JSON holds all of it, and reading one executes nothing.

```python
@routing.register("shouting")
@dataclasses.dataclass(frozen=True)
class Shouting:
  weight: float

  @classmethod
  def fit(cls, examples: routing.Examples) -> "Shouting":
    return cls(weight=0.5)

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    return np.array([self.weight * prompt.isupper() for prompt in prompts])
```
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from lhrm_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Examples:
  """Training prompts with what both modes scored on them; `K` denotes prompts.

  Attributes:
    prompts: the `K` texts.
    think_better: `[K]` bool, whether thinking is the better mode, see `evaluation.better_modes`.
    gain: `[K]` mean score of thinking less that of not thinking.
  """

  prompts: Sequence[str]
  think_better: np.ndarray
  gain: np.ndarray

  def __post_init__(self):
    if not len(self.prompts) == len(self.think_better) == len(self.gain) > 0:
      raise ValueError(
        f"{len(self.prompts)} prompts, {len(self.think_better)} better modes and {len(self.gain)} "
        "gains: a router is fitted to equally many, at least one."
      )


class Router(Protocol):
  """A frozen dataclass of plain fields with these two methods."""

  @classmethod
  def fit(cls, examples: Examples) -> Self:
    """A router fitted to training prompts; rules ignore them.

    Raises:
      ImportError: it needs a package that is not installed; says how to install it.
    """
    ...

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    """Probability `[K]` in [0, 1] that thinking serves each prompt better."""
    ...


REGISTRY: Registry[type[Router]] = Registry("router")
register, get, names = REGISTRY.register, REGISTRY.get, REGISTRY.names


def sigmoid(x: np.ndarray) -> np.ndarray:
  """Logistic function, without overflow."""
  return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64)))

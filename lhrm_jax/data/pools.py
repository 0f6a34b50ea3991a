"""Rows of several sources, drawn in one order that the seed and the place decide."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lhrm_jax.data.mixture import Mixture
from lhrm_jax.data.shards import stream_of

ALL_SOURCES = "*"


class RowSource(Protocol):
  """Rows that are drawn one by one in an endless stream of shuffled epochs.

  Attributes:
    weight: weight of each row in a mixture, unless the pool sets one.
  """

  weight: float

  def __len__(self) -> int: ...

  def take(self, key: tuple[int, ...], number: int) -> Any:
    """Row of the draw `number`: a function of `key` and the number."""
    ...


@dataclasses.dataclass(frozen=True)
class RowsInMemory:
  """A source whose rows are in memory."""

  rows: Sequence[Any]
  weight: float = 1.0

  def __len__(self) -> int:
    return len(self.rows)

  def take(self, key: tuple[int, ...], number: int) -> Any:
    (at,) = in_order(key, number, 1, len(self.rows))
    return self.rows[at]


@dataclasses.dataclass(frozen=True)
class Pool:
  """Sources that rows are drawn from.

  Attributes:
    sources: by name, each with a row at least.
    weights: by name, of each row, in place of its source's own.
    epochs: by name, or "*" for all others, the most epochs.
    pooled: draw from the rows of all sources, in memory, as if they were of one.
  """

  sources: Mapping[str, RowSource]
  weights: Mapping[str, float]
  epochs: Mapping[str, float]
  pooled: bool = False

  def __len__(self) -> int:
    return sum(map(len, self.sources.values()))

  @property
  def length(self) -> int | None:
    """Rows that may be drawn, epochs included; `None` without a limit."""
    return None if self.pooled else self._mixture(()).length

  def draw(self, key: tuple[int, ...], first: int, count: int) -> list[Any]:
    """Rows `first` to `first + count - 1`. Beyond the limits of epochs the stream begins again.

    Only rows that replace others are asked for there: `runs.repeats` refuses runs that are longer.
    """
    if self.pooled:
      rows = self._rows
      return [rows[i] for i in in_order(key, first, count, len(rows))]
    mixture, drawn = self._mixture(key), []
    while len(drawn) < count:
      at = first + len(drawn)
      most = count - len(drawn)
      if mixture.length is not None:
        at %= mixture.length
        most = min(most, mixture.length - at)
      drawn += self._rows_of(key, mixture, at, most)
    return drawn

  def counts(self, key: tuple[int, ...], place: int) -> dict[str, float]:
    """Rows of each source among the first `place`; where they are pooled, on average."""
    if self.pooled:
      return {name: place * len(rows) / len(self) for name, rows in self.sources.items()}
    counts = self._mixture(key).counts(place)
    return dict(zip(self.sources, counts.tolist(), strict=True))

  def _rows_of(self, key: tuple[int, ...], mixture: Mixture, first: int, count: int) -> list[Any]:
    draws, sources = mixture.draws(first, count), list(self.sources.items())
    return [
      sources[s][1].take((*key, stream_of(sources[s][0])), n)
      for s, n in zip(draws.sources.tolist(), draws.numbers.tolist(), strict=True)
    ]

  @functools.cached_property
  def _rows(self) -> list[Any]:
    return [row for source in self.sources.values() for row in source.rows]

  def _mixture(self, key: tuple[int, ...]) -> Mixture:
    weights = tuple(
      len(rows) * self.weights.get(name, rows.weight) for name, rows in self.sources.items()
    )
    most = [self.epochs.get(name, self.epochs.get(ALL_SOURCES)) for name in self.sources]
    limits = tuple(
      None if epochs is None else max(1, int(epochs * len(rows)))
      for epochs, rows in zip(most, self.sources.values(), strict=True)
    )
    return Mixture(weights, limits, key)


def in_order(key: Sequence[int], first: int, count: int, size: int) -> list[int]:
  """Items `first` to `first + count - 1` of an endless stream of indices below `size`.

  The stream is a sequence of permutations, each a function of `key` and of its number.
  """
  return [
    int(_permutation((*key, place // size), size)[place % size])
    for place in range(first, first + count)
  ]


@functools.lru_cache(maxsize=16)  # of a million rows, a permutation takes 8 MB
def _permutation(key: tuple[int, ...], size: int) -> np.ndarray:
  return np.random.default_rng(key).permutation(size)

"""The order in which several sources are drawn from, by weight, each up to a number of epochs.

Source `s` with the share `w` of all weights makes its draw `j` at the time `(j + u) / w`, `u` being
a random number in [0, 1) of its own; the stream is all draws in the order of their times. So any
stretch of it holds the sources in proportion to their weights, within one draw or two, and
the first epoch of sources weighted by their rows holds every row exactly once.

Everything is a function of the seed and the place in the stream: no state is carried from step to
step, so a run resumes anywhere, on any number of hosts.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

_WINDOW = 4096  # length, in time, of the stretches that the stream is computed in


@dataclasses.dataclass(frozen=True)
class Draws:
  """Consecutive draws; `P` denotes their number.

  Attributes:
    sources: `[P]` which source each takes a row of.
    numbers: `[P]` which draw of that source it is, from 0.
  """

  sources: np.ndarray
  numbers: np.ndarray


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Sources to be drawn from by weight.

  Attributes:
    weights: of each source, above 0; only their ratios count.
    limits: most draws of each source; `None` for no limit.
    seed: key of the random numbers.
  """

  weights: tuple[float, ...]
  limits: tuple[int | None, ...]
  seed: tuple[int, ...]

  @property
  def length(self) -> int | None:
    """Draws of the whole stream; `None` where a source has no limit."""
    return None if None in self.limits else sum(self.limits)

  def draws(self, first: int, count: int) -> Draws:
    """Draws `first` to `first + count - 1` of the stream.

    Raises:
      ValueError: the stream ends before: every source has reached its limit.
    """
    if self.length is not None and first + count > self.length:
      raise ValueError(
        f"the sources end after {self.length:,} rows, at their limits of epochs, and rows up to "
        f"{first + count:,} are asked for"
      )
    parts, window = [], self._window_of(first)
    begins = place = self._before(window)
    while place < first + count:
      parts.append(_window(self, window))
      window, place = window + 1, place + len(parts[-1].sources)
    cut = slice(first - begins, first - begins + count)
    return Draws(*(
      np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0, np.int64)])[cut]
      for name in ("sources", "numbers")
    ))  # fmt: skip

  def counts(self, place: int) -> np.ndarray:
    """Draws `[S]` of each source among the first `place` of the stream."""
    if self.length is not None:
      place = min(place, self.length)
    window = self._window_of(place)
    begun = self._begun(window)
    more = self.draws(int(begun.sum()), place - int(begun.sum())).sources
    return begun + np.bincount(more, minlength=len(self.weights))

  def _begun(self, window: int) -> np.ndarray:
    """Draws `[S]` of each source before the window begins."""
    shares = np.array(self.weights, np.float64) / math.fsum(self.weights)
    whole, part = np.divmod(window * _WINDOW * shares, 1)
    whole = whole.astype(np.int64)
    jitter = [_jitter(self.seed, s, whole[s : s + 1])[0] for s in range(len(shares))]
    begun = whole + (np.array(jitter) < part)
    return np.array(
      [n if m is None else min(n, m) for n, m in zip(begun, self.limits, strict=True)]
    )

  def _before(self, window: int) -> int:
    return int(self._begun(window).sum())

  def _window_of(self, place: int) -> int:
    """The window that holds a place of the stream, the last one for its end."""
    low, high = 0, 1
    while self._before(high) <= place and self._before(high) != self.length:
      low, high = high, 2 * high
    while high - low > 1:
      middle = (low + high) // 2
      low, high = (middle, high) if self._before(middle) <= place else (low, middle)
    return low


@functools.lru_cache(maxsize=8)
def _window(mixture: Mixture, window: int) -> Draws:
  """The draws of one window, in the order of their times."""
  begin, end = mixture._begun(window), mixture._begun(window + 1)
  total = math.fsum(mixture.weights)
  sources = np.repeat(np.arange(len(begin)), end - begin)
  numbers = np.concatenate([np.arange(a, b) for a, b in zip(begin, end, strict=True)])
  times = np.concatenate([
    (np.arange(a, b) + _jitter(mixture.seed, s, np.arange(a, b))) * total / mixture.weights[s]
    for s, (a, b) in enumerate(zip(begin, end, strict=True))
  ])  # fmt: skip
  order = np.argsort(times, kind="stable")
  return Draws(sources[order], numbers[order])


def _jitter(seed: Sequence[int], source: int, numbers: np.ndarray) -> np.ndarray:
  """A random number in [0, 1) for each draw of a source, which depends on nothing else."""
  key = np.random.SeedSequence([*seed, source]).generate_state(1, np.uint64)[0]
  return _mixed(numbers.astype(np.uint64) + key) / 2.0**64 * (1 - 2.0**-53)


def _mixed(x: np.ndarray) -> np.ndarray:
  """SplitMix64's finaliser (https://doi.org/10.1145/2714064.2660195): `[N]` uint64 to uint64."""
  with np.errstate(over="ignore"):
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

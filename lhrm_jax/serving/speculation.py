"""Whether speculation pays: from the proposals that count, and the time of steps."""

import dataclasses

_TRIAL = 32  # steps after which speculation may be judged, and by which averages move
_PAUSE = 1000  # steps without speculation until it is tried again


@dataclasses.dataclass
class Payoff:
  """Judges speculation by tokens per second, step by step.

  Attributes:
    seconds: by number of pages, the time of a step without and with speculation.
    proposed: proposals so far.
    accepted: of these, those that counted.
    per_step: mean number of tokens that a row gets from a step with speculation.
    on: whether the last step has speculated.
  """

  seconds: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)
  proposed: int = 0
  accepted: int = 0
  per_step: float = 1.0
  on: bool = False
  _trial: int = _TRIAL  # steps until speculation is judged
  _pause: int = 0  # steps without speculation until the next trial

  def speedup(self, count: int) -> float:
    """Tokens per second with speculation, of those without, for steps of `count` pages."""
    plain, speculative = self.seconds.get(count, (1.0, 1.0))
    return self.per_step * plain / speculative

  @property
  def mean_speedup(self) -> float:
    """`speedup`, for the steps of all numbers of pages."""
    return sum(map(self.speedup, self.seconds)) / len(self.seconds) if self.seconds else 1.0

  def wanted(self, count: int) -> bool:
    """Whether the next step, of `count` pages, should speculate."""
    return not self._pause and (self._trial > 0 or self.speedup(count) > 1)

  def plain(self, count: int, seconds: float) -> None:
    """Counts a step without speculation."""
    self._moved(count, 0, seconds)
    if self._pause:
      self._pause -= 1
      self._trial = 0 if self._pause else _TRIAL
    elif not self.wanted(count):
      self._pause = _PAUSE

  def speculated(self, count: int, seconds: float, proposed: int, accepted: int, rows: int) -> None:
    """Counts a step with speculation.

    Args:
      count: pages that it has read.
      seconds: its time.
      proposed: proposals made for rows that the draft has seen in full.
      accepted: of these, those that counted.
      rows: number of these rows.
    """
    self._moved(count, 1, seconds)
    if not rows:
      return
    self.proposed += proposed
    self.accepted += accepted
    self.per_step += (1 + accepted / rows - self.per_step) / min(_TRIAL, _TRIAL - self._trial + 1)
    self._trial = max(0, self._trial - 1)

  def _moved(self, count: int, which: int, seconds: float) -> None:
    """Moves the mean time of a step towards the last one, which outliers hardly change."""
    self.on = bool(which)
    if count in self.seconds:
      both = list(self.seconds[count])
      both[which] += (min(seconds, 2 * both[which]) - both[which]) / _TRIAL
      self.seconds[count] = both[0], both[1]

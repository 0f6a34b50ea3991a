"""Parts of a split, `train[:90%]+test[5:]`, in the syntax of the `datasets` library.

Every kind of source is cut by the same code, so that `[:90%]` of one and `[90%:]` of another never
share a row.
"""

import dataclasses
import re
from collections.abc import Callable

_PART = re.compile(
  r"(?P<name>[\w.-]+)"
  r"(?P<slice>\[(?P<start>-?[\d_.]+%?)?:(?P<stop>-?[\d_.]+%?)?\])?"
  r"(?:\((?P<rounding>[^)]*)\))?"
)
_ROUNDINGS = CLOSEST, WHOLE_PERCENT = "closest", "pct1_dropremainder"


@dataclasses.dataclass(frozen=True)
class Bound:
  """One end of a slice.

  Attributes:
    value: rows, or percent of them.
    percent: whether `value` is in percent.
    negative: whether it counts from the end.
  """

  value: float
  percent: bool
  negative: bool


@dataclasses.dataclass(frozen=True)
class Part:
  """Rows of one split.

  Attributes:
    name: the split's.
    start: first row; `None` is the first of all.
    stop: one beyond the last row; `None` is the end.
    rounding: of percentages: "closest" row, or "pct1_dropremainder": multiples of the whole number
      of rows in one percent.
  """

  name: str
  start: Bound | None = None
  stop: Bound | None = None
  rounding: str = CLOSEST

  def rows(self, length: Callable[[], int]) -> tuple[int, int | None]:
    """First row and one beyond the last; `None` is the end.

    Args:
      length: gives the rows of the whole split; called only where the slice depends on it.

    Raises:
      ValueError: `length` does, or "pct1_dropremainder" of fewer than 100 rows.
    """
    start = self._place(self.start, length) if self.start else 0
    return start, self._place(self.stop, length) if self.stop else None

  def _place(self, bound: Bound, length: Callable[[], int]) -> int:
    if not (bound.percent or bound.negative):
      return int(bound.value)
    total, count = length(), bound.value
    if bound.percent and self.rounding == WHOLE_PERCENT:
      if total < 100:
        raise ValueError(f"{WHOLE_PERCENT} needs 100 rows or more; {self.name!r} has {total}")
      count = bound.value * (total // 100)
    elif bound.percent:
      count = bound.value * total / 100
    # Counts from the end even where it rounds to 0 rows: [-1%:] of ten rows is empty.
    return max(total - round(count), 0) if bound.negative else round(count)


def parse(split: str) -> tuple[Part, ...]:
  """The parts of a split, in order.

  Raises:
    ValueError: its syntax is wrong.
  """
  return tuple(_part(text.strip()) for text in split.split("+"))


def _part(text: str) -> Part:
  found = _PART.fullmatch(text)
  if not found:
    raise ValueError(
      f"split {text!r} is not understood; write train, train[:100], train[10%:20%], train[-50:], "
      "or several with + between them"
    )
  start, stop = (_bound(found[end], text) for end in ("start", "stop"))
  percent = {bound.percent for bound in (start, stop) if bound}
  if len(percent) > 1:
    raise ValueError(f"split {text!r} has one bound in rows and one in percent: write % at both")
  rounding = found["rounding"]
  if rounding is not None and (rounding not in _ROUNDINGS or percent != {True}):
    raise ValueError(
      f"split {text!r}: ({rounding}) must be one of {', '.join(_ROUNDINGS)}, after percentages"
    )
  return Part(found["name"], start, stop, rounding or CLOSEST)


def _bound(text: str | None, part: str) -> Bound | None:
  if not text:
    return None
  number = text.rstrip("%")
  percent, negative = text.endswith("%"), text.startswith("-")
  try:
    value = float(number) if percent else int(number)
  except ValueError:
    raise ValueError(f"split {part!r}: {text!r} is not a number of rows or percent") from None
  if percent and abs(value) > 100:
    raise ValueError(f"split {part!r}: {text} is beyond 100 %")
  return Bound(abs(value), percent, negative and value != 0)

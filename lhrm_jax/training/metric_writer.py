"""Writes metrics where people look: TensorBoard events and `metrics.jsonl`."""

import json
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

_FLUSH_SECONDS = 5.0


class MetricWriter:
  """One writer per run; stages prefix their scalars, e.g. `hgpo/reward`.

  `metrics.jsonl` holds one object per call of `scalars`: stage, step and the values by name.
  Non-finite values are written there as strings, since JSON has no name for them, and
  left out of the events.
  """

  def __init__(self, workdir: pathlib.Path):
    (workdir / "tensorboard").mkdir(exist_ok=True)
    # Not SummaryWriter: it hands events to a thread through a queue that `flush` does not wait for,
    # and a checkpoint must know how long this file is (see log_files).
    self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
    self._flushed = time.monotonic()
    self._lines = (workdir / "metrics.jsonl").open("a", encoding="utf-8")

  def scalars(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    """Writes scalars of one step."""
    row: dict[str, Any] = {"stage": stage, "step": step}
    for name, value in values.items():
      value = float(value)
      row[name] = value if math.isfinite(value) else str(value)
      if math.isfinite(value):
        self._event(summary.scalar(f"{stage}/{name}", value), step)
    self._lines.write(json.dumps(row) + "\n")
    self._lines.flush()
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self.flush()

  def text(self, tag: str, markdown: str, step: int) -> None:
    """Writes a text in Markdown."""
    self._event(summary.text(tag, markdown), step)

  def figure(self, tag: str, pixels: np.ndarray, step: int) -> None:
    """Writes a picture, `[height, width, 3]` uint8."""
    self._event(summary.image(tag, pixels, dataformats="HWC"), step)

  def flush(self) -> None:
    """Hands everything written so far to the operating system."""
    self._lines.flush()
    self._events.flush()
    self._flushed = time.monotonic()

  def close(self) -> None:
    self._events.close()
    self._lines.close()

  def _event(self, values: Any, step: int) -> None:
    self._events.write_event(Event(summary=values, step=step, wall_time=time.time()))


class SilentWriter(MetricWriter):
  """Writes nothing: for all processes of a job but the first."""

  def __init__(self):
    pass

  def scalars(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    pass

  def text(self, tag: str, markdown: str, step: int) -> None:
    pass

  def figure(self, tag: str, pixels: np.ndarray, step: int) -> None:
    pass

  def flush(self) -> None:
    pass

  def close(self) -> None:
    pass


def read_metrics(workdir: pathlib.Path, stage: str) -> list[dict[str, Any]]:
  """The rows of one stage in `metrics.jsonl`, in order; a half-written last line is left out."""
  rows = []
  path = workdir / "metrics.jsonl"
  for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue
    if row["stage"] == stage:
      rows.append(row)
  return rows

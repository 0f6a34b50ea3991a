"""Writes metrics where people look: TensorBoard events and `metrics.jsonl`."""

import functools
import json
import math
import os
import pathlib
import time
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

_FLUSH_SECONDS = 5.0
# TensorBoard sorts its cards by tag, capitals before small letters: what the method is about comes
# first.
_FIRST = {"mode/": "Mode/"}
# Of a stage's last evaluation, as TensorBoard's table of hyperparameters lists runs.
FINAL = ("final/hybrid_accuracy", "final/accuracy", "final/mean_tokens", "final/think_rate")
# The tab "Custom scalars": charts by category, each of the tags that match.
_LAYOUT = {
  "When it thinks": {
    "think rate of free replies, by level": ["Multiline", ["Mode/think_rate.*"]],
    "probability of the tags": ["Multiline", ["Mode/.*_prob"]],
    "queries on which thinking wins; ties": [
      "Multiline", ["Mode/winner_think_frac", "Mode/tie_frac"],
    ],
  },
  "What it brings": {
    "accuracy of free replies": ["Multiline", ["eval/accuracy"]],
    "tokens of free replies": ["Multiline", ["eval/mean_tokens"]],
    "score by mode": ["Multiline", ["Mode/(think|no_think)/reward"]],
    "tokens by mode": ["Multiline", ["Mode/(think|no_think)/mean_length"]],
  },
  "Whether it is sound": {
    "KL from the reference": ["Multiline", ["kl"]],
    "gradient norm": ["Multiline", ["grad_norm"]],
    "share cut off": ["Multiline", ["completions/clipped_ratio"]],
  },
}  # fmt: skip
_MOST = 2**53  # a whole number beyond it in metrics.jsonl is no count of anything


class MetricWriter:
  """Writes `metrics.jsonl`, and events into a TensorBoard run per stage, `tensorboard/STAGE`.

  `metrics.jsonl` holds one object per call of `scalars`: stage, step and the values by name.
  Non-finite values are written there as strings, since JSON has no name for them, and
  left out of the events.
  """

  def __init__(
    self, workdir: pathlib.Path, config: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
  ):  # fmt: skip
    """Args:
    workdir: the run folder.
    config: shown as a text.
    hyperparameters: numbers, flags and texts by name, by which TensorBoard compares runs.
    """
    self._folder = workdir / "tensorboard"
    self._folder.mkdir(exist_ok=True)
    self._config, self._hyperparameters = config, hyperparameters
    self._events: dict[str, Any] = {}  # an EventsWriter per stage
    self._flushed = time.monotonic()
    self._lines = (workdir / "metrics.jsonl").open("a", encoding="utf-8")

  def scalars(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    """Writes scalars of one step."""
    self.show(stage, step, values)
    self.log(stage, step, values)
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self.flush()

  def show(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    """Writes scalars for TensorBoard alone."""
    for name, value in values.items():
      if math.isfinite(value := float(value)):
        self._event(stage, _tensorboard().scalar(_tag(name), value), step)

  def log(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    """Writes scalars to `metrics.jsonl` alone."""
    row: dict[str, Any] = {"stage": stage, "step": step}
    for name, value in values.items():
      value = float(value)
      row[name] = value if math.isfinite(value) else str(value)
    self._lines.write(json.dumps(row) + "\n")
    self._lines.flush()

  def text(self, stage: str, tag: str, markdown: str, step: int) -> None:
    """Writes a text in Markdown."""
    self._event(stage, _tensorboard().text(tag, markdown), step)

  def figure(self, stage: str, tag: str, pixels: np.ndarray, step: int) -> None:
    """Writes a picture, `[height, width, 3]` uint8."""
    self._event(stage, _tensorboard().image(_tag(tag), pixels, dataformats="HWC"), step)

  def flush(self) -> None:
    """Hands everything written so far to the operating system."""
    self._lines.flush()
    for events in self._events.values():
      events.flush()
    self._flushed = time.monotonic()

  def close(self) -> None:
    for events in self._events.values():
      events.close()
    self._lines.close()

  def _event(self, stage: str, values: Any, step: int) -> None:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event

    if stage not in self._events:
      folder = self._folder / stage
      folder.mkdir(exist_ok=True)
      new = not any(folder.iterdir())
      # Not SummaryWriter: it hands events to a thread through a queue that `flush` does not wait
      # for, and a checkpoint must know how long this file is (see log_files). The process in its
      # name, since a run may be resumed within the second that is in it.
      self._events[stage] = EventsWriter(str(folder / "events"), f".{os.getpid()}")
      if new:  # a resumed run has said so before
        self._introduce(stage)
    self._events[stage].write_event(Event(summary=values, step=step, wall_time=time.time()))

  def _introduce(self, stage: str) -> None:
    self._event(stage, _tensorboard().custom_scalars(_LAYOUT), 0)
    if self._config is not None:
      # Indented, so that Markdown shows it as it is.
      lines = json.dumps(self._config, indent=2).splitlines()
      self.text(stage, "config", "\n".join(f"    {line}" for line in lines), 0)
    if self._hyperparameters:
      for part in _tensorboard().hparams(dict(self._hyperparameters), dict.fromkeys(FINAL, 0.0)):
        self._event(stage, part, 0)


@functools.cache
def _tensorboard() -> types.ModuleType:
  """tensorboardX's summaries, imported with the first: it loads the clients of every cloud storage
  that is installed, and a command that ends before it writes need not wait for them."""
  from tensorboardX import summary

  return summary


def _tag(name: str) -> str:
  for prefix, shown in _FIRST.items():
    if name.startswith(prefix):
      return shown + name.removeprefix(prefix)
  return name


class SilentWriter(MetricWriter):
  """Writes nothing: for all processes of a job but the first."""

  def __init__(self):
    pass

  def scalars(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    pass

  def show(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    pass

  def log(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    pass

  def text(self, stage: str, tag: str, markdown: str, step: int) -> None:
    pass

  def figure(self, stage: str, tag: str, pixels: np.ndarray, step: int) -> None:
    pass

  def flush(self) -> None:
    pass

  def close(self) -> None:
    pass


def read_metrics(workdir: pathlib.Path, stage: str) -> list[dict[str, Any]]:
  """The rows of one stage in `metrics.jsonl`, in order; damaged lines are left out."""
  rows = map(_row, _lines(workdir))
  return [row for row in rows if row is not None and row["stage"] == stage]


def damaged_lines(workdir: pathlib.Path) -> int:
  """How many lines of `metrics.jsonl` hold no row of metrics."""
  return sum(_row(line) is None for line in _lines(workdir))


def _lines(workdir: pathlib.Path) -> list[bytes]:
  path = workdir / "metrics.jsonl"
  return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _row(line: bytes) -> dict[str, Any] | None:
  """The row that a line holds: a stage, a step, and numbers by name."""
  try:
    row = json.loads(line)
  except (RecursionError, ValueError):
    return None
  if not isinstance(row, dict) or not isinstance(row.get("stage"), str):
    return None
  values = [value for name, value in row.items() if name not in ("stage", "step")]
  step = row.get("step")
  right = type(step) is int and 0 <= step < _MOST and all(map(_is_number, values))
  return row if right else None


def _is_number(value: Any) -> bool:
  """As `MetricWriter.scalars` writes them; JSON's own NaN and Infinity are numbers to Python."""
  if type(value) is int:
    return abs(value) < _MOST
  return type(value) is float or (isinstance(value, str) and value in ("nan", "inf", "-inf"))

"""Writes metrics as TensorBoard events and to `metrics.jsonl`."""

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
# TensorBoard sorts cards by tag, capitals first: the metrics of the modes come first.
_FIRST = {"mode/": "Mode/"}
# Metrics of a stage's last evaluation, in TensorBoard's table of hyperparameters.
FINAL = ("final/hybrid_accuracy", "final/accuracy", "final/mean_tokens", "final/think_rate")
# Charts of the tab "Custom scalars" by category, each over the tags that match.
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
    "share truncated": ["Multiline", ["completions/clipped_ratio"]],
  },
}  # fmt: skip
_MOST = 2**53  # no count in metrics.jsonl is larger


class MetricWriter:
  """Writes `metrics.jsonl`, and events into a TensorBoard run per stage, `tensorboard/STAGE`.

  `metrics.jsonl` holds one object per call of `scalars`: stage, step and the values by name.
  Non-finite values, which JSON lacks, are written there as strings and left out of the events.
  """

  def __init__(
    self, workdir: pathlib.Path, config: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
  ):  # fmt: skip
    """Args:
    workdir: run folder.
    config: config to show as text.
    hyperparameters: numbers, flags and texts by name, by which TensorBoard compares runs.
    """
    self._folder = workdir / "tensorboard"
    self._folder.mkdir(exist_ok=True)
    self._config, self._hyperparameters = config, hyperparameters
    self._events: dict[str, Any] = {}  # an EventsWriter per stage
    self._flushed = time.monotonic()
    self._lines = (workdir / "metrics.jsonl").open("a", encoding="utf-8")

  def scalars(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    """Writes one step's scalars to both."""
    self.show(stage, step, values)
    self.log(stage, step, values)
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self.flush()

  def show(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    """Writes scalars to TensorBoard only."""
    for name, value in values.items():
      if math.isfinite(value := float(value)):
        self._event(stage, _tensorboard().scalar(_tag(name), value), step)

  def log(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    """Writes scalars to `metrics.jsonl` only."""
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
    """Flushes everything written so far to the operating system."""
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
      # Not SummaryWriter, whose `flush` does not wait for its queue: a checkpoint records this
      # file's length (see log_files). The process id is in the name since a run may be resumed
      # within the second that is also in it.
      self._events[stage] = EventsWriter(str(folder / "events"), f".{os.getpid()}")
      if new:
        self._introduce(stage)
    self._events[stage].write_event(Event(summary=values, step=step, wall_time=time.time()))

  def _introduce(self, stage: str) -> None:
    self._event(stage, _tensorboard().custom_scalars(_LAYOUT), 0)
    if self._config is not None:
      # Indented, so that Markdown shows it verbatim.
      lines = json.dumps(self._config, indent=2).splitlines()
      self.text(stage, "config", "\n".join(f"    {line}" for line in lines), 0)
    if self._hyperparameters:
      for part in _tensorboard().hparams(dict(self._hyperparameters), dict.fromkeys(FINAL, 0.0)):
        self._event(stage, part, 0)


@functools.cache
def _tensorboard() -> types.ModuleType:
  """Returns tensorboardX's summaries, imported late because they load cloud storage clients."""
  from tensorboardX import summary

  return summary


def _tag(name: str) -> str:
  for prefix, shown in _FIRST.items():
    if name.startswith(prefix):
      return shown + name.removeprefix(prefix)
  return name


class SilentWriter(MetricWriter):
  """Writes nothing, for all processes of a job but the first."""

  def __init__(self):
    pass

  def _nothing(self, *_) -> None:
    pass

  scalars = show = log = text = figure = flush = close = _nothing


def read_metrics(workdir: pathlib.Path, stage: str) -> list[dict[str, Any]]:
  """Returns the rows of one stage in `metrics.jsonl`, in order, without damaged lines."""
  rows = map(_row, _lines(workdir))
  return [row for row in rows if row is not None and row["stage"] == stage]


def damaged_lines(workdir: pathlib.Path) -> int:
  """Returns the number of lines of `metrics.jsonl` that are not a row of metrics."""
  return sum(_row(line) is None for line in _lines(workdir))


def _lines(workdir: pathlib.Path) -> list[bytes]:
  path = workdir / "metrics.jsonl"
  return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _row(line: bytes) -> dict[str, Any] | None:
  """Parses a line into a stage, a step, and numbers by name; `None` for anything else."""
  try:
    row = json.loads(line)
  except (RecursionError, ValueError):
    return None
  if not isinstance(row, dict) or not isinstance(row.get("stage"), str):
    return None
  values = [value for name, value in row.items() if name not in ("stage", "step")]
  step = row.get("step")
  valid = type(step) is int and 0 <= step < _MOST and all(map(_is_number, values))
  return row if valid else None


def _is_number(value: Any) -> bool:
  """Whether it is a number as `MetricWriter.log` writes it, where NaN is text."""
  if type(value) is int:
    return abs(value) < _MOST
  return type(value) is float or (isinstance(value, str) and value in ("nan", "inf", "-inf"))

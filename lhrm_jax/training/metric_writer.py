"""Writes metrics where people look: TensorBoard events and `metrics.jsonl`."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter


class MetricWriter:
  """One writer per run; stages prefix their scalars, e.g. `hgpo/reward`.

  `metrics.jsonl` holds one object per call of `scalars`: stage, step and the values by name.
  Non-finite values are written there as strings, since JSON has no name for them, and
  left out of the events.
  """

  def __init__(self, workdir: pathlib.Path):
    self._events = SummaryWriter(str(workdir / "tensorboard"), flush_secs=5)
    self._lines = (workdir / "metrics.jsonl").open("a", encoding="utf-8")

  def scalars(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
    """Writes scalars of one step."""
    row: dict[str, Any] = {"stage": stage, "step": step}
    for name, value in values.items():
      value = float(value)
      row[name] = value if math.isfinite(value) else str(value)
      if math.isfinite(value):
        self._events.add_scalar(f"{stage}/{name}", value, step)
    self._lines.write(json.dumps(row) + "\n")
    self._lines.flush()

  def text(self, tag: str, markdown: str, step: int) -> None:
    """Writes a text in Markdown."""
    self._events.add_text(tag, markdown, step)

  def figure(self, tag: str, pixels: np.ndarray, step: int) -> None:
    """Writes a picture, `[height, width, 3]` uint8."""
    self._events.add_image(tag, pixels, step, dataformats="HWC")

  def close(self) -> None:
    self._events.close()
    self._lines.close()


def read_metrics(workdir: pathlib.Path, stage: str) -> list[dict[str, Any]]:
  """The rows of one stage in `metrics.jsonl`, in order; a half-written last line is left out."""
  rows = []
  for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      continue
    if row["stage"] == stage:
      rows.append(row)
  return rows

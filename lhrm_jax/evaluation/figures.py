"""Figures of the report and of TensorBoard, drawn with matplotlib off screen.

matplotlib is imported with the first figure: a command that draws none does not wait for it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lhrm_jax.text import tags

if TYPE_CHECKING:
  from matplotlib.figure import Figure

# One colour per mode everywhere, distinct in grey and to the colour-blind as well.
COLOURS = {"auto": "#1b1b1b", "think": "#c2571a", "no_think": "#2b6cb0"}
LABELS = {"auto": "free choice", "think": "forced think", "no_think": "forced no-think"}
STAGE_LABELS = {
  "hft": "after HFT", "hgpo": "after HGPO", "dpo": "after DPO", "rft": "after RFT"
}  # fmt: skip

Summary = Mapping[str, Any]


def think_rate_over_time(history: Sequence[Mapping[str, Any]]) -> Figure:
  """Think rate of free sampling against training steps, one line per level.

  Args:
    history: rows with "step" and "mode/think_rate/level_N".
  """
  prefix = "mode/think_rate/level_"
  history = [row for row in history if any(name.startswith(prefix) for name in row)]
  names = {name.removeprefix(prefix) for row in history for name in row if name.startswith(prefix)}
  levels = sorted(int(name) for name in names if name.isdecimal())
  figure, axes = make_axes(6.4, 3.8)
  shades = _shades(len(levels))
  steps = [row["step"] for row in history]
  for level, shade in zip(levels, shades, strict=True):
    rates = [float(row.get(f"{prefix}{level}", "nan")) for row in history]
    axes.plot(steps, rates, color=shade, marker=".", label=f"level {level}")
  axes.set(xlabel="training step", ylabel="think rate", ylim=(-0.04, 1.04))
  axes.set_title("When the policy chooses to think")
  if levels:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
  return figure


def accuracy_against_tokens(stages: Mapping[str, Summary]) -> Figure:
  """Accuracy against mean response tokens: forced modes and free choice, before and after."""
  figure, axes = make_axes(6.4, 3.8)
  markers = dict(zip(stages, "os^", strict=False))
  for stage, summary in stages.items():
    for mode, colour in COLOURS.items():
      values = summary[mode]
      label = f"{LABELS[mode]}, {STAGE_LABELS.get(stage, stage)}"
      axes.plot(
        values["mean_tokens"], values["accuracy"], markers[stage], color=colour, label=label,
        markersize=9, markerfacecolor="white" if stage == "hft" else colour,
      )  # fmt: skip
  axes.set(xlabel="mean response tokens", ylabel="accuracy", ylim=(-0.04, 1.04))
  axes.set_xlim(left=0)
  axes.set_title("What an answer costs")
  axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
  return figure


def hybrid_accuracy_bars(stages: Mapping[str, Summary]) -> Figure:
  """Hybrid Accuracy of each stage beside its controls, with Wilson's intervals."""
  controls = ("score", "random", "always_think", "always_no_think")
  names = ("the policy", "random,\nsame rate", "always\nthink", "never\nthink")
  figure, axes = make_axes(6.4, 3.8)
  width = 0.8 / max(len(stages), 1)
  for i, (stage, summary) in enumerate(stages.items()):
    hacc = summary["hacc"]
    heights = [hacc[control] for control in controls]
    at = np.arange(len(controls)) + (i - (len(stages) - 1) / 2) * width
    colour = "#9a9a9a" if stage == "hft" else "#1b1b1b"
    axes.bar(at, heights, width, color=colour, label=STAGE_LABELS.get(stage, stage))
    low, high = hacc["interval"]
    error = [[max(heights[0] - low, 0)], [max(high - heights[0], 0)]]
    axes.errorbar(at[0], heights[0], yerr=error, color="#c2571a", capsize=3)
  axes.set_xticks(np.arange(len(controls)), names)
  axes.set(ylabel="Hybrid Accuracy", ylim=(0, 1.04))
  axes.set_title("How often the better mode was chosen")
  axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
  return figure


def by_level(summary: Summary, title: str) -> Figure:
  """Accuracy of both forced modes and of free choice by level, with the think rate."""
  levels = list(summary["auto"]["by_level"])
  figure, axes = make_axes(6.4, 3.8)
  at = np.arange(len(levels))
  axes.bar(
    at, [summary["auto"]["by_level"][level]["think_rate"] for level in levels], 0.7,
    color="#ececec", label="think rate",
  )  # fmt: skip
  for mode in ("auto", *tags.MODES):
    accuracy = [summary[mode]["by_level"][level]["accuracy"] for level in levels]
    axes.plot(at, accuracy, marker="o", color=COLOURS[mode], label=LABELS[mode])
  axes.set_xticks(at, levels)
  axes.set(xlabel="level", ylabel="accuracy, think rate", ylim=(0, 1.04))
  axes.set_title(title)
  axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
  return figure


def curves(
  rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], title: str, ylabel: str
) -> Figure:
  """Metrics against steps.

  Args:
    rows: rows with "step" and some of the metrics.
    names: labels by metric name.
    title: title of the figure.
    ylabel: label of the y axis.
  """
  figure, axes = make_axes(6.4, 3.2)
  colours = ("#1b1b1b", "#c2571a", "#2b6cb0", "#4f8a5b")
  for (name, label), colour in zip(names.items(), colours, strict=False):
    points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), float)]
    if points:
      axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1.2)
  axes.set(xlabel="step", ylabel=ylabel)
  axes.set_title(title)
  if axes.lines:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
  return figure


def to_png(figure: Figure) -> bytes:
  """The figure as a PNG file."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
  return buffer.getvalue()


def to_pixels(figure: Figure) -> np.ndarray:
  """The figure as `[height, width, 3]` uint8."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3]


def make_axes(width: float, height: float) -> tuple[Figure, Any]:
  """A figure of so many inches and its axes, in the style of them all."""
  from matplotlib.figure import Figure

  # Figure directly, not pyplot: no global state, no memory kept, and safe in any thread.
  figure = Figure(figsize=(width, height), layout="constrained")
  axes = figure.add_subplot()
  axes.spines[["top", "right"]].set_visible(False)
  axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
  axes.set_axisbelow(True)
  return figure, axes


def _shades(count: int) -> list:
  """Colours from light to dark."""
  import matplotlib

  colours = matplotlib.colormaps["viridis_r"]
  return [colours(0.12 + 0.85 * i / max(count - 1, 1)) for i in range(count)]

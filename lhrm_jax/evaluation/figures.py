"""Figures of a run, for its report and for TensorBoard."""

from __future__ import annotations  # figures have the types of matplotlib, which is not loaded yet

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lhrm_jax.evaluation import drawing
from lhrm_jax.evaluation.drawing import COLOURS, GREEN, INK, MUTED, to_pixels
from lhrm_jax.evaluation.hybrid_accuracy import wilson_interval
from lhrm_jax.evaluation.sample_table import SampleTable
from lhrm_jax.text import tags
from lhrm_jax.text.characters import printable

if TYPE_CHECKING:
  from matplotlib.figure import Figure

__all__ = ["COLOURS", "LABELS", "STAGE_LABELS", "to_pixels"]  # names that others use from here

LABELS = {"auto": "free choice", "think": "forced think", "no_think": "forced no-think"}
STAGE_LABELS = {
  "hft": "after HFT", "hgpo": "after HGPO", "dpo": "after DPO", "rft": "after RFT"
}  # fmt: skip

THINK_RATE = "mode/think_rate/level_"  # metric of a level, before its number
Summary = Mapping[str, Any]
Interval = Sequence[float]


@dataclasses.dataclass(frozen=True)
class Point:
  """What an arm costs and achieves.

  Attributes:
    tokens: mean tokens of a reply.
    accuracy: mean score of a reply.
    label: written beside the point; "" for none.
    colour: of the point.
    filled: whether the point is filled; one from before training is hollow.
    interval: 95 % interval of the accuracy.
  """

  tokens: float
  accuracy: float
  label: str
  colour: str = INK
  filled: bool = True
  interval: Interval | None = None


@dataclasses.dataclass(frozen=True)
class Dial:
  """Accuracy against tokens along the values of a dial, or the thresholds of a router.

  Attributes:
    name: of the dial, written beside the line.
    points: (mean tokens, accuracy) in the order of the values.
    colour: of the line.
  """

  name: str
  points: Sequence[tuple[float, float]]
  colour: str = GREEN


def accuracy_against_tokens(stages: Mapping[str, Summary], dials: Sequence[Dial] = ()) -> Figure:
  """Accuracy against mean response tokens of free choice and both forced modes.

  The last stage is filled, earlier ones are hollow; a line joins the free choices.
  """
  names = list(stages)
  points, path = [], []
  for stage, summary in reversed(stages.items()):  # the last one's labels get the nearest places
    last = stage == names[-1]
    for mode, colour in COLOURS.items():
      values = summary[mode]
      label = LABELS[mode] if last else ""
      if mode == "auto" and len(names) > 1:
        label = f"{LABELS[mode]}, {STAGE_LABELS.get(stage, stage)}"
      points.append(
        Point(
          values["mean_tokens"], values["accuracy"], label, colour, last,
          accuracy_interval(values) if last else None,
        )
      )  # fmt: skip
      if mode == "auto":
        path.append((values["mean_tokens"], values["accuracy"]))
  return draw_points(points, [*dials, Dial("", path, MUTED)])


def dials(
  table: SampleTable | None, swept: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> list[Dial]:
  """The dials of one checkpoint, each a line over its values.

  Args:
    table: replies, some of them sampled with a dial.
    swept: points by dial, each with "tokens" and "accuracy", in the order of the values.
  """
  found: dict[str, list] = {}
  for (name, value), (count, score, tokens) in sorted((table.dials if table else {}).items()):
    found.setdefault(name, []).append((value, tokens / count, score / count))
  lines = {name: [point[1:] for point in points] for name, points in found.items()}
  lines |= {
    name: [(p["tokens"], p["accuracy"]) for p in points] for name, points in (swept or {}).items()
  }
  colours = itertools.cycle((GREEN, *drawing.ARMS[4:7]))
  return [
    Dial(_DIALS.get(name, name.replace("_", " ")), points, colour)
    for (name, points), colour in zip(lines.items(), colours, strict=False)
  ]


_DIALS = {
  "tag_bias": "bias on the tag", "threshold": "threshold on p(think)",
  "budget": "thinking budget", "budget_think": "thinking budget, always thinking",
}  # fmt: skip


def draw_points(points: Sequence[Point], dials: Sequence[Dial] = ()) -> Figure:
  """Accuracy against mean response tokens, labelled."""
  figure, axes = drawing.make_axes(
    "What an answer costs", "mean tokens of a reply", "accuracy", percent=True
  )
  dials = [dial for dial in dials if len(dial.points) > 1]
  dial_styles = ("-", "--", "-.", ":")
  labels, of_dials, avoid = [], [], []
  for i, dial in enumerate(dials):
    style = dial_styles[i % len(dial_styles)] if dial.name else ":"
    axes.plot(*zip(*dial.points, strict=True), style, color=dial.colour, linewidth=1.2, zorder=1)
    avoid += _along(dial.points)
    if dial.name:
      others = [p for other in dials if other is not dial for p in _along(other.points)]
      others += [(p.tokens, p.accuracy) for p in points]
      of_dials.append((*_most_apart(dial.points, others), dial.name, dial.colour))
  for p in points:
    error = None if p.interval is None else _error(p.accuracy, p.interval)
    axes.errorbar(
      p.tokens, p.accuracy, yerr=error, fmt="o", color=p.colour, markersize=7, elinewidth=1,
      markerfacecolor=p.colour if p.filled else "#ffffff",
    )  # fmt: skip
    (labels if p.label else avoid).append((p.tokens, p.accuracy, p.label, p.colour))
    if p.interval is not None:
      avoid += [(p.tokens, y) for y in np.linspace(*p.interval, 7)]
  shown = [p.accuracy for p in points] + [y for dial in dials for _, y in dial.points]
  low = min([p.interval[0] for p in points if p.interval] + shown, default=0)
  # Zoomed where all is near the top; the axis then says so by where it starts.
  axes.set_ylim(max(low - 0.12 * (1.02 - low), 0) if low > 0.5 else -0.04, 1.0 + 0.04 * (1 - low))
  axes.set_xlim(0, max([p.tokens for p in points], default=1) * 1.15)
  drawing.label_points(figure, axes, labels + of_dials, [a[:2] for a in avoid])
  return figure


def _along(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """Points along a line, near enough to each other to keep labels off it."""
  return [
    (x0 + t * (x1 - x0), y0 + t * (y1 - y0))
    for (x0, y0), (x1, y1) in itertools.pairwise(points)
    for t in np.linspace(0, 1, 9)
  ]


def _most_apart(
  points: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]
) -> tuple[float, float]:
  """The point of a line that is furthest from all others, where its label is least mistaken."""
  if not others:
    return points[len(points) // 2]
  scale = np.maximum(np.ptp([*points, *others], axis=0), 1e-9)
  apart = np.array(points)[:, None] / scale - np.array(others) / scale
  return points[int(np.argmax(np.linalg.norm(apart, axis=-1).min(axis=1)))]


def accuracy_interval(values: Mapping[str, Any]) -> Interval | None:
  """95 % interval of an accuracy: as evaluated, else Wilson's over the prompts; `None` if unknown.

  Scores between 0 and 1 vary less than a share with their mean, so Wilson's is wide enough.
  """
  if found := values.get("interval", {}).get("accuracy"):
    return found
  prompts = values.get("prompts")
  return wilson_interval(values["accuracy"] * prompts, prompts) if prompts else None


def think_rate_by_level(
  stages: Mapping[str, Summary], better: Mapping[str, float] | None = None
) -> Figure:
  """Think rate of free replies by level, and the share of prompts on which thinking is better.

  Args:
    stages: summaries by stage; the last one is emphasised. Prompts all of one level are grouped
      otherwise, see `grouping`.
    better: shares by level, of the last stage.
  """
  names = list(stages)
  key, group = grouping(stages[names[-1]])
  figure, axes = drawing.make_axes("Where it thinks", group, "share of prompts", share=True)
  levels, line = list(stages[names[-1]]["auto"][key]), "-" if key == "by_level" else ""
  ends = []
  if better and line:
    shares = [better.get(level, math.nan) for level in levels]
    axes.plot(
      range(len(levels)), shares, "D--", color=COLOURS["think"], markersize=6, linewidth=1,
      markerfacecolor="#ffffff", zorder=3,
    )  # fmt: skip
    ends.append((shares[-1], "thinking is better", COLOURS["think"]))
  for i, (stage, summary) in enumerate(stages.items()):
    last = stage == names[-1]
    colour = INK if last else MUTED
    rates = [summary["auto"].get(key, {}).get(level, {}) for level in levels]
    values = [rate.get("think_rate", math.nan) for rate in rates]
    error = np.hstack([
      _error(r["think_rate"], wilson_interval(r["think_rate"] * r["prompts"], r["prompts"]))
      if r.get("prompts") else np.zeros((2, 1))
      for r in rates
    ])  # fmt: skip
    at = np.arange(len(levels)) + 0.06 * (i - (len(names) - 1) / 2)
    axes.errorbar(
      at, values, yerr=error, fmt=f"o{line}", color=colour, linewidth=2 if last else 1,
      elinewidth=1, markersize=5,
    )  # fmt: skip
    ends.append((values[-1], f"thinks, {STAGE_LABELS.get(stage, stage)}", colour))
  _name_groups(axes, levels)
  drawing.label_ends(figure, axes, ends)
  return figure


def grouping(summary: Summary) -> tuple[str, str]:
  """How figures group prompts: key of a summary's modes and name; levels, if there are several."""
  for key in ("by_level", "by_subject", "by_source"):
    if len(summary["auto"].get(key, {})) > 1:
      return key, key.removeprefix("by_")
  return "by_level", "level"


def _name_groups(axes: Any, names: Sequence[str]) -> None:
  long = max(map(len, names), default=0) > 4
  shown = [printable(name, 18) for name in names]
  at = {"rotation": 30, "ha": "right"} if long else {}
  axes.set_xticks(range(len(names)), shown, parse_math=False, **at)


def hybrid_accuracy(stages: Mapping[str, Summary]) -> Figure:
  """Hybrid Accuracy of each stage with Wilson's interval, beside its controls and the ceiling."""
  rows = []
  for stage, summary in stages.items():
    h = summary["hacc"]
    label = f"the policy,\n{STAGE_LABELS.get(stage, stage)}"
    rows.append((label, h["score"], h["interval"], INK))
  rows += [
    ("random choice,\nsame think rate", h["random"], None, MUTED),
    ("always think", h["always_think"], None, COLOURS["think"]),
    ("never think", h["always_no_think"], None, COLOURS["no_think"]),
  ]
  figure, axes = drawing.make_axes(
    "How often the better mode is chosen", "Hybrid Accuracy", "", height=0.7 + 0.42 * len(rows)
  )
  at = np.arange(len(rows))[::-1]
  for y, (_, value, interval, colour) in zip(at, rows, strict=True):
    error = None if interval is None else _error(value, interval)
    axes.errorbar(value, y, xerr=error, fmt="o", color=colour, markersize=7, capsize=3)
    axes.annotate(
      f"{100 * value:.0f} %", (value, y), (0, 7), textcoords="offset points", ha="center",
      color=colour, fontsize=drawing.SIZE,
    )  # fmt: skip
  if h.get("ceiling") is not None:
    axes.axvline(h["ceiling"], color=GREEN, linestyle="--", linewidth=1)
    axes.annotate(
      "ceiling", (h["ceiling"], at[-1] - 0.45), (-3, 0), textcoords="offset points", ha="right",
      color=GREEN, fontsize=drawing.SIZE,
    )  # fmt: skip
  axes.set_yticks(at, [row[0] for row in rows], color=INK)
  axes.set_xticks(np.linspace(0, 1, 6), [f"{20 * i} %" for i in range(6)])
  axes.set(xlim=(-0.03, 1.05), ylim=(-0.6, len(rows) - 0.3))
  axes.grid(visible=False, axis="y")
  axes.grid(axis="x", color=drawing.GRID, linewidth=0.8)
  return figure


def reliability(bins: Sequence[Mapping[str, Any]]) -> Figure:
  """Share of prompts on which thinking is better against p(think), by bin, with the diagonal.

  Args:
    bins: each with "p_think", "think_better", its "interval", and the number of "prompts".
  """
  figure, axes = drawing.make_axes(
    "Does p(think) predict where thinking pays?", "p(think)", "thinking is better", share=True
  )
  axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=1)
  labels = [(0.75, 0.75, "calibrated", MUTED)]
  for b in bins:
    at = b["p_think"], b["think_better"]
    axes.errorbar(
      *at, yerr=_error(at[1], b["interval"]), fmt="o", color=COLOURS["think"], markersize=6,
      elinewidth=1,
    )  # fmt: skip
    labels.append((*at, f"{b['prompts']:,}", COLOURS["think"]))
  axes.set_xlim(-0.03, 1.03)
  axes.set_xticks(np.linspace(0, 1, 6), [f"{20 * i} %" for i in range(6)])
  drawing.label_points(figure, axes, labels, [(x, x) for x in np.linspace(0, 1, 25)])
  return figure


def routers(found: Mapping[str, Any]) -> Figure:
  """Accuracy against tokens of every router over all think rates, and the policy's own choice.

  Args:
    found: by router, "point" and where it ranks prompts "curve".
  """
  curves = {name: entry["curve"] for name, entry in found.items() if entry.get("curve")}
  names: dict[tuple, list[str]] = {}  # routers that rank alike share a line
  for name, curve in curves.items():
    line = tuple((round(p["tokens"], 3), round(p["accuracy"], 4)) for p in curve)
    names.setdefault(line, []).append(router_name(name))
  styles = itertools.cycle((GREEN, *drawing.ARMS[4:]))
  lines = [
    Dial(",\n".join(of), line, colour)
    for (line, of), colour in zip(names.items(), styles, strict=False)
  ]
  points = [
    Point(at["tokens"], at["accuracy"], router_name(name), colour, True, at["accuracy_interval"])
    for name, colour in (
      ("policy", INK),
      ("always", COLOURS["think"]),
      ("never", COLOURS["no_think"]),
    )
    if name in found and (at := found[name]["point"])
  ]
  return draw_points(points, lines)


def router_name(name: str) -> str:
  """How the report calls a router."""
  known = {
    "policy": "the policy", "tag": "the policy's tag", "always": "always think",
    "never": "never think", "random": "random choice", "length": "prompt length",
  }  # fmt: skip
  return known.get(name, name.replace("_", " "))


def by_level(summary: Summary, title: str) -> Figure:
  """Accuracy of both forced modes and of free choice by level, or see `grouping`."""
  key, group = grouping(summary)
  figure, axes = drawing.make_axes(title, group, "accuracy", share=True)
  levels, line = list(summary["auto"][key]), "-" if key == "by_level" else ""
  ends = []
  for mode in (*tags.MODES, "auto"):
    accuracy = [summary[mode].get(key, {}).get(k, {}).get("accuracy", math.nan) for k in levels]
    axes.plot(range(len(levels)), accuracy, f"o{line}", color=COLOURS[mode], markersize=5)
    ends.append((accuracy[-1], LABELS[mode], COLOURS[mode]))
  _name_groups(axes, levels)
  drawing.label_ends(figure, axes, ends)
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
  figure, axes = drawing.make_axes(title, "step", ylabel)
  ends = []
  for (name, label), colour in zip(names.items(), (INK, *drawing.MODES, GREEN), strict=False):
    points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), float)]
    if points:
      axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2)
      ends.append((points[-1][1], label, colour))
  drawing.label_ends(figure, axes, ends)
  return figure


def think_rate_over_time(history: Sequence[Mapping[str, Any]]) -> Figure:
  """Think rate of free sampling against training steps, one line per level.

  Args:
    history: rows with "step" and "mode/think_rate/level_N".
  """
  prefix = THINK_RATE
  history = [row for row in history if any(name.startswith(prefix) for name in row)]
  names = {name.removeprefix(prefix) for row in history for name in row if name.startswith(prefix)}
  levels = sorted(int(name) for name in names if name.isdecimal())
  figure, axes = drawing.make_axes(
    "When the policy chooses to think", "training step", "think rate", share=True
  )
  steps = [row["step"] for row in history]
  ends = []
  for level, shade in zip(levels, drawing.shades(len(levels)), strict=True):
    rates = [float(row.get(f"{prefix}{level}", "nan")) for row in history]
    axes.plot(steps, rates, color=shade, marker=".", linewidth=1.2)
    ends.append((rates[-1], f"level {level}", shade))
  drawing.label_ends(figure, axes, ends)
  return figure


def _error(value: float, interval: Interval) -> np.ndarray:
  """`[2, 1]` distances from a value to the ends of its interval."""
  low, high = interval
  return np.maximum([[value - low], [high - value]], 0)

"""The report of a comparison: `compare.html` (one file), `compare.json`, `compare.md`, figures."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lhrm_jax.evaluation import drawing, figures, page
from lhrm_jax.evaluation.comparison import as_markdown
from lhrm_jax.evaluation.figures import Point
from lhrm_jax.evaluation.headline import MINUS, percent, spoken
from lhrm_jax.evaluation.report import finite
from lhrm_jax.evaluation.report_tables import Cell, Table, duration, number, scientific

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_MARKERS = "os^Dvp"
_NAMES = {
  "accuracy": "accuracy of free replies",
  "hacc": "Hybrid Accuracy",
  "think_rate": "think rate of free replies",
}
_METRICS = {
  "accuracy": "accuracy", "mean_tokens": "tokens", "think_rate": "think rate",
  "hacc": "Hybrid Accuracy",
}  # fmt: skip


def write_comparison(
  folder: pathlib.Path,
  found: Mapping[str, Any],
  *,
  arms: Mapping[str, Mapping[str, Any]],
  failed: Mapping[str, str],
  config: Mapping[str, Any],
  versions: Mapping[str, str],
) -> pathlib.Path:
  """Writes the report of a comparison.

  Args:
    folder: gets the files; figures go into `figures/`.
    found: what `comparison.compare` returns.
    arms: "job" and "overrides" of each arm.
    failed: reasons, by arm and seed.
    config: that all arms share.
    versions: of what decides a result.

  Returns:
    The path of `compare.html`.
  """
  about = {"settings": arms, "failed": failed, "config": config, "versions": versions}
  text = json.dumps(finite({**found, **about}), indent=1)
  (folder / "compare.json").write_text(text + "\n", encoding="utf-8")
  (folder / "compare.md").write_text(as_markdown(found) + "\n", encoding="utf-8")
  drawn = _figures(found)
  (folder / "figures").mkdir(exist_ok=True)
  for name, (figure, _) in drawn.items():
    (folder / "figures" / f"{name}.png").write_bytes(drawing.to_png(figure))
  content = page.render(
    "comparison.html",
    figures={name: drawing.to_svg(figure, name) for name, (figure, _) in drawn.items()},
    captions={name: caption for name, (_, caption) in drawn.items()},
    title=title(found),
    about=_about(found),
    tables=_tables(found),
    arms=arms,
    failed=failed,
    versions=versions,
    config=json.dumps(config, indent=2),
  )
  path = folder / "compare.html"
  page.write(path, content)
  return path


def title(found: Mapping[str, Any]) -> str:
  """Which arm chooses the better mode most often, and by how much it leads."""
  ranked = sorted(found["arms"].items(), key=lambda arm: -arm[1]["metrics"]["hacc"]["mean"])
  shown = [
    f"{percent(arm['metrics']['hacc']['mean'])} ({spoken(arm['metrics']['hacc']['interval'])})"
    for _, arm in ranked[:2]
  ]
  if len(ranked) == 1:
    return f"{ranked[0][0]} chooses the better mode on {shown[0]} of prompts"
  (first, _), (second, _) = ranked[:2]
  return f"{first} chooses the better mode most often: {shown[0]}, then {second}: {shown[1]}"


def _about(found: Mapping[str, Any]) -> str:
  seeds = sorted({len(arm["seeds"]) for arm in found["arms"].values()})
  of_seeds = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
  return (
    f"{len(found['arms'])} arms · {found['prompts']:,} evaluation prompts, the same for all · "
    f"{of_seeds} seed{'' if seeds == [1] else 's'} each"
  )


# ---- Tables


def _tables(found: Mapping[str, Any]) -> dict[str, list[Table]]:
  arms = found["arms"]
  tables = {
    "results": [_results(arms)],
    "differences": [_differences(found["first"], arms)] if len(arms) > 1 else [],
    "cost": [_costs(arms)],
    "levels": [_by_level(found, "think_rate"), _by_level(found, "accuracy")],
  }
  if found["budget"] is not None:
    tables["cost"].append(_at_budget(found))
  return tables


def _results(arms: Mapping[str, Any]) -> Table:
  rows = [
    [name, *(_cell(arm["metrics"][m], m) for m in _METRICS),
     *(percent(arm["hacc"][k]) for k in ("ceiling", "random", "always_think", "always_no_think")),
     percent(arm["neither"], 3)]
    for name, arm in arms.items()
  ]  # fmt: skip
  head = ("arm", *_METRICS.values(), "ceiling", "chance", "always think", "never think",
          "p(neither)")  # fmt: skip
  return Table("Free replies", head, rows)


def _differences(first: str, arms: Mapping[str, Any]) -> Table:
  rows = [
    [name, *(_cell(arm["metrics"][m]["difference"], m, "+") for m in _METRICS)]
    for name, arm in arms.items()
    if "difference" in arm["metrics"]["accuracy"]
  ]
  return Table(f"Paired differences to {first}", ("arm", *_METRICS.values()), rows)


def _costs(arms: Mapping[str, Any]) -> Table:
  rows = [
    [name, duration(arm["cost"]["seconds"] or 0.0), scientific(arm["cost"]["sampled_tokens"]),
     scientific(arm["cost"]["flops"])]
    for name, arm in arms.items()
  ]  # fmt: skip
  head = ("arm", "wall time", "tokens sampled", "FLOPs")
  return Table("Training: FLOPs without padding or recomputation", head, rows)


def _at_budget(found: Mapping[str, Any]) -> Table:
  rows = [
    [name, *(_value(arm["at_budget"].get(m), m) for m in _METRICS)]
    for name, arm in found["arms"].items()
    if arm["at_budget"]
  ]
  caption = f"After {found['budget']:,.0f} sampled tokens, which every arm and seed has reached"
  return Table(caption, ("arm", *_METRICS.values()), rows)


def _by_level(found: Mapping[str, Any], metric: str) -> Table:
  rows = [
    [name, *(percent(arm["by_level"][level][metric]["mean"]) for level in found["levels"])]
    for name, arm in found["arms"].items()
  ]
  head = ("arm", *(f"level {level}" for level in found["levels"]))
  return Table(f"{_NAMES[metric].capitalize()}, by level", head, rows)


def _cell(value: Mapping[str, Any], metric: str, sign: str = "") -> Cell:
  low, high = value["interval"]
  ends = " to ".join(_value(end, metric, sign).removesuffix("\u00a0%") for end in (low, high))
  return _value(value["mean"], metric, sign), ends


def _value(value: float | None, metric: str, sign: str = "") -> str:
  if value is None:
    return "n/a"
  if metric == "mean_tokens":
    shown = f"{value:{sign},.1f}" if sign else number(value)
  else:
    shown = f"{100 * value:{sign}.1f}" + ("" if sign else "\u00a0%")  # a difference in points
  return shown.replace("-", MINUS)


# ---- Figures


def _figures(found: Mapping[str, Any]) -> dict[str, tuple[Figure, tuple[str, str]]]:
  drawn = {
    "accuracy_against_tokens": (
      accuracy_against_tokens(found),
      ("What an answer costs.", "Accuracy against mean tokens of free replies, 95 % intervals."),
    ),
    "think_rate_by_level": (
      think_rate_by_level(found),
      ("Where each arm thinks.", "Think rate of free replies by level, 95 % intervals."),
    ),
    "hybrid_accuracy": (
      hybrid_accuracy(found),
      (
        "How often the better mode is chosen.",
        "95 % intervals; bar: the ceiling, cross: a random choice at the same think rate.",
      ),
    ),
  }
  for metric, name in _NAMES.items():
    if any(metric in point for arm in found["arms"].values() for point in arm["curve"]):
      drawn[f"{metric}_against_sampled_tokens"] = (
        against_sampled_tokens(found, metric),
        (f"{name[0].upper()}{name[1:]} during training.", "Mean and range of the seeds."),
      )
  return drawn


def accuracy_against_tokens(found: Mapping[str, Any]) -> Figure:
  """Accuracy against mean response tokens of free replies, with 95 % intervals."""
  points = [
    Point(
      arm["metrics"]["mean_tokens"]["mean"], arm["metrics"]["accuracy"]["mean"], name,
      style["color"], True, arm["metrics"]["accuracy"]["interval"],
    )
    for (name, arm), style in zip(found["arms"].items(), _styles(), strict=False)
  ]  # fmt: skip
  return figures.draw_points(points)


def hybrid_accuracy(found: Mapping[str, Any]) -> Figure:
  """Hybrid Accuracy of each arm with its 95 % interval, its ceiling and chance."""
  arms = found["arms"]
  figure, axes = drawing.make_axes(
    "How often the better mode is chosen", "Hybrid Accuracy", "", height=0.8 + 0.28 * len(arms)
  )
  at = np.arange(len(arms))[::-1]
  for y, arm, style in zip(at, arms.values(), _styles(), strict=False):
    hacc = arm["metrics"]["hacc"]
    axes.errorbar(hacc["mean"], y, xerr=_error(hacc), capsize=3, markersize=6, **style)
  for name, marker in (("ceiling", "|"), ("random", "x")):
    points = [(arm["hacc"][name], y) for y, arm in zip(at, arms.values(), strict=True)]
    shown = [(x, y) for x, y in points if x is not None]
    if shown:
      axes.scatter(*zip(*shown, strict=True), marker=marker, color=drawing.MUTED, s=60)
  axes.set_yticks(at, list(map(drawing.plain, arms)), color=drawing.INK, parse_math=False)
  axes.set_xticks(np.linspace(0, 1, 6), [f"{20 * i} %" for i in range(6)])
  axes.set(xlim=(0, 1.04), ylim=(-0.6, len(arms) - 0.4))
  axes.grid(visible=False, axis="y")
  axes.grid(axis="x", color=drawing.GRID, linewidth=0.8)
  return figure


def think_rate_by_level(found: Mapping[str, Any]) -> Figure:
  """Think rate of free replies by level, a line per arm, with 95 % intervals."""
  figure, axes = drawing.make_axes("Where each arm thinks", "level", "think rate", share=True)
  at = np.arange(len(found["levels"]))
  width = 0.3 / max(len(found["arms"]), 1)
  ends = []
  for i, ((name, arm), style) in enumerate(zip(found["arms"].items(), _styles(), strict=False)):
    rates = [arm["by_level"][level]["think_rate"] for level in found["levels"]]
    error = np.hstack([_error(rate) for rate in rates])
    axes.errorbar(
      at + i * width - 0.15, [rate["mean"] for rate in rates], yerr=error, linewidth=1.2,
      elinewidth=0.7, markersize=4, **style,
    )  # fmt: skip
    ends.append((rates[-1]["mean"], name, style["color"]))
  axes.set_xticks(at, found["levels"])
  drawing.label_ends(figure, axes, ends)
  return figure


def against_sampled_tokens(found: Mapping[str, Any], metric: str) -> Figure:
  """A metric against the tokens sampled in training: mean, and range, over the seeds."""
  figure, axes = drawing.make_axes(
    "At equal budgets: mean and range of the seeds", "sampled tokens, thousands", _NAMES[metric],
    share=True,
  )  # fmt: skip
  ends = []
  for (name, arm), style in zip(found["arms"].items(), _styles(), strict=False):
    points = [(p["sampled_tokens"] / 1000, *p[metric]) for p in arm["curve"] if metric in p]
    if not points:
      continue
    tokens, mean, least, most = zip(*points, strict=True)
    axes.plot(tokens, mean, linewidth=1.4, markersize=4, **style)
    axes.fill_between(tokens, least, most, color=style["color"], alpha=0.12, linewidth=0)
    ends.append((mean[-1], name, style["color"]))
  if found["budget"] is not None:
    axes.axvline(found["budget"] / 1000, color=drawing.MUTED, linestyle=":", linewidth=1)
  drawing.label_ends(figure, axes, ends)
  return figure


def _styles():
  """A colour and a marker for each arm in turn, without end."""
  for i in itertools.count():
    marker = _MARKERS[(i + i // len(drawing.ARMS)) % len(_MARKERS)]
    yield {"color": drawing.ARMS[i % len(drawing.ARMS)], "marker": marker}


def _error(value: Mapping[str, Any]) -> np.ndarray:
  """`[2, 1]` distances from the mean to the ends of its interval."""
  low, high = value["interval"]
  return np.maximum([[value["mean"] - low], [high - value["mean"]]], 0)

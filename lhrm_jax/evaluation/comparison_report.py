"""The report of a comparison: `compare.html` (one file), `compare.json`, `compare.md`, figures."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lhrm_jax.evaluation import figures
from lhrm_jax.evaluation.comparison import as_markdown
from lhrm_jax.evaluation.report import finite, render

if TYPE_CHECKING:
  from matplotlib.figure import Figure

# Of Okabe and Ito, distinct to the colour-blind; after these, again with other markers.
_COLOURS = ("#1b1b1b", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_MARKERS = "os^Dvp"
_NAMES = {
  "accuracy": "accuracy of free replies",
  "hacc": "Hybrid Accuracy",
  "think_rate": "think rate of free replies",
}


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
  pictures = {name: figures.to_png(figure) for name, figure in _figures(found).items()}
  (folder / "figures").mkdir(exist_ok=True)
  for name, png in pictures.items():
    (folder / "figures" / f"{name}.png").write_bytes(png)
  page = render(
    "comparison.html", pictures, found=found, arms=arms, failed=failed, versions=versions,
    config=json.dumps(config, indent=2),
  )  # fmt: skip
  path = folder / "compare.html"
  path.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
  return path


def _figures(found: Mapping[str, Any]) -> dict[str, Figure]:
  drawn = {
    "accuracy_against_tokens": accuracy_against_tokens(found),
    "hybrid_accuracy": hybrid_accuracy(found),
    "think_rate_by_level": think_rate_by_level(found),
  }
  for metric in _NAMES:
    if any(metric in point for arm in found["arms"].values() for point in arm["curve"]):
      drawn[f"{metric}_against_sampled_tokens"] = against_sampled_tokens(found, metric)
  return drawn


def accuracy_against_tokens(found: Mapping[str, Any]) -> Figure:
  """Accuracy against mean response tokens of free replies, with 95 % intervals."""
  figure, axes = figures.make_axes(6.4, 3.8)
  for (name, arm), style in zip(found["arms"].items(), _styles(), strict=False):
    x, y = arm["metrics"]["mean_tokens"], arm["metrics"]["accuracy"]
    axes.errorbar(
      x["mean"], y["mean"], xerr=_error(x), yerr=_error(y), label=name, capsize=2, linestyle="",
      markersize=7, elinewidth=0.9, **style,
    )  # fmt: skip
  axes.set(xlabel="mean response tokens", ylabel=_NAMES["accuracy"])
  axes.set_xlim(left=0)
  axes.set_title("What an answer costs")
  return _with_legend(figure, axes)


def hybrid_accuracy(found: Mapping[str, Any]) -> Figure:
  """Hybrid Accuracy of each arm with its 95 % interval, its ceiling and chance."""
  arms = found["arms"]
  figure, axes = figures.make_axes(6.4, 1.2 + 0.34 * len(arms))
  at = np.arange(len(arms))[::-1]
  for y, arm, style in zip(at, arms.values(), _styles(), strict=False):
    hacc = arm["metrics"]["hacc"]
    axes.errorbar(hacc["mean"], y, xerr=_error(hacc), capsize=3, markersize=6, **style)
  for name, marker, label in (("ceiling", "|", "ceiling"), ("random", "x", "chance, same rate")):
    points = [(arm["hacc"][name], y) for y, arm in zip(at, arms.values(), strict=True)]
    shown = [(x, y) for x, y in points if x is not None]
    if shown:
      axes.scatter(*zip(*shown, strict=True), marker=marker, color="#7f7f7f", s=60, label=label)
  axes.set_yticks(at, list(arms))
  axes.set(xlabel="Hybrid Accuracy", xlim=(0, 1.02), ylim=(-0.6, len(arms) - 0.4))
  axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
  axes.set_title("How often the better mode is chosen")
  return _with_legend(figure, axes)


def think_rate_by_level(found: Mapping[str, Any]) -> Figure:
  """Think rate of free replies by level, a line per arm, with 95 % intervals."""
  figure, axes = figures.make_axes(6.4, 3.8)
  at = np.arange(len(found["levels"]))
  width = 0.3 / max(len(found["arms"]), 1)
  for i, ((name, arm), style) in enumerate(zip(found["arms"].items(), _styles(), strict=False)):
    rates = [arm["by_level"][level]["think_rate"] for level in found["levels"]]
    error = np.hstack([_error(rate) for rate in rates])
    axes.errorbar(
      at + i * width - 0.15, [rate["mean"] for rate in rates], yerr=error, label=name, capsize=2,
      linewidth=1.2, elinewidth=0.7, markersize=4, **style,
    )  # fmt: skip
  axes.set_xticks(at, found["levels"])
  axes.set(xlabel="level", ylabel=_NAMES["think_rate"], ylim=(-0.04, 1.04))
  axes.set_title("Where each method thinks")
  return _with_legend(figure, axes)


def against_sampled_tokens(found: Mapping[str, Any], metric: str) -> Figure:
  """A metric against the tokens sampled in training: mean, and range, over the seeds."""
  figure, axes = figures.make_axes(6.4, 3.8)
  for (name, arm), style in zip(found["arms"].items(), _styles(), strict=False):
    points = [(p["sampled_tokens"] / 1000, *p[metric]) for p in arm["curve"] if metric in p]
    if not points:
      continue
    tokens, mean, least, most = zip(*points, strict=True)
    axes.plot(tokens, mean, label=name, linewidth=1.4, markersize=4, **style)
    axes.fill_between(tokens, least, most, color=style["color"], alpha=0.12, linewidth=0)
  if found["budget"] is not None:
    axes.axvline(found["budget"] / 1000, color="#bbbbbb", linestyle=":", linewidth=1)
  axes.set(xlabel="sampled tokens, thousands", ylabel=_NAMES[metric], ylim=(-0.04, 1.04))
  axes.set_title("At equal budgets: mean and range of the seeds")
  return _with_legend(figure, axes)


def _styles():
  """A colour and a marker for each arm in turn, without end."""
  for i in itertools.count():
    marker = _MARKERS[(i + i // len(_COLOURS)) % len(_MARKERS)]
    yield {"color": _COLOURS[i % len(_COLOURS)], "marker": marker}


def _error(value: Mapping[str, Any]) -> np.ndarray:
  """`[2, 1]` distances from the mean to the ends of its interval."""
  low, high = value["interval"]
  return np.maximum([[value["mean"] - low], [high - value["mean"]]], 0)


def _with_legend(figure: Figure, axes: Any) -> Figure:
  if axes.get_legend_handles_labels()[0]:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
  return figure

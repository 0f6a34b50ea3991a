"""Tables of README and docs, generated from the JSON of the runs that they report.

    python -m benchmarks.results                      # rewrites every marked table
    python -m benchmarks.results --collect RUN ... --out docs/results/arithmetic.json

A marked table stands between `<!-- results: NAME -->` and `<!-- end -->`. Figures that two pages
quote come from one file below docs/results, so that they cannot disagree; a test fails where a page
is not what this command would write.
"""

import argparse
import json
import pathlib
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.adapters import adapters_table
from benchmarks.comparison_results import guessing_table, starts_table
from benchmarks.data_results import buckets_table, preparation_table
from benchmarks.router_results import dials_table, routers_tables
from benchmarks.serving_results import (
  handover_table,
  latency_table,
  load_table,
  machine_line,
  precision_table,
)
from benchmarks.smollm2_results import cells_table, over_time_table, summary_table
from benchmarks.suite_results import suites_table
from lhrm_jax.evaluation.comparison import as_markdown

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
_MARKED = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# Figures kept of each mode of a stage, and of its Hybrid Accuracy.
_OF_MODE = ("accuracy", "mean_tokens", "think_rate", "malformed_rate")
_OF_HACC = ("score", "interval", "expected_score", "ceiling", "random")


def record(run: pathlib.Path) -> dict[str, Any]:
  """Returns the figures of one run folder that the tables need, a few hundred bytes.

  Args:
    run: a folder that `experiments.hgpo` has finished in.
  """
  summary = json.loads((run / "report" / "summary.json").read_text(encoding="utf-8"))
  hft = json.loads((run / "evaluation" / "hft.json").read_text(encoding="utf-8"))
  return {
    "seed": summary["config"]["seed"],
    "hft_steps": hft["key"]["step"],
    "seconds": {name: round(value, 1) for name, value in summary["seconds"].items()},
    "versions": summary["versions"],
    "stages": {name: _stage(values) for name, values in summary["stages"].items()},
  }


def _stage(values: dict[str, Any]) -> dict[str, Any]:
  by_level = values["auto"]["by_level"]
  neither = [v["neither"] for v in values["first_token"]["by_level"].values()]
  return {
    **{mode: {name: values[mode][name] for name in _OF_MODE} for mode in _MODES},
    "hacc": {name: values["hacc"][name] for name in _OF_HACC},
    "think_rate_by_level": {level: v["think_rate"] for level, v in by_level.items()},
    "neither_worst": max(neither),
  }


_MODES = ("auto", "think", "no_think")


# ---- Tables


def _column(runs: Sequence[dict[str, Any]], stage: str, *path: str) -> np.ndarray:
  def get(value: Any) -> float:
    for key in path:
      value = value[key]
    return value

  return np.array([get(run["stages"][stage]) for run in runs])


def _spread(values: np.ndarray) -> str:
  return f"{values.mean():.3f} ({values.min():.3f}, {values.max():.3f})"


def _wrapped(text: str) -> str:
  return textwrap.fill(text, 100, break_on_hyphens=False)


def arithmetic_summary(results: dict[str, Any]) -> str:
  """Both stages of the demo over all seeds, with a summary in words."""
  runs = results["runs"]

  def row(name: str, show: Callable[[np.ndarray], str], *path: str) -> str:
    cells = (show(_column(runs, stage, *path)) for stage in ("hft", "hgpo"))
    return f"| {name} | {' | '.join(cells)} |"

  def rates(stage: str) -> str:
    levels = [_column(runs, stage, "think_rate_by_level", str(k)) for k in range(1, 7)]
    return f"{np.mean(levels[:2]):.2f} / {np.mean(levels[2:]):.2f}"

  free, think = (_column(runs, "hgpo", mode, "accuracy") for mode in ("auto", "think"))
  behind = 100 * (think - free).max()
  tokens = [_column(runs, "hgpo", mode, "mean_tokens").mean() for mode in ("auto", "think")]
  seconds = results["demo_seconds"]
  lines = [
    "| | after HFT | after HGPO |",
    "|---|---|---|",
    row("Hybrid Accuracy, mean (least, most)", _spread, "hacc", "score"),
    row("the same, the first token sampled at temperature 1", _spread, "hacc", "expected_score"),
    row("accuracy, mode left free", lambda x: f"{x.mean():.3f}", "auto", "accuracy"),
    row("accuracy, thinking forced", lambda x: f"{x.mean():.3f}", "think", "accuracy"),
    row("tokens per reply, mode left free", lambda x: f"{x.mean():.1f}", "auto", "mean_tokens"),
    f"| think rate on levels 1, 2 / 3 to 6 | {rates('hft')} | {rates('hgpo')} |",
    row("p(first token is neither tag), worst level of any seed",
        lambda x: f"{x.max():.4f}", "neither_worst"),
    "",
    _wrapped(
      f"A random choice at the same think rate would score "
      f"{_column(runs, 'hgpo', 'hacc', 'random').mean():.2f}. In every seed free choice is within "
      f"{behind:.1f} points of forced thinking, at {1 - tokens[0] / tokens[1]:.0%} fewer tokens. "
      f"A run takes {seconds['total']:.0f} s on {results['hardware']} (HFT {seconds['hft']:.0f} s, "
      f"HGPO {seconds['hgpo']:.0f} s, evaluation {seconds['evaluation']:.0f} s), "
      "compiling included."
    ),
  ]  # fmt: skip
  return "\n".join(lines)


def arithmetic_seeds(results: dict[str, Any]) -> str:
  """The demo seed by seed, beside the literal form of the first token."""
  head = ("seed", "HFT steps", "HAcc after HFT", "HAcc", "interval", "HAcc, first token sampled",
          "ceiling", "free", "forced think", "forced no-think", "p(neither)", "HAcc, literal",
          "p(neither), literal")  # fmt: skip
  lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
  for run, literal in zip(results["runs"], results["literal"], strict=True):
    hft, hgpo = run["stages"]["hft"], run["stages"]["hgpo"]
    low, high = hgpo["hacc"]["interval"]
    cells = [
      str(run["seed"]), str(run["hft_steps"]), f"{hft['hacc']['score']:.3f}",
      f"{hgpo['hacc']['score']:.3f}", f"{low:.3f} to {high:.3f}",
      f"{hgpo['hacc']['expected_score']:.3f}", f"{hgpo['hacc']['ceiling']:.3f}",
      *(f"{hgpo[mode]['accuracy']:.3f}" for mode in _MODES), f"{hgpo['neither_worst']:.4f}",
      f"{literal['hacc']:.3f}", f"{literal['neither_worst']:.4f}",
    ]  # fmt: skip
    lines.append(f"| {' | '.join(cells)} |")
  ours = _column(results["runs"], "hgpo", "hacc", "score")
  theirs = np.array([literal["hacc"] for literal in results["literal"]])
  apart = ours - theirs
  error = apart.std(ddof=1) / len(apart) ** 0.5
  ceiling = _column(results["runs"], "hgpo", "hacc", "ceiling")
  lines += [
    "",
    _wrapped(
      f"Over the {len(ours)} seeds HAcc is {ours.mean():.3f}, literally {theirs.mean():.3f}: a "
      f"difference of {apart.mean():+.3f} with a standard error of {error:.3f}. An oracle could "
      f"expect {ceiling.min():.3f} to {ceiling.max():.3f}, the ceiling."
    ),
  ]
  return "\n".join(lines)


def compare_short(results: dict[str, Any]) -> str:
  """What each method comes to on the demo's task, a line each."""
  head = ("method", "accuracy", "tokens", "think rate on levels 1, 2 / 3 / 4 to 6",
          "HAcc (95 % interval)", "sampled tokens", "p(first token is neither tag)")  # fmt: skip
  lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
  for name, arm in results["arms"].items():
    of = arm["metrics"]
    rates = [arm["by_level"][str(level)]["think_rate"]["mean"] for level in range(1, 7)]
    shown = " / ".join(f"{np.mean(part):.2f}" for part in (rates[:2], rates[2:3], rates[3:]))
    low, high = of["hacc"]["interval"]
    lines.append(
      f"| `{name}` | {of['accuracy']['mean']:.3f} | {of['mean_tokens']['mean']:.1f} | {shown} | "
      f"{of['hacc']['mean']:.3f} ({low:.3f}, {high:.3f}) | {arm['cost']['sampled_tokens']:,.0f} | "
      f"{arm['neither']:.4f} |"
    )
  return "\n".join(lines)


def _peers(results: dict[str, Any], mix: str, title: str) -> str:
  columns = ("rollout_seconds", "sampled_tokens_per_second", "rollout_over_ours", "update_seconds",
             "step_seconds", "step_over_ours")  # fmt: skip
  head = ("rollout, s", "sampled tokens/s", "x ours", "update, s", "step, s", "x ours")
  lines = [f"| {title} | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
  for library, figures in results["mixes"][mix].items():
    cells = [
      "" if name not in figures
      else f"{figures[name]:,}" if name == "sampled_tokens_per_second"
      else f"{figures[name]:.2f}"
      for name in columns
    ]  # fmt: skip
    lines.append(f"| {library} | {' | '.join(cells)} |")
  return "\n".join(lines)


def peers_tables(results: dict[str, Any]) -> str:
  """A step and its rollout beside other libraries, for each mix of lengths that was measured."""
  titles = {
    "hybrid": "hybrid mix: half of each group ends after an eighth",
    "lognormal": "log-normal lengths, medians of a quarter and a 24th of the longest",
    "full": "all rows at full length",
  }
  tables = [_peers(results, mix, title) for mix, title in titles.items() if mix in results["mixes"]]
  return "\n\n".join(tables)


def peers_summary(results: dict[str, Any]) -> str:
  """One sentence for the README."""
  hybrid = results["mixes"]["hybrid"]
  steps = [
    f"{v['step_over_ours']:.1f} times as long in {library.split()[0]}"
    for library, v in hybrid.items()
    if "step_over_ours" in v
  ]
  return _wrapped(f"On {results['hardware']} a step of the hybrid mix takes {' and '.join(steps)}.")


def gpu_table(results: dict[str, Any]) -> str:
  """What one GPU reaches of its ceilings, and the hardware that the figures are of."""
  machine = results["machine"]
  lines = ["| at | seconds | share of the roofline | also |", "|---|---|---|---|"]

  def row(name: str, figure: dict[str, Any], also: str) -> None:
    share = f"{figure['roofline_share']:.0%} ({figure['bound']})" if "bound" in figure else ""
    lines.append(f"| {name} | {figure['seconds']:.3f} | {share} | {also} |")

  for rows in (64, 256):
    part = results[f"decode_batch_{rows}"]
    also = f"{part['decode_tokens_per_second']:,.0f} tokens/s"
    row(f"1.5B, decoding, {rows} rows, 1,024 tokens", part["decode"], also)
    row(f"1.5B, prefill of {rows // 8} x 512 tokens", part["prefill"], "")
  for remat in ("dots", "full"):
    part = results[f"hft_remat_{remat}"]
    also = f"MFU {part['mfu']:.0%}, {part['tokens_per_second']:,.0f} tokens/s"
    row(f"1.5B, HFT, 4 x 4,096 packed, `remat={remat}`", part, also)
  for mix in ("hybrid", "full"):
    part = results["hgpo_step"][mix]
    also = f"MFU {part['mfu']:.0%}, {part['samples_per_second']:.0f} responses/s"
    row(f"0.5B, HGPO step, {mix}", {**part["step"], "bound": "sum of the parts"}, also)
    for name in ("decode", "logprob", "update"):
      row(f"0.5B, its {name}, {mix}", part[name], "")
  ceiling = machine["ceilings"]
  lines += [
    "",
    _wrapped(
      f"{machine['device']}, driver {machine['driver']}, CUDA {machine['cuda']}, cuDNN "
      f"{machine['cudnn']}, jax {machine['jax']}, flax {machine['flax']}; bfloat16; "
      f"`XLA_FLAGS={results['xla_flags']}`; medians of 3. Ceilings are the {ceiling['source']}'s: "
      f"{ceiling['flops'] / 1e12:.0f} TFLOP/s, {ceiling['bandwidth'] / 1e12:.1f} TB/s."
    ),
    "",
    "| bfloat16 against float32, 0.5B | difference | bound |",
    "|---|---|---|",
  ]
  for name, entry in results["check"].items():
    if isinstance(entry, dict):
      lines.append(f"| {name.replace('_', ' ')} | {entry['value']:.2g} | {entry['bound']} |")
  return "\n".join(lines)


# By the name in the marker: the file below docs/results, and what is written from it.
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
  "gpu": ("h200/gpu.json", gpu_table),
  "smollm2-summary": ("smollm2_135m/summary.json", summary_table),
  "smollm2-cells": ("smollm2_135m/summary.json", cells_table),
  "smollm2-over-time": ("smollm2_135m/summary.json", over_time_table),
  "smollm2-adapters": ("smollm2_135m/adapters.json", adapters_table),
  "smollm2-cpu-short": ("smollm2_135m/cpu.json", lambda r: summary_table(r, short=True)),
  "smollm2-cpu-summary": ("smollm2_135m/cpu.json", summary_table),
  "smollm2-cpu-cells": ("smollm2_135m/cpu.json", cells_table),
  "smollm2-cpu-over-time": ("smollm2_135m/cpu.json", over_time_table),
  "arithmetic-summary": ("arithmetic.json", arithmetic_summary),
  "arithmetic-seeds": ("arithmetic.json", arithmetic_seeds),
  "compare-arithmetic": ("compare_arithmetic.json", as_markdown),
  "compare-short": ("compare_arithmetic.json", compare_short),
  "compare-ablations": ("compare_ablations.json", compare_short),
  "compare-guessing": ("compare_guessing.json", guessing_table),
  "compare-starts": ("compare_starts.json", starts_table),
  "routers-arithmetic": ("routing_arithmetic.json", routers_tables),
  "dials-arithmetic": ("routing_arithmetic.json", dials_table),
  "serving-machine": ("serving.json", machine_line),
  "serving-latency": ("serving.json", latency_table),
  "serving-precision": ("serving.json", precision_table),
  "serving-handover": ("serving.json", handover_table),
  "serving-load": ("serving.json", load_table),
  "smollm2-suites": ("smollm2_135m/suites.json", suites_table),
  "data-preparation": ("data.json", preparation_table),
  "buckets": ("buckets.json", buckets_table),
  "peers": ("peers.json", peers_tables),
  "peers-summary": ("peers.json", peers_summary),
}


def rendered(page: str) -> str:
  """A page with every marked table written anew.

  Raises:
    ValueError: a marker names no table.
  """

  def write(found: re.Match[str]) -> str:
    begin, name, end = found.groups()
    if name not in TABLES:
      raise ValueError(f"<!-- results: {name} -->: the tables are {', '.join(sorted(TABLES))}.")
    file, table = TABLES[name]
    results = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    return f"{begin}{table(results)}\n{end}"

  return _MARKED.sub(write, page)


def pages() -> list[pathlib.Path]:
  """README and docs."""
  return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--collect", nargs="+", type=pathlib.Path, help="run folders to read")
  parser.add_argument("--out", type=pathlib.Path, help="where --collect writes its JSON")
  args = parser.parse_args(argv)
  if bool(args.collect) != bool(args.out):
    parser.error("--collect and --out go together")
  if args.collect:
    runs = [record(run) for run in args.collect]
    args.out.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")
    return
  for page in pages():
    before = page.read_text(encoding="utf-8")
    if (after := rendered(before)) != before:
      page.write_text(after, encoding="utf-8")
      print(f"{page.relative_to(ROOT)}: tables written anew")


if __name__ == "__main__":
  main()

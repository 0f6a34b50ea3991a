"""SmolLM2-135M before and after HGPO: what its pages show, from the files of its runs.

    python -m benchmarks.smollm2_results HFT HGPO --routers ROUTERS_HFT ROUTERS_HGPO \\
        --hardware 'two cores of ...' --out docs/results/smollm2_135m/cpu.json

`HFT` and `HGPO` are run folders, `ROUTERS_*` workdirs of `experiments.routers` that evaluate them;
without these, the rows of routers are left out.
`benchmarks.results` writes the tables.
"""

import argparse
import json
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.router_results import record as routing_record
from lhrm_jax.runs.metric_writer import read_metrics

_STAGES = ("hft", "hgpo")
_MODES = ("auto", "think", "no_think")
_OF_MODE = ("accuracy", "mean_tokens", "think_rate", "malformed_rate", "prompts")


def record(
  runs: Mapping[str, pathlib.Path], routers: Mapping[str, pathlib.Path], hardware: str
) -> dict[str, Any]:
  """What the tables need.

  Args:
    runs: folders of the HFT run and of the HGPO run that started from it, by stage.
    routers: workdirs of `experiments.routers`, by stage; may be empty.
    hardware: what the runs were on.
  """
  summaries = {name: _json(run / "report" / "summary.json") for name, run in runs.items()}
  metrics = {name: read_metrics(run, name) for name, run in runs.items()}
  last = {name: max(row["step"] for row in rows) for name, rows in metrics.items()}
  c = summaries["hft"]["config"]["hft"]
  routed = {name: routing_record(folder, name) for name, folder in routers.items()}
  seconds = {name: summaries[name]["seconds"][name] for name in _STAGES}
  return {
    "hardware": hardware,
    "versions": summaries["hgpo"]["versions"],
    "seconds": seconds | {"evaluation": summaries["hgpo"]["seconds"]["evaluation"]},
    "seed": summaries["hft"]["config"]["seed"],
    "hft_steps": last["hft"],
    "hgpo_steps": last["hgpo"],
    "demonstrations": last["hft"] * (c["think_per_step"] + c["no_think_per_step"]),
    "routing": {
      name: found["routing"] | {"calibration": found["calibration"]}
      for name, found in routed.items()
    },
    "stages": {name: _stage(runs["hgpo"] / "evaluation" / f"{name}.json") for name in _STAGES},
    "hft_trajectory": [
      {"step": row["step"], **{key: row[key] for key in row if key.startswith("eval/")}}
      for row in metrics["hft"]
      if any(key.startswith("eval/") for key in row)
    ],
    "hgpo_trajectory": [_over_time(row) for row in metrics["hgpo"] if "mode/think_rate" in row],
  }


def _json(path: pathlib.Path) -> Any:
  return json.loads(path.read_text(encoding="utf-8"))


def _stage(path: pathlib.Path) -> dict[str, Any]:
  """One evaluation: by mode, its Hybrid Accuracy, and by family and level."""
  summary = _json(path)["summary"]
  first = summary["first_token"]
  return {
    **{mode: {name: summary[mode][name] for name in _OF_MODE} for mode in _MODES},
    "hacc": summary["hacc"],
    "calibration": {name: x for name, x in summary["calibration"].items() if name != "bins"},
    "minus_always_think": summary["differences"]["auto-think"],
    "think_rate_by_level": {
      level: of["think_rate"] for level, of in summary["auto"]["by_level"].items()
    },
    "neither": first["neither"],
    "cells": _cells(path.with_suffix(""), summary),
  }


def _cells(evaluation: pathlib.Path, summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
  """Both modes, and the choice between them, by family and level."""
  with (evaluation / "prompts.jsonl").open(encoding="utf-8") as file:
    prompts = [json.loads(line) for line in file]
  auto, think, no_think = (summary[mode]["by_source_and_level"] for mode in _MODES)
  cells = {}
  for family in sorted(auto):
    for level in sorted(auto[family]):
      inside = [p for p in prompts if (p["source"], str(p["level"])) == (family, level)]
      forced = {"think": think[family][level], "no_think": no_think[family][level]}
      cells[f"{family} {level}"] = {
        **{f"{mode}_accuracy": values["accuracy"] for mode, values in forced.items()},
        **{f"{mode}_tokens": values["mean_tokens"] for mode, values in forced.items()},
        "think_rate": auto[family][level]["think_rate"],
        "p_think": sum(p["p_think"] for p in inside) / len(inside),
        "prompts": len(inside),
      }
  return cells


def _over_time(row: Mapping[str, Any]) -> dict[str, Any]:
  """One evaluation of the free choice during HGPO."""
  by_level = "mode/think_rate/level_"
  return {
    "step": row["step"],
    "accuracy": row["eval/accuracy"],
    "mean_tokens": row["eval/mean_tokens"],
    "think_rate": row["mode/think_rate"],
    "think_rate_by_level": {
      name.removeprefix(by_level): rate for name, rate in row.items() if name.startswith(by_level)
    },
  }


# ---- Tables


def _with_interval(value: float, interval: Sequence[float]) -> str:
  return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def summary_table(results: dict[str, Any], short: bool = False) -> str:
  """SmolLM2-135M before and after HGPO, with controls; `short` for the README."""
  stages = results["stages"]

  def row(name: str, show: Callable[[dict[str, Any]], str]) -> str:
    return f"| {name} | {' | '.join(show(stages[stage]) for stage in ('hft', 'hgpo'))} |"

  def mode(name: str, key: str) -> Callable[[dict[str, Any]], str]:
    return lambda stage: f"{stage[name][key]:{'.1f' if key == 'mean_tokens' else '.3f'}}"

  def hacc(stage: dict[str, Any]) -> str:
    return _with_interval(stage["hacc"]["score"], stage["hacc"]["interval"])

  def levels(stage: dict[str, Any]) -> str:
    return " / ".join(f"{rate:.2f}" for rate in stage["think_rate_by_level"].values())

  name = "Hybrid Accuracy (95 % interval)"
  lines = ["| | after HFT | after HGPO |", "|---|---|---|", row(name, hacc)]
  for key, name in (
    ("ceiling", "its ceiling"), ("always_think", "HAcc of always thinking"),
    ("always_no_think", "HAcc of never thinking"), ("random", "HAcc of chance at this think rate"),
  )[3 if short else 0 :]:  # fmt: skip
    lines.append(row(name, lambda stage, key=key: f"{stage['hacc'][key]:.3f}"))
  if not short:
    routers = results["routing"].get("hgpo", {"routers": {}})["routers"]
    for key in ("length", "keywords", "logistic", "fasttext", "family"):
      if key not in routers:
        continue
      points = (results["routing"][stage]["routers"][key]["point"] for stage in ("hft", "hgpo"))
      cells = (_with_interval(at["hacc"], at["hacc_interval"]) for at in points)
      lines.append(f"| HAcc of the router `{key}`, same think rate | {' | '.join(cells)} |")
    found = (_calibration(results, stage) for stage in ("hft", "hgpo"))
    cells = (_with_interval(c["auroc"], c["auroc_interval"]) for c in found)
    lines.append(f"| AUROC of p(think) | {' | '.join(cells)} |")
  for key, title in (("accuracy", "accuracy"), ("mean_tokens", "tokens per reply")):
    for name, words in (("auto", "mode left free"), ("think", "thinking forced"),
                        ("no_think", "no thinking forced")):  # fmt: skip
      lines.append(row(f"{title}, {words}", mode(name, key)))
  known = " / ".join(stages["hft"]["think_rate_by_level"])
  lines.append(row(f"think rate on levels {known}", levels))
  if not short:
    lines.append(row("think rate", mode("auto", "think_rate")))
    lines.append(row("p(first token is neither tag)", lambda stage: f"{stage['neither']:.4f}"))
  seconds = results["seconds"]
  said = (
    f"One seed, {stages['hgpo']['auto']['prompts']} held-out prompts. On "
    f"{results['hardware'].split(',')[0]}, HFT took {seconds['hft']:.0f} s "
    f"({results['hft_steps']} steps, {results['demonstrations']:,} demonstrations), HGPO "
    f"{seconds['hgpo']:.0f} s ({results['hgpo_steps']} steps) and evaluation "
    f"{seconds['evaluation']:.0f} s."
  )
  lines += ["", textwrap.fill(said, 100, break_on_hyphens=False)]
  return "\n".join(lines)


def _calibration(results: dict[str, Any], stage: str) -> dict[str, Any]:
  if stage in results["routing"]:
    return results["routing"][stage]["calibration"]
  return results["stages"][stage]["calibration"]


def cells_table(results: dict[str, Any]) -> str:
  """The same by family and level, after HGPO."""
  head = ("family, level", "right by thinking", "tokens", "right directly", "tokens",
          "think rate", "p(think)")  # fmt: skip
  lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
  for name, cell in results["stages"]["hgpo"]["cells"].items():
    lines.append(
      f"| `{name.split()[0]}` {name.split()[1]} | {cell['think_accuracy']:.2f} | "
      f"{cell['think_tokens']:.0f} | {cell['no_think_accuracy']:.2f} | "
      f"{cell['no_think_tokens']:.0f} | {cell['think_rate']:.2f} | {cell['p_think']:.2f} |"
    )
  return "\n".join(lines)


def over_time_table(results: dict[str, Any]) -> str:
  """Free evaluations during HGPO."""
  known = " / ".join(results["hgpo_trajectory"][0]["think_rate_by_level"])
  lines = [f"| step | accuracy | tokens | think rate | levels {known} |", "|---|---|---|---|---|"]
  for row in results["hgpo_trajectory"]:
    levels = " / ".join(f"{rate:.2f}" for rate in row["think_rate_by_level"].values())
    lines.append(
      f"| {row['step']} | {row['accuracy']:.3f} | {row['mean_tokens']:.1f} | "
      f"{row['think_rate']:.2f} | {levels} |"
    )
  return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name in _STAGES:
    parser.add_argument(name, type=pathlib.Path)
  parser.add_argument("--routers", type=pathlib.Path, nargs=2, default=())
  parser.add_argument("--hardware", required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  found = record(
    {name: getattr(args, name) for name in _STAGES},
    dict(zip(_STAGES, args.routers, strict=False)),
    args.hardware,
  )
  args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()

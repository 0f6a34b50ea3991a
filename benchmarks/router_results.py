"""Tables of routers and dials in the docs, from the files of two evaluations.

    python -m benchmarks.router_results HFT HGPO --out docs/results/routing_arithmetic.json

`HFT` and `HGPO` are workdirs of `experiments.routers`, before and after HGPO. `benchmarks.results`
writes the tables.
"""

import argparse
import json
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

from lhrm_jax.evaluation import routers

_STAGES = ("hft", "hgpo")
_BIASES = (-6.0, -3.0, 0.0, 3.0, 6.0)
_RATES = (0.2, 0.3, 0.4, 0.6)


def record(workdir: pathlib.Path, stage: str) -> dict[str, Any]:
  """What the tables need of one evaluation; curves are left out."""
  folder = workdir / "evaluation" / stage
  routing = json.loads((folder / "routing.json").read_text(encoding="utf-8"))
  for entry in routing["routers"].values():
    entry.pop("curve", None)
  dials = json.loads((folder / "dials.json").read_text(encoding="utf-8"))
  summary = json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))["summary"]
  calibration = {name: x for name, x in summary["calibration"].items() if name != "bins"}
  return {"routing": routing, "dials": _chosen(dials), "calibration": calibration}


def _chosen(dials: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
  kept = {
    "tag_bias": [point for point in dials["tag_bias"] if point["tag_bias"] in _BIASES],
    "threshold": [p for p in dials["threshold"] if round(p["think_rate"], 3) in _RATES],
  }
  return kept | {name: dials[name] for name in ("budget", "budget_think") if name in dials}


def routers_tables(results: dict[str, Any]) -> str:
  """Routers at the policy's think rate after HGPO, and over all think rates at both stages."""
  hft, hgpo = (results[stage]["routing"] for stage in _STAGES)
  lines = [
    f"The demo after HGPO: {hgpo['prompts']} held-out prompts, routers fitted to "
    f"{hgpo['trained_on']['prompts']:,} training prompts, one seed.",
    "",
    routers.table(hgpo),
    "",
    "Accuracy as a mean over all think rates, from 0 to 1:",
    "",
    "| ranking | after HFT | after HGPO | less the policy's tag, after HGPO |",
    "|---|---|---|---|",
  ]
  for name, entry in hgpo["routers"].items():
    if "over_rates" in entry:
      both = (stage["routers"][name]["over_rates"]["accuracy"] for stage in (hft, hgpo))
      cells = ["{:.3f} ({:.3f} to {:.3f})".format(*found) for found in both]
      less = entry.get("over_rates_minus_tag", {}).get("accuracy")
      cells.append("{:+.3f} ({:+.3f} to {:+.3f})".format(*less) if less else "")
      lines.append(f"| `{name}` | {' | '.join(cells)} |")
  own = ", ".join(
    "`{}` {hacc:.3f} ({:.3f} to {:.3f})".format(
      name, *entry["own_threshold"]["hacc_interval"], hacc=entry["own_threshold"]["hacc"]
    )
    for name, entry in hft["routers"].items()
    if "own_threshold" in entry
  )
  policy = hft["routers"]["policy"]["point"]
  lines += [
    "",
    _wrapped(
      f"After HFT the policy thinks on {policy['think_rate']:.0%} of the prompts and has an HAcc "
      f"of {policy['hacc']:.3f}. Routers in front of it, at their own thresholds: {own}."
    ),
    "",
    "What `routing.json` remarks after HGPO:",
    "",
  ]
  return "\n".join(lines + [f"- {remark}" for remark in hgpo["remarks"]])


def dials_table(results: dict[str, Any]) -> str:
  """Points along the three dials after HGPO."""
  found = results["hgpo"]
  calibration = found["calibration"]
  lines = ["| dial | think rate | accuracy | tokens | HAcc |", "|---|---|---|---|---|"]
  for name, points in found["dials"].items():
    words = {"budget": "`budget`", "budget_think": "`budget`, always thinking"}.get(
      name, f"`{name}`"
    )
    key = "budget" if name.startswith("budget") else name
    for point in points:
      value = "none" if key == "budget" and not point[key] else f"{point[key]:.4g}"
      low, high = point["accuracy_interval"]
      lines.append(
        f"| {words} {value} | {point['think_rate']:.2f} | {point['accuracy']:.3f} ({low:.3f} to "
        f"{high:.3f}) | {point['tokens']:.1f} | {point['hacc']:.3f} |"
      )
  low, high = calibration["auroc_interval"]
  return "\n".join([
    *lines, "",
    _wrapped(
      "The demo after HGPO, as in the table of routers below. Its p(think) has an AUROC of "
      f"{calibration['auroc']:.3f} ({low:.3f} to {high:.3f}) and an ECE of "
      f"{calibration['ece']:.3f}."
    ),
  ])  # fmt: skip


def _wrapped(text: str) -> str:
  return textwrap.fill(text, 110, break_long_words=False)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("workdirs", nargs=2, type=pathlib.Path, help="before and after HGPO")
  parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON to write")
  args = parser.parse_args(argv)
  found = {
    stage: record(folder, stage) for stage, folder in zip(_STAGES, args.workdirs, strict=True)
  }
  args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()

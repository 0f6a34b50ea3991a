"""The report of a run: `report/index.html` (one file, opens from disk), figures, `summary.json`."""

from __future__ import annotations  # figures have the types of matplotlib, which is not loaded yet

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lhrm_jax.evaluation import (
  drawing,
  figures,
  page,
  report_tables,
  sample_table,
  samples,
)
from lhrm_jax.evaluation.headline import headline
from lhrm_jax.evaluation.sample_browser import MOST_CHARACTERS, blocks
from lhrm_jax.evaluation.sample_table import SampleTable
from lhrm_jax.text import tags
from lhrm_jax.text.characters import printable

Caption = tuple[str, str]  # what it shows, and how to read it

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def write_report(
  folder: pathlib.Path,
  summary: Mapping[str, Any],
  metrics: Mapping[str, Sequence[Mapping[str, Any]]],
  kept: Mapping[str, Mapping[str, Any]],
) -> pathlib.Path:
  """Writes the report of a run.

  Args:
    folder: `WORKDIR/report`, created where missing; all replies are read from the files in
      `WORKDIR/evaluation/STAGE`, where an evaluation has written them.
    summary: "stages" (each as `Evaluator.evaluate` returns), "seconds", "config", "versions" and
      "notes", remarks that a reader of the figures must know.
    metrics: rows of `metrics.jsonl` by stage.
    kept: content of `evaluation/STAGE.json` by stage: "samples", a few prompts with replies, and
      "by_prompt"; an older run may lack the latter.

  Returns:
    The path of `index.html`.
  """
  folder.mkdir(parents=True, exist_ok=True)
  summary = finite(summary)
  (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
  stages, notes = summary["stages"], list(summary.get("notes", ()))
  tables = _sample_tables(folder.parent / "evaluation", stages, kept, notes)
  last = list(stages)[-1]
  beside = _measured_beside(folder.parent / "evaluation" / last, notes)
  routing = beside["routing"] if beside["routing"].get("routers") else {}
  swept = figures.dials(tables.get(last), beside["dials"])
  drawn = evaluation_figures(stages, kept.get(last, {}).get("by_prompt") or {}, swept)
  if routing:
    drawn["routers"] = (
      figures.routers(routing["routers"]),
      ("Routers to beat.", "Accuracy against tokens of each, over all think rates."),
    )
  drawn |= _training_figures(metrics)
  for name, (figure, _) in drawn.items():
    (folder / f"{name}.png").write_bytes(drawing.to_png(figure))
  content = page.render(
    "report.html",
    figures={name: drawing.to_svg(figure, name) for name, (figure, _) in drawn.items()},
    captions={name: caption for name, (_, caption) in drawn.items()},
    headline=headline(last, stages[last]),
    about=_about(summary, last),
    tables=_tables(stages, metrics, summary["seconds"], routing, kept),
    remarks=routing.get("remarks", []),
    samples=_samples(stages, kept, tables),
    notes=notes + _overlap(stages[last].get("overlap")),
    stage_labels=figures.STAGE_LABELS,
    versions=summary["versions"],
    config=json.dumps(summary["config"], indent=2),
    sampling=json.dumps(stages[last].get("sampling", {}), indent=2),
  )
  path = folder / "index.html"
  page.write(path, content)
  return path


def finite(value: Any) -> Any:
  """A copy of a JSON-like value in which NaN and infinities, which JSON lacks, are `None`."""
  if isinstance(value, Mapping):
    return {str(k): finite(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [finite(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _sample_tables(
  evaluation: pathlib.Path, stages: Mapping[str, Any], kept: Mapping[str, Any], notes: list[str]
) -> dict[str, SampleTable]:
  """All replies by stage, where an evaluation has kept them; notes say why others are missing."""
  tables = {}
  present = [stage for stage in stages if (evaluation / stage / samples.SAMPLES).is_file()]
  for stage in present:
    try:
      found = sample_table.read(evaluation / stage, MOST_CHARACTERS // len(present))
    except (AttributeError, OSError, TypeError, ValueError) as error:
      label = figures.STAGE_LABELS.get(stage, stage)
      notes.append(f"The report shows only a few replies {label}: {printable(str(error), 300)}")
      continue
    if found.prompts:
      tables[stage] = found
  return tables


def _overlap(found: Mapping[str, Any] | None) -> list[str]:
  if not found:
    return []
  return [
    f"{found['overlapping']:,} of {found['prompts']:,} evaluation prompts share "
    f"{found['gram']} words in a row with the training data."
  ]


def _about(summary: Mapping[str, Any], last: str) -> str:
  prompts = summary["stages"][last]["auto"].get("prompts")
  parts = [str(summary["config"].get("task", "")), figures.STAGE_LABELS.get(last, last)]
  parts.append(f"{prompts:,} evaluation prompts" if prompts else "")
  return " · ".join(part for part in parts if part)


_GROUPS = (
  ("by_level", "level"), ("by_subject", "subject"), ("by_source", "source"),
  ("by_length", "length"),
)  # fmt: skip


def _tables(stages, metrics, seconds, routing, kept) -> dict[str, Any]:
  groups = {
    stage: [
      table
      for table in (
        report_tables.by_suite(stage, summary),
        *(report_tables.by_group(stage, summary, key, name) for key, name in _GROUPS),
      )
      if table
    ]
    for stage, summary in stages.items()
  }
  return {
    "results": report_tables.results(stages),
    "hybrid_accuracy": report_tables.hybrid_accuracy(stages),
    "groups": groups,
    "cost": report_tables.cost(metrics, seconds),
    "repeated": report_tables.repeated(stages),
    "routers": report_tables.routers(routing["routers"]) if routing else None,
    # Beside the summary it is with the drift since the stage before.
    "mode_leak": report_tables.mode_leak(
      {name: {"mode_leak": kept.get(name, {}).get("mode_leak")} | of for name, of in stages.items()}
    ),
  }


def _samples(stages, kept, tables: Mapping[str, SampleTable]) -> list[dict[str, Any]]:
  """The last stage first."""
  found = []
  for stage in reversed(stages):
    table = tables.get(stage)
    if table is None and (excerpt := kept.get(stage, {}).get("samples")):
      table = sample_table.of_excerpt(excerpt)
    if table is not None:
      label = figures.STAGE_LABELS.get(stage, stage)
      found.append({"stage": stage, "label": label, "blocks": list(blocks(table, stage, label))})
  return found


def _better(by_prompt: Mapping[str, Sequence]) -> dict[str, float]:
  """Share of prompts by level on which thinking is the better mode."""
  levels = np.array(by_prompt.get("level", ()))
  think = np.array(by_prompt.get("better", ())) == tags.THINK
  return {str(level): float(think[levels == level].mean()) for level in np.unique(levels)}


def evaluation_figures(
  stages: Mapping[str, Any], by_prompt: Mapping[str, Sequence], dials: Sequence[figures.Dial] = ()
) -> dict[str, tuple[Figure, Caption]]:
  """Figures of what stages achieve, with their captions, by name.

  Args:
    stages: summaries by stage, the one that matters last.
    by_prompt: of the last stage; empty where an older run lacks it.
    dials: of the last stage.
  """
  last = list(stages)[-1]
  group = figures.grouping(stages[last])[1]
  before = " Hollow: before training." if len(stages) > 1 else ""
  shares = _better(by_prompt)
  better = ", and where thinking is better" if shares and group == "level" else ""
  after = figures.STAGE_LABELS.get(last, last)
  drawn = {
    "accuracy_against_tokens": (
      figures.accuracy_against_tokens(stages, dials),
      ("What an answer costs.", f"Accuracy against mean tokens, 95 % intervals.{before}"),
    ),
    "think_rate_by_level": (
      figures.think_rate_by_level(stages, shares),
      ("Where it thinks.", f"Think rate by {group}{better}, 95 % intervals."),
    ),
    "hybrid_accuracy": (
      figures.hybrid_accuracy(stages),
      ("How often the better mode is chosen.", "Hybrid Accuracy with its 95 % interval."),
    ),
    "by_level": (
      figures.by_level(stages[last], f"Accuracy by {group}, {after}"),
      (f"Accuracy by {group}.", f"Free choice and both forced modes, {after}."),
    ),
  }
  if calibration := stages[last].get("calibration"):
    drawn["calibration"] = (
      figures.reliability(calibration["bins"]),
      ("Does p(think) predict where thinking pays?", _calibration_in_words(calibration)),
    )
  return drawn


def _calibration_in_words(found: Mapping[str, Any]) -> str:
  parts = []
  if found["auroc"] is not None:
    low, high = found["auroc_interval"]
    parts.append(f"AUROC {found['auroc']:.2f} ({low:.2f} to {high:.2f})")
  parts.append(f"expected calibration error {found['ece']:.2f}")
  return f"{', '.join(parts)}. Beside each point: prompts in the bin."


def _measured_beside(folder: pathlib.Path, notes: list[str]) -> dict[str, Any]:
  """What `routing.json` and `dials.json` beside an evaluation's samples hold, by name."""
  found = {}
  for name in ("routing", "dials"):
    path = folder / f"{name}.json"
    try:
      found[name] = json.loads(path.read_text(encoding="utf-8"))
      if not isinstance(found[name], dict):
        raise ValueError("it is no object")
    except FileNotFoundError:
      found[name] = {}
    except (OSError, RecursionError, ValueError) as error:
      found[name] = {}
      notes.append(f"The report leaves {path.name} out: {printable(str(error), 200)}.")
  return found


# Curves of each stage: name of the figure, metrics with their labels, caption, y label.
_CURVES = {
  "hft": {
    "hft_loss": ({"loss": "loss"}, "Hybrid Fine-Tuning: loss", "nats per token"),
  },
  "dpo": {
    "dpo_rewards": (
      {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
      "Implicit rewards of the pairs", "beta times log-ratio, nats",
    ),
  },
  "rft": {
    "rft_loss": ({"loss": "loss"}, "Fine-tuning on the best responses", "nats per token"),
  },
  "hgpo": {
    "hgpo_reward": (
      {"reward": "all", "mode/think/reward": "think", "mode/no_think/reward": "no-think"},
      "Mean score of training rollouts", "score",
    ),
    "hgpo_form": (
      {
        "mode/think/malformed_rate": "malformed, think",
        "mode/no_think/malformed_rate": "malformed, no-think",
        "mode/think/empty_rate": "empty thought",
        "mode/no_think/leak_rate": "reasoning in no-think",
      },
      "Form of training rollouts", "share of a mode's replies",
    ),
    "hgpo_neither": (
      {"eval/neither_prob": "neither tag"},
      "First token is not an opening tag", "probability, p(neither)",
    ),
    "hgpo_kl": (
      {"mode/tag_kl": "mode choice", "kl": "body tokens"},
      "Distance from the HFT policy", "KL, nats",
    ),
  },
}  # fmt: skip


def _training_figures(
  metrics: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, tuple[Figure, Caption]]:
  drawn = {}
  for stage, rows in metrics.items():
    found = {name for row in rows for name, value in row.items() if isinstance(value, float)}
    if any(name.startswith(figures.THINK_RATE) for name in found):
      caption = ("Think rate by level.", "Free replies during training.")
      drawn["think_rate"] = figures.think_rate_over_time(rows), caption
    for name, (names, title, ylabel) in _CURVES.get(stage, {}).items():
      if found & set(names):
        drawn[name] = figures.curves(rows, names, title, ylabel), (f"{title}.", "")
  return drawn

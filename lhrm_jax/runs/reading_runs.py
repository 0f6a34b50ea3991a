"""What the report and the comparison of runs that are over need from their folders."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from lhrm_jax.config import flatten
from lhrm_jax.errors import UserError
from lhrm_jax.runs import compare_records, reporting
from lhrm_jax.runs.config import STAGES
from lhrm_jax.runs.json_files import read_json
from lhrm_jax.runs.metric_writer import read_metrics
from lhrm_jax.text.characters import printable


def read_summary(folder: pathlib.Path) -> dict[str, Any]:
  """Returns `report/summary.json` of a run; made of its evaluations where the report is lost.

  Raises:
    UserError: there are neither, or they are damaged.
  """
  path = folder / "report" / "summary.json"
  try:
    summary = read_json(path) if path.is_file() else _from_evaluations(folder)
    last = list(summary["stages"].values())[-1]
    complete = {"auto", "think", "no_think", "hacc"} <= set(last)
    complete &= {"config", "seconds", "versions"} <= set(summary)
  except IndexError as error:
    raise UserError(
      f"{folder} has neither a report nor an evaluation. Name the --workdir of a run that is over, "
      "or evaluate its policy: python -m experiments.evaluate --config C "
      f"--config.init_from={folder}"
    ) from error
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    raise UserError(f"{path} is damaged: {printable(repr(error), 200)}.") from error
  if not complete:
    raise UserError(f"{path} is no report of a run: its last stage lacks results of the modes.")
  return summary


def _from_evaluations(folder: pathlib.Path) -> dict[str, Any]:
  """What `report/summary.json` would hold, but for the seconds of training."""
  kept = {stage: found for stage, found in kept_evaluations(folder, STAGES).items() if found}
  records = {name: folder / f"{name}.json" for name in ("config", "versions")}
  return {
    "stages": {stage: found["summary"] for stage, found in kept.items()},
    "seconds": {"evaluation": sum(found.get("seconds", 0.0) for found in kept.values())},
    **{name: read_json(path) if path.is_file() else {} for name, path in records.items()},
  }


def kept_evaluations(folder: pathlib.Path, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Returns the contents of `evaluation/STAGE.json` by stage, {} for what is missing or damaged."""
  return {
    stage: reporting.kept_evaluation(folder / "evaluation" / f"{stage}.json") for stage in stages
  }


def all_metrics(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
  """Returns the rows of `metrics.jsonl` by stage of training, for stages that have any."""
  rows = {stage: read_metrics(folder, stage) for stage in STAGES}
  return {stage: found for stage, found in rows.items() if found}


def record(folder: pathlib.Path) -> dict[str, Any]:
  """Returns what a comparison takes from a run.

  Raises:
    UserError: it has no report, or keeps nothing prompt by prompt.
  """
  read_summary(folder)
  try:
    return compare_records.of_run(folder)
  except (KeyError, OSError, TypeError, ValueError) as error:
    raise UserError(
      f"{folder} keeps no results prompt by prompt ({printable(repr(error), 200)}). Evaluate it "
      f"again: python -m experiments.evaluate --config C --config.init_from={folder}"
    ) from error


def short_names(folders: Sequence[pathlib.Path]) -> list[str]:
  """Returns what tells the folders apart: the parts of their paths that not all share.

  Raises:
    UserError: a folder is named twice.
  """
  if len(set(folders)) < len(folders):
    raise UserError("A run is named twice.")
  above = os.path.commonpath([folder.parent for folder in folders])
  parts = [folder.relative_to(above).parts for folder in folders]
  while len({p[-1] for p in parts}) == 1 and all(len(p) > 1 for p in parts):
    parts = [p[:-1] for p in parts]  # a seed, for instance, that is the same for all
  return ["/".join(p) for p in parts]


def differences(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns of each config the dotted keys on which not all agree, with its values."""
  flat = [dict(flatten(config)) for config in configs]
  keys = [key for key in flat[0] if any(of.get(key) != flat[0][key] for of in flat)]
  return [{key: of[key] for key in keys if key in of} for of in flat]

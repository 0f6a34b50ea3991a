"""What a comparison takes from the run folder of an arm and seed: `record.json` in that folder.

It is written once the run is over, whole or not at all: a folder that has it is not run again.
"""

import pathlib
from typing import Any

from lhrm_jax.evaluation.comparison import CURVE
from lhrm_jax.runs import reporting, resuming
from lhrm_jax.runs.budget import FLOPS, TOKENS
from lhrm_jax.runs.compare import OFFLINE
from lhrm_jax.runs.config import Config, plain
from lhrm_jax.runs.json_files import read_json, write_json
from lhrm_jax.runs.metric_writer import read_metrics

_FILE = "record.json"


def finished(folder: pathlib.Path, config: Config) -> bool:
  """Whether the run of this config is over.

  Raises:
    UserError: the folder holds the run of a config that differs in what decides the result.
  """
  try:
    before = read_json(folder / _FILE)["config"]
  except (OSError, KeyError, TypeError, ValueError):
    return False
  return not resuming.allowed_changes(before, config, str(folder))


def write(folder: pathlib.Path, config: Config) -> None:
  """Keeps what a comparison needs of a run that is over."""
  write_json(folder / _FILE, {"config": plain(config), **of_run(folder)})


def of_run(folder: pathlib.Path) -> dict[str, Any]:
  """What a comparison needs of a run that is over.

  Raises:
    OSError, ValueError: it has no report, or a file is damaged.
    KeyError: its evaluation keeps nothing prompt by prompt, as runs of old versions do.
  """
  summary = read_json(folder / "report" / "summary.json")
  stage = list(summary["stages"])[-1]
  evaluation = reporting.kept_evaluation(folder / "evaluation" / f"{stage}.json")
  curve, cost = _curve_and_cost(folder, stage)
  return {
    "summary": evaluation["summary"],
    "by_prompt": evaluation["by_prompt"],
    "cost": {**cost, "seconds": summary["seconds"].get(stage, 0.0)},
    "curve": curve,
  }


def write_config(folder: pathlib.Path, config: Config) -> None:
  """Marks rollouts of this config as sampled."""
  write_json(folder / _FILE, {"config": plain(config)})


def read(folder: pathlib.Path) -> dict[str, Any] | None:
  """What `write` wrote; `None` where the run is not over."""
  path = folder / _FILE
  return read_json(path) if path.exists() else None


def _curve_and_cost(
  folder: pathlib.Path, stage: str
) -> tuple[list[dict[str, float]], dict[str, float]]:
  """Evaluations on the way with the tokens sampled before each, and the cost of the whole stage.

  Evaluations are no training: what they sample is not counted. A stage that trains on rollouts
  sampled before has sampled them all before its first step.
  """
  rows = read_metrics(folder, stage)
  offline = stage in OFFLINE
  tokens = next((row[TOKENS] for row in rows if TOKENS in row), 0.0) if offline else 0.0
  flops = 0.0
  curve: list[dict[str, float]] = []
  for row in rows:
    tokens = row.get(TOKENS, tokens)
    flops = row.get(FLOPS, flops)
    at = {name: row[key] for name, key in CURVE.items() if isinstance(row.get(key), float)}
    if at:
      curve.append({"step": row["step"], "sampled_tokens": tokens, **at})
  return curve, {"sampled_tokens": tokens, "flops": flops}


def share_evaluation(source: pathlib.Path, target: pathlib.Path, step: int | None = None) -> None:
  """Keeps an evaluation of the policy that another run starts from, so that it is made once.

  Args:
    source: `evaluation/STAGE.json` of the run that has made it; nothing is shared if it has not.
    target: where the other run looks for it; left alone if there.
    step: at which that run counts its start; as in the source if not given.
  """
  found = reporting.kept_evaluation(source)
  if not found or target.exists():
    return
  if step is not None:
    found["key"] = {**found["key"], "step": step}
  target.parent.mkdir(parents=True, exist_ok=True)
  reporting.keep_evaluation(target, found)

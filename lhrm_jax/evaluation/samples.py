"""The files that keep an evaluation's prompts and every sample, as JSON lines.

`WORKDIR/evaluation/STAGE/` holds `prompts.jsonl`, one object per prompt, and `samples.jsonl`, one
per reply, so that another scorer, a paired test or a browser of samples can follow later. Keys are
the fields of `PromptRecord` and `Sample`, except that `Sample.pass_name` is written as "pass".

Samples are appended a batch at a time. A killed evaluation leaves whole lines and perhaps one
partial line, which `open_log` removes; `SampleLog.known` then says what is not sampled again.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lhrm_jax.text.characters import printable

PROMPTS, SAMPLES = "prompts.jsonl", "samples.jsonl"
PASSES = FREE, THINK, NO_THINK = ("free", "think", "no_think")
_RENAMED = {"pass_name": "pass"}  # a keyword of Python cannot be a field

# What identifies a sample: prompt id, pass, seed, sample, and the dial as sorted pairs.
SampleKey = tuple[int, str, int, int, tuple[tuple[str, Any], ...]]


@dataclasses.dataclass(frozen=True)
class PromptRecord:
  """One evaluated prompt.

  Attributes:
    prompt_id: unique in the file; random keys of the samples derive from it.
    suite: suite the prompt belongs to; the task's name where no suite is named.
    prompt: the user's last message.
    answer: gold, as the scorer takes it.
    level: difficulty, 0 where unknown.
    subject: subject or category, "" where unknown.
    source: source of the row.
    p_think: probability that a reply opens with `<think>`, at temperature 1.
    p_no_think: the same of `<no_think>`.
    p_neither: the same of any other token.
    greedy_mode: "think", "no_think" or "" (neither), by the most likely first token.
    prompt_tokens: length of the encoded prompt, in tokens.
  """

  prompt_id: int
  suite: str
  prompt: str
  answer: str
  level: int
  subject: str
  source: str
  p_think: float
  p_no_think: float
  p_neither: float
  greedy_mode: str = ""
  prompt_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Sample:
  """One scored reply.

  Attributes:
    prompt_id: of its `PromptRecord`.
    pass_name: "free" where the policy chose the mode, else the forced mode; "pass" in the file.
    sample: number of the reply among those with this prompt, pass, seed and dial.
    seed: seed of the random draws.
    mode: "think", "no_think" or "" (neither), by the first token's id.
    score: the scorer's.
    tokens: length in tokens, tag and end of sequence included.
    finish: "stop", or "length" where it was cut off.
    well_formed: whether tags and thought are as they should be; not where it was cut off.
    leak: whether a reply that opens `<no_think>` holds markers of reasoning.
    text: the reply, tags kept.
    ids: its token ids, `tokens` of them.
    seconds: its share, by tokens, of its batch's wall seconds of generation.
    dial: how it was sampled otherwise than as trained and as configured, e.g. {"tag_bias": 1.0},
      {"threshold": 0.3}, {"budget": 64} or {"temperature": 0.0}; {} where it was not.
  """

  prompt_id: int
  pass_name: str
  sample: int
  seed: int
  mode: str
  score: float
  tokens: int
  finish: str
  well_formed: bool
  leak: bool
  text: str
  ids: Sequence[int]
  seconds: float
  dial: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def key(self) -> SampleKey:
    """What no two samples of an evaluation share."""
    dial = tuple(sorted(self.dial.items()))
    return self.prompt_id, self.pass_name, self.seed, self.sample, dial

  def without_ids(self) -> "Sample":
    """The sample to keep in memory: ids of long replies to many prompts take gigabytes."""
    return dataclasses.replace(self, ids=())


def write_prompts(folder: pathlib.Path, records: Iterable[PromptRecord]) -> None:
  """Writes `prompts.jsonl` into a folder, which is created, in place of an earlier one."""
  folder.mkdir(parents=True, exist_ok=True)
  unfinished = folder / f"{PROMPTS}.tmp"
  unfinished.write_bytes(_lines(records))
  unfinished.rename(folder / PROMPTS)


def read_prompts(folder: pathlib.Path) -> list[PromptRecord]:
  """Reads `prompts.jsonl` of a folder.

  Raises:
    FileNotFoundError: there is none.
    ValueError: a line is damaged; names the file and the line.
  """
  return list(_read(folder / PROMPTS, PromptRecord))


def read_samples(folder: pathlib.Path) -> Iterator[Sample]:
  """Yields the samples of a folder's `samples.jsonl` in the order written.

  A last line without its end, which a killed or running evaluation leaves, is not read.

  Raises:
    FileNotFoundError: there is none.
    ValueError: a line is damaged; names the file and the line.
  """
  return _read(folder / SAMPLES, Sample)


class SampleLog:
  """An open `samples.jsonl` and what it already holds.

  Attributes:
    known: the samples by their keys, without ids.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    self.known = {sample.key: sample.without_ids() for sample in _read(path, Sample)}

  def append(self, samples: Iterable[Sample]) -> None:
    """Appends one batch and waits until it is on disk; known samples are not written again."""
    new = {sample.key: sample for sample in samples if sample.key not in self.known}
    with self._path.open("ab") as file:
      file.write(_lines(new.values()))
      file.flush()
      os.fsync(file.fileno())
    self.known |= {key: sample.without_ids() for key, sample in new.items()}


def open_log(folder: pathlib.Path, *, resume: bool) -> SampleLog:
  """Opens a folder's `samples.jsonl`.

  Args:
    folder: created where it does not exist.
    resume: whether to keep the samples that are there, up to a partial last line; else they go.

  Raises:
    ValueError: `resume`, and a line is damaged; names the file and the line.
  """
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / SAMPLES
  with path.open("ab" if resume else "wb"):
    pass
  with path.open("rb+") as file:
    whole = 0
    for line in file:
      whole += len(line) if line.endswith(b"\n") else 0
    file.truncate(whole)
  return SampleLog(path)


def _lines(records: Iterable[PromptRecord | Sample]) -> bytes:
  return "".join(json.dumps(_fields(record)) + "\n" for record in records).encode()


def _fields(record: PromptRecord | Sample) -> dict[str, Any]:
  # Not `dataclasses.asdict`, which copies every id.
  names = (field.name for field in dataclasses.fields(record))
  return {_RENAMED.get(name, name): getattr(record, name) for name in names}


def _read(path: pathlib.Path, kind: type) -> Iterator[Any]:
  declared = {_RENAMED.get(f.name, f.name): f for f in dataclasses.fields(kind)}
  needed = {name for name, f in declared.items() if _is_needed(f)}
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      if not line.endswith(b"\n"):
        return
      try:
        found = json.loads(line)
        if not isinstance(found, dict) or (missing := needed - set(found)):
          lacks = f"lacks {', '.join(sorted(missing))}" if isinstance(found, dict) else "no object"
          raise ValueError(lacks)
      except (RecursionError, ValueError) as error:
        why = printable(str(error), 200)
        raise ValueError(f"{path}:{number} is damaged: {why}. Remove the line.") from error
      yield kind(
        **{declared[name].name: value for name, value in found.items() if name in declared}
      )


def _is_needed(field: dataclasses.Field) -> bool:
  return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

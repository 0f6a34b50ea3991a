"""The task `rows`: queries and demonstrations from files and data sets that the config names.

```python
config.task = "rows"
config.data.demonstrations = "openr1_math,chat"
config.data.prompts = "deepscaler,tulu3_preferences"
config.data.evaluation = "math500"
config.data.sources.chat = {"path": "chat.jsonl", "constants": {"mode": "no_think"}}
```

A name is one of `data.sources`, one of `catalog.DATASETS`, or a path as `sources.Source` takes it.
Rows of several sources form one pool. They are read once, at first use, and stay in memory; a
step's rows are looked up there, so they are a function of (seed, step) alone.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lhrm_jax.data import questions, rows, sources
from lhrm_jax.data.batches import prompt_ids
from lhrm_jax.data.catalog import DATASETS, Dataset
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.reasoning_tasks import is_held_out
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.data.sources import Source
from lhrm_jax.text import Tokenizer, tags

# Streams of random numbers that must never coincide.
_PROMPTS, _THINK, _NO_THINK, _EVALUATION = range(4)
_SOURCE_KEYS = ("format", *(field.name for field in dataclasses.fields(Source)))
_READERS: dict[type, Callable] = {PromptRow: rows.prompt_row, HFTRow: rows.hft_row}
_REASONS = 5  # for skipping rows that a note counts one by one
_WORDS = {PromptRow: "queries", HFTRow: "demonstrations"}


@dataclasses.dataclass(frozen=True)
class RowTask:
  """Rows of named sources as a task.

  What is evaluated is never trained on: every row that asks a question of the evaluation, however
  it is written (see `questions`), is left out of training. Without evaluation sources a tenth of
  the queries, chosen by a checksum of the prompt, is kept for evaluation.

  Attributes:
    prompt_sources: of HGPO's queries, by name.
    demonstration_sources: of HFT's demonstrations, by name.
    evaluation_sources: of the evaluation's queries, by name; may be empty.
    on_bad_row: "raise" or "skip".
    reserved: queries that are evaluated in place of the task's own, and so never trained on.
  """

  prompt_sources: Mapping[str, Dataset]
  demonstration_sources: Mapping[str, Dataset]
  evaluation_sources: Mapping[str, Dataset]
  on_bad_row: str = "raise"
  reserved: Sequence[PromptRow] = ()

  @classmethod
  def from_config(cls, data: DataConfig) -> "RowTask":
    """Finds the sources that `prompts`, `demonstrations` and `evaluation` of `data` name.

    Args:
      data: these three as names with commas between them; `sources`, from names to the fields of
        `Source` and `format`, a data set of the catalog whose format the source has.

    Raises:
      ValueError: a name or field that does not exist, a file that does not, or queries where
        demonstrations are wanted.
    """

    def find(key: str, kind: type) -> dict[str, Dataset]:
      names = [name.strip() for name in getattr(data, key).split(",")]
      return {name: _find(name, data.sources, kind, key) for name in names if name}

    task = cls(
      find("prompts", PromptRow), find("demonstrations", HFTRow), find("evaluation", PromptRow),
      data.on_bad_row,
    )  # fmt: skip
    if not (task.evaluation_sources or task.prompt_sources):
      raise ValueError(
        "task='rows' needs queries to evaluate on: set data.evaluation, or data.prompts, of which "
        "a tenth is then kept for evaluation."
      )
    return task

  @property
  def notes(self) -> tuple[str, ...]:
    """Where the rows came from and what was left out, for the sources read so far."""
    return tuple(pool.note for pool in self._pools)

  @property
  def _pools(self) -> "list[_Pool]":
    """The pools read so far; each is a cached property."""
    names = ("_prompt_pool", "_demonstration_pool", "_evaluation_pool")
    return [pool for name in names if (pool := self.__dict__.get(name))]

  def tokenizer(self) -> None:
    """`None`: rows of text need a policy that can already read."""

  @property
  def queries(self) -> Sequence[PromptRow]:
    """All training queries.

    Raises:
      ValueError: no source is named, or a row is bad.
    """
    return self._prompt_pool.rows

  @property
  def shown(self) -> Sequence[HFTRow]:
    """All demonstrations.

    Raises:
      ValueError: no source is named, or a row is bad.
    """
    return self._demonstration_pool.rows

  def prompts(self, seed: int, step: int, count: int) -> list[PromptRow]:
    """Training queries of one step: every query once per pass, in a new order each pass.

    Raises:
      ValueError: no source is named, or a row is bad.
    """
    pool = self._prompt_pool.rows
    return [pool[i] for i in in_order((seed, _PROMPTS), step * count, count, len(pool))]

  def demonstrations(
    self, seed: int, step: int, think: int, no_think: int
  ) -> tuple[list[HFTRow], list[HFTRow]]:
    """HFT rows of one step; each mode's rows have an order of their own, as in `prompts`.

    Raises:
      ValueError: no source is named, a row is bad, or a mode whose rows are asked for has none.
    """
    by_mode = []
    for mode, stream, count in ((tags.THINK, _THINK, think), (tags.NO_THINK, _NO_THINK, no_think)):
      pool = self._by_mode[mode]
      if count and not pool:
        name = tags.MODES[mode]
        raise ValueError(
          f"data.demonstrations holds no {name} row: add a source that does, or set "
          f"hft.{name}_per_step=0."
        )
      order = in_order((seed, stream), step * count, count, len(pool)) if count else []
      by_mode.append([pool[i] for i in order])
    return by_mode[0], by_mode[1]

  def evaluation(self, count: int) -> list[PromptRow]:
    """At most `count` queries, the same for every seed."""
    pool = self._evaluation_pool.rows
    return [pool[i] for i in in_order((_EVALUATION,), 0, min(count, len(pool)), len(pool))]

  def check_conversations(self, tokenizer: Tokenizer) -> None:
    """Encodes one row for every order of roles in the sources read so far.

    Raises:
      ValueError: the tokenizer's chat template refuses an order, or takes no conversations.
    """
    by_roles = {
      tuple(role for role, _ in row.earlier): row
      for pool in self._pools
      for row in pool.rows
      if row.earlier
    }
    for row in by_roles.values():
      prompt_ids(tokenizer, row)

  @functools.cached_property
  def _evaluation_pool(self) -> "_Pool":
    if self.evaluation_sources:
      return self._load("evaluation", self.evaluation_sources)
    pool = self._load("prompts", self.prompt_sources)
    kept = [row for row in pool.rows if is_held_out(row.prompt)]
    if not kept:
      raise ValueError(
        f"data.prompts holds {len(pool.rows)} queries, too few to keep a tenth for evaluation: "
        "name a source as data.evaluation."
      )
    return _Pool(kept, f"data.evaluation: {len(kept):,} queries kept from data.prompts.")

  @functools.cached_property
  def _asked(self) -> questions.Asked:
    return questions.Asked(self.reserved or self._evaluation_pool.rows)

  @functools.cached_property
  def _prompt_pool(self) -> "_Pool":
    return self._without_evaluation("prompts", self.prompt_sources)

  @functools.cached_property
  def _demonstration_pool(self) -> "_Pool":
    return self._without_evaluation("demonstrations", self.demonstration_sources)

  @functools.cached_property
  def _by_mode(self) -> tuple[list[HFTRow], list[HFTRow]]:
    every = self._demonstration_pool.rows
    think, no_think = ([row for row in every if row.mode == m] for m in range(len(tags.MODES)))
    return think, no_think

  def _without_evaluation(self, key: str, named: Mapping[str, Dataset]) -> "_Pool":
    """The rows to train on."""
    if not named:
      raise ValueError(f"task='rows' has nothing to train on: set data.{key}.")
    pool = self._load(key, named)

    def reserved(row: PromptRow | HFTRow) -> bool:
      own = not self.evaluation_sources and not self.reserved
      held_out = own and is_held_out(row.prompt)
      return held_out or row in self._asked

    kept = [row for row in pool.rows if not reserved(row)]
    if not kept:
      raise ValueError(f"data.{key}: the evaluation asks every one of its prompts.")
    left_out = len(pool.rows) - len(kept)
    return _Pool(kept, f"{pool.note} {left_out:,} are left out, being evaluated on.")

  def _load(self, key: str, named: Mapping[str, Dataset]) -> "_Pool":
    loaded: sources.Loaded = sources.Loaded()
    for dataset in named.values():
      part = sources.load(dataset.source, dataset.to_row, self.on_bad_row)
      loaded.rows += part.rows
      loaded.bad += part.bad
      loaded.examples += part.examples[:1]
    note = f"data.{key}: {len(loaded.rows):,} rows from {', '.join(named)}."
    if loaded.skipped:
      reasons = [f"{count:,} {reason}" for reason, count in loaded.bad.most_common(_REASONS)]
      if more := loaded.skipped - sum(count for _, count in loaded.bad.most_common(_REASONS)):
        reasons.append(f"{more:,} for other reasons")
      note += (
        f" {loaded.skipped:,} bad rows were skipped, e.g. {loaded.examples[0]}. By reason: "
        f"{'; '.join(reasons)}."
      )
    return _Pool(loaded.rows, note)


@dataclasses.dataclass(frozen=True)
class _Pool:
  """Rows, and a sentence on where they come from."""

  rows: list
  note: str


def in_order(key: Sequence[int], first: int, count: int, size: int) -> list[int]:
  """Items `first` to `first + count - 1` of an endless stream of indices below `size`.

  The stream is a sequence of permutations, each a function of `key` and of its number.
  """
  return [
    int(_permutation((*key, place // size), size)[place % size])
    for place in range(first, first + count)
  ]


@functools.lru_cache(maxsize=8)
def _permutation(key: tuple[int, ...], size: int) -> np.ndarray:
  return np.random.default_rng(key).permutation(size)


def _find(name: str, own: Mapping[str, Mapping[str, Any]], kind: type, key: str) -> Dataset:
  """The source of that name, with the reader for the wanted kind of row."""
  if name in own:
    return _own_source(name, own[name], kind, key)
  if name in DATASETS:
    return _of_kind(DATASETS[name], name, kind, key)
  if name.startswith(sources.PREFIXES):
    return Dataset(Source(name), _READERS[kind], kind)
  if name.endswith(sources.SUFFIXES):
    _check(Source(name), f"data.{key}")
    return Dataset(Source(name), _READERS[kind], kind)
  near = difflib.get_close_matches(name, [*own, *DATASETS], n=1)
  hint = f"Did you mean {near[0]!r}? " if near else ""
  raise ValueError(
    f"data.{key}: {name!r} is not a source. {hint}Known: {', '.join([*own, *DATASETS])}; or a "
    f"{', '.join(sources.SUFFIXES)} file, {' or '.join(p + 'NAME' for p in sources.PREFIXES)}."
  )


def _own_source(name: str, fields: Mapping[str, Any], kind: type, key: str) -> Dataset:
  _check_fields(name, fields)
  unknown = sorted(set(fields) - set(_SOURCE_KEYS))
  if unknown or not fields.get("path"):
    raise ValueError(
      f"data.sources.{name}: "
      + (f"{', '.join(unknown)} is not a field" if unknown else "no path")
      + f"; there are {', '.join(_SOURCE_KEYS)}."
    )
  given = {field: value for field, value in fields.items() if field != "format"}
  for mapping in ("columns", "constants"):
    given[mapping] = dict(given.get(mapping) or {})
  _check(Source(**given), f"data.sources.{name}")
  if not fields.get("format"):
    return Dataset(Source(**given), _READERS[kind], kind)
  if fields["format"] not in DATASETS:
    raise ValueError(
      f"data.sources.{name}.format={fields['format']!r} is not one of {', '.join(DATASETS)}."
    )
  dataset = dataclasses.replace(DATASETS[fields["format"]], source=Source(**given))
  return _of_kind(dataset, name, kind, key)


def _check_fields(name: str, fields: Mapping[str, Any]) -> None:
  """Raises `ValueError` for a field of the wrong type."""

  def is_table(value: Any) -> bool:
    return hasattr(value, "items")  # a dict, or the config's own kind

  if not is_table(fields):
    raise ValueError(f"data.sources.{name}={fields!r} is not a table of fields, such as 'path'.")
  for field in filter(fields.__contains__, _SOURCE_KEYS):  # others are not fields at all
    value = fields[field]
    if field in ("columns", "constants"):
      right, wanted = value is None or is_table(value), "a table of columns"
      if field == "columns" and right:
        right = all(isinstance(theirs, str) for theirs in dict(value or {}).values())
        wanted += ", as in {'prompt': 'question'}"
    elif field == "streaming":
      right, wanted = isinstance(value, bool), "True or False"
    else:
      right, wanted = isinstance(value, str), "text"
    if not right:
      raise ValueError(f"data.sources.{name}.{field}={value!r} is not {wanted}.")


def _check(source: Source, key: str) -> None:
  """Raises `ValueError` for a missing file or a malformed split, before anything is trained."""
  try:
    sources.check(source)
  except (FileNotFoundError, RuntimeError, ValueError) as error:
    raise ValueError(f"{key}: {error}") from error


def _of_kind(dataset: Dataset, name: str, kind: type, key: str) -> Dataset:
  if dataset.kind is not kind:
    raise ValueError(f"data.{key}: {name} gives {_WORDS[dataset.kind]}, not {_WORDS[kind]}.")
  return dataset

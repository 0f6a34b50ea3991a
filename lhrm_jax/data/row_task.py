"""The task `rows`: queries and demonstrations from files and data sets that the config names.

```python
config.task = "rows"
config.data.demonstrations = "openr1_math,chat"
config.data.prompts = "deepscaler,tulu3_preferences"
config.data.evaluation = "math500"
config.data.sources.chat = {"path": "chat.jsonl", "constants": {"mode": "no_think"}}
```

A name is one of `data.sources`, one of `catalog.DATASETS`, or a path as `sources.Source` takes it;
with `data.root`, a source of that prepared data (see `shards`). Rows of several sources form one
pool, drawn from by `data.weights` (see `pools`). Rows of text are read once, at first use, and stay
in memory; shards are read as they are drawn. A step's rows are a function of (seed, step) alone.
"""

import collections
import dataclasses
import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lhrm_jax.data import named_sources, questions, sources
from lhrm_jax.data.batches import Encoded, prompt_ids
from lhrm_jax.data.catalog import Dataset
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.pools import ALL_SOURCES, Pool, RowsInMemory, in_order
from lhrm_jax.data.reasoning_tasks import is_held_out
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.data.shards import Shards, file_name
from lhrm_jax.text import Tokenizer, tags

# Streams of random numbers that must never coincide.
_PROMPTS, _THINK, _NO_THINK, _EVALUATION = range(4)
_STREAMS = {tags.THINK: _THINK, tags.NO_THINK: _NO_THINK}
_REASONS = 5  # for skipping rows that a note counts one by one


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
    weights: of each row of a source, by name; 1 for others.
    epochs: most epochs of a source, by name or "*".
    shards: prepared demonstrations that take the place of `demonstration_sources`.
    shard_names: which of their sources.
  """

  prompt_sources: Mapping[str, Dataset]
  demonstration_sources: Mapping[str, Dataset]
  evaluation_sources: Mapping[str, Dataset]
  on_bad_row: str = "raise"
  reserved: Sequence[PromptRow] = ()
  weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
  epochs: Mapping[str, float] = dataclasses.field(default_factory=dict)
  shards: Shards | None = None
  shard_names: tuple[str, ...] = ()

  @classmethod
  def from_config(cls, data: DataConfig) -> "RowTask":
    """Finds the sources that `prompts`, `demonstrations` and `evaluation` of `data` name.

    Args:
      data: these three as names with commas between them; `sources`, from names to the fields of
        `Source` and `format`, a data set of the catalog whose format the source has; `root` of
        prepared data, which prompts and demonstrations then come from.

    Raises:
      ValueError: a name or field that does not exist, a file that does not, or queries where
        demonstrations are wanted.
    """
    named = {key: _names(getattr(data, key)) for key in ("prompts", "demonstrations", "evaluation")}
    shards = Shards(data.root) if data.root else None
    own: Mapping[str, Any] = data.sources
    if shards:
      _check_prepared(shards, named)
      own = {
        name: {"path": f"{shards.root}/prompts/{file_name(name)}.parquet"}
        for name in named["prompts"]
      }
      own = {**data.sources, **own}
    _check_named("weights", data.weights, [*named["prompts"], *named["demonstrations"]])
    _check_named("epochs", data.epochs, [*named["prompts"], *named["demonstrations"], ALL_SOURCES])

    def find(key: str, kind: type) -> dict[str, Dataset]:
      return {name: named_sources.find(name, own, kind, key) for name in named[key]}

    task = cls(
      find("prompts", PromptRow), {} if shards else find("demonstrations", HFTRow),
      find("evaluation", PromptRow), data.on_bad_row, weights=data.weights, epochs=data.epochs,
      shards=shards, shard_names=tuple(named["demonstrations"]) if shards else (),
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
    notes = [pool.note for pool in self._pools]
    if self.shards and self.shard_names:
      groups = [g for g in self.shards.index.groups if g.source in self.shard_names]
      notes.append(
        f"data.demonstrations: {sum(g.rows for g in groups):,} rows, "
        f"{sum(g.tokens for g in groups):,} tokens, from {', '.join(self.shard_names)}, prepared "
        f"in {self.shards.root}, without questions of "
        f"{', '.join(self.shards.index.suites) or 'any evaluation'}."
      )
    return tuple(notes)

  @property
  def _pools(self) -> "list[_Loaded]":
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
    """All demonstrations that are rows of text.

    Raises:
      ValueError: no source is named, or a row is bad.
    """
    return () if self.shards else self._demonstration_pool.rows

  def prompts(self, seed: int, step: int, count: int) -> list[PromptRow]:
    """Training queries of one step: every query once per pass, in a new order each pass.

    Raises:
      ValueError: no source is named, or a row is bad.
    """
    return self._queries.draw((seed, _PROMPTS), step * count, count)

  def demonstrations(
    self, seed: int, step: int, think: int, no_think: int
  ) -> tuple[list[HFTRow | Encoded], list[HFTRow | Encoded]]:
    """HFT rows of one step; each mode's rows have an order of their own, as in `prompts`.

    Raises:
      ValueError: no source is named, a row or shard is bad, or a mode whose rows are asked for has
        none.
    """
    counts = (think, no_think)
    first, second = (
      self._shown_in(mode).draw((seed, _STREAMS[mode]), step * count, count) if count else []
      for mode, count in enumerate(counts)
    )
    return first, second

  def use(self, kind: str, seed: int, steps: int, *counts: int) -> "list[Use]":
    """How far the sources are read after a number of steps.

    Args:
      kind: "prompts" or "demonstrations".
      seed: of the run.
      steps: steps made.
      *counts: rows of a step: of queries, or of thinking and of direct demonstrations.

    Returns:
      One for each pool that is drawn from.
    """
    if kind == "prompts":
      pools = [(self._queries, _PROMPTS)]
    else:
      pools = [
        (self._shown_in(mode) if n else None, _STREAMS[mode]) for mode, n in enumerate(counts)
      ]
    found = []
    for (pool, stream), count in zip(pools, counts, strict=True):
      if count:
        drawn = pool.counts((seed, stream), steps * count)
        passes = {name: n / len(pool.sources[name]) for name, n in drawn.items()}
        found.append(Use(passes, steps * count, pool.length))
    return found

  def evaluation(self, count: int) -> list[PromptRow]:
    """At most `count` queries, the same for every seed."""
    pool = self._evaluation_pool.rows
    return [pool[i] for i in in_order((_EVALUATION,), 0, min(count, len(pool)), len(pool))]

  def missing_removals(self, evaluations: Iterable[str]) -> list[str]:
    """Those of the named evaluations whose questions the prepared demonstrations may hold."""
    if not (self.shards and self.shard_names):
      return []
    return sorted(set(evaluations) - set(self.shards.index.suites))

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
  def _evaluation_pool(self) -> "_Loaded":
    if self.evaluation_sources:
      return self._load("evaluation", self.evaluation_sources)
    pool = self._load("prompts", self.prompt_sources)
    kept = [row for row in pool.rows if is_held_out(row.prompt)]
    if not kept:
      raise ValueError(
        f"data.prompts holds {len(pool.rows)} queries, too few to keep a tenth for evaluation: "
        "name a source as data.evaluation."
      )
    note = f"data.evaluation: {len(kept):,} queries kept from data.prompts."
    return _Loaded({"data.prompts": kept}, note)

  @functools.cached_property
  def _asked(self) -> questions.Asked:
    return questions.Asked(self.reserved or self._evaluation_pool.rows)

  @functools.cached_property
  def _prompt_pool(self) -> "_Loaded":
    return self._without_evaluation("prompts", self.prompt_sources)

  @functools.cached_property
  def _demonstration_pool(self) -> "_Loaded":
    return self._without_evaluation("demonstrations", self.demonstration_sources)

  @functools.cached_property
  def _queries(self) -> Pool:
    return self._pool({name: RowsInMemory(rows) for name, rows in self._prompt_pool.named.items()})

  def _shown_in(self, mode: int) -> Pool:
    """The demonstrations of a mode.

    Raises:
      ValueError: there are none.
    """
    if not self._by_mode[mode].sources:
      name = tags.MODES[mode]
      raise ValueError(
        f"data.demonstrations holds no {name} row: add a source that does, or set "
        f"hft.{name}_per_step=0."
      )
    return self._by_mode[mode]

  @functools.cached_property
  def _by_mode(self) -> tuple[Pool, Pool]:
    if self.shards:
      if not self.shard_names:
        raise ValueError("task='rows' has nothing to train on: set data.demonstrations.")
      think, no_think = (self.shards.of_mode(m, self.shard_names) for m in range(len(tags.MODES)))
    else:
      think, no_think = (
        {name: RowsInMemory(rows) for name, rows in self._demonstration_pool.of_mode(m).items()}
        for m in range(len(tags.MODES))
      )
    return self._pool(think), self._pool(no_think)

  def _pool(self, named: Mapping[str, Any]) -> Pool:
    filled = {name: rows for name, rows in named.items() if len(rows)}
    pooled = not (self.weights or self.epochs or self.shards)
    return Pool(filled, self.weights, self.epochs, pooled)

  def _without_evaluation(self, key: str, named: Mapping[str, Dataset]) -> "_Loaded":
    """The rows to train on."""
    if not named:
      raise ValueError(f"task='rows' has nothing to train on: set data.{key}.")
    loaded = self._load(key, named)

    def reserved(row: PromptRow | HFTRow) -> bool:
      own = not self.evaluation_sources and not self.reserved
      held_out = own and is_held_out(row.prompt)
      return held_out or row in self._asked

    kept = {
      name: [row for row in found if not reserved(row)] for name, found in loaded.named.items()
    }
    left_out = len(loaded.rows) - sum(map(len, kept.values()))
    if left_out == len(loaded.rows):
      raise ValueError(f"data.{key}: the evaluation asks every one of its prompts.")
    return _Loaded(kept, f"{loaded.note} {left_out:,} are left out, being evaluated on.")

  def _load(self, key: str, named: Mapping[str, Dataset]) -> "_Loaded":
    found: dict[str, list] = {}
    bad: collections.Counter[str] = collections.Counter()
    unwanted: collections.Counter[str] = collections.Counter()
    examples: list[str] = []
    for name, dataset in named.items():
      part = sources.load(dataset.source, dataset.to_row, self.on_bad_row)
      found[name] = part.rows
      bad += part.bad
      unwanted += part.unwanted
      examples += part.examples[:1]
    note = f"data.{key}: {sum(map(len, found.values())):,} rows from {', '.join(named)}."
    if unwanted:
      most = ", ".join(reason for reason, _ in unwanted.most_common(_REASONS))
      note += f" {unwanted.total():,} others are not wanted: {most}."
    if bad:
      most, more = sources.most_common(bad, _REASONS)
      reasons = [f"{count:,} {reason}" for reason, count in most]
      if more:
        reasons.append(f"{more:,} for other reasons")
      note += (
        f" {bad.total():,} bad rows were skipped, e.g. {examples[0]}. By reason: "
        f"{'; '.join(reasons)}."
      )
    return _Loaded(found, note)


@dataclasses.dataclass(frozen=True)
class Use:
  """How far the sources of one pool are read.

  Attributes:
    epochs: passes over each source, by name.
    drawn: rows drawn from all.
    length: rows that may be drawn, by `data.epochs`; `None` for any number.
  """

  epochs: Mapping[str, float]
  drawn: int
  length: int | None


@dataclasses.dataclass(frozen=True)
class _Loaded:
  """Rows of text by source, and a sentence on where they come from."""

  named: Mapping[str, list]
  note: str

  @functools.cached_property
  def rows(self) -> list:
    return [row for rows in self.named.values() for row in rows]

  def of_mode(self, mode: int) -> dict[str, list[HFTRow]]:
    return {name: [row for row in rows if row.mode == mode] for name, rows in self.named.items()}


def _names(key: str) -> list[str]:
  return [name for part in key.split(",") if (name := part.strip())]


def _check_named(key: str, table: Mapping[str, float], known: Iterable[str]) -> None:
  known = list(known)
  for name in table:
    if name not in known:
      near = difflib.get_close_matches(name, known, n=1)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(
        f"data.{key}: {name!r} is no source that data.prompts or data.demonstrations names.{hint}"
      )


def _check_prepared(shards: Shards, named: Mapping[str, Sequence[str]]) -> None:
  for key, known in (("demonstrations", shards.names), ("prompts", tuple(shards.index.prompts))):
    if missing := [name for name in named[key] if name not in known]:
      raise ValueError(
        f"data.{key}: {shards.root} holds no {missing[0]!r}. It holds {', '.join(known) or 'none'}."
      )

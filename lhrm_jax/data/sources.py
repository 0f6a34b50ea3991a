"""Reads rows from files, Hugging Face `datasets` and `tensorflow_datasets`."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from lhrm_jax.data import files, libraries, splits
from lhrm_jax.data.config import ON_BAD_ROW
from lhrm_jax.data.fields import BadRow, Fields, Unwanted, columns, short
from lhrm_jax.text import printable

Row = TypeVar("Row")
SUFFIXES = files.SUFFIXES
PREFIXES = _HUB, _TFDS = "hf:", "tfds:"
_SHOWN = 5  # bad rows that a summary quotes
# Reasons that are counted apart, and their characters: many quote what a row holds.
_REASONS, _LONGEST_REASON = 1000, 200
OTHER_REASONS = "other reasons"


@dataclasses.dataclass(frozen=True)
class Source:
  """Where rows come from, and the names of their columns there.

  Attributes:
    path: a file with one of `files.SUFFIXES`, here or by URL in a bucket (`gs://`, `s3://`); `hf:`
      and a hub id, a folder of data files or one that `save_to_disk` wrote; or `tfds:` and a data
      set's name or its builder's folder.
    split: a split or parts of it, such as `train[:90%]`, see `splits`; of a file, whose only split
      is `train`, too.
    subset: of `hf:`, for data sets that have several.
    columns: our name of a column to the file's.
    constants: columns that are the same in every row, e.g. `{"mode": "no_think"}`.
    streaming: of `hf:`; reads while it downloads.
  """

  path: str
  split: str = "train"
  subset: str = ""
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
  constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  streaming: bool = False


@dataclasses.dataclass
class Loaded(Generic[Row]):
  """The rows of a source, and what was left out.

  Attributes:
    rows: the good ones, in order.
    bad: number of skipped rows, by reason.
    examples: location and reason of the first of them.
    unwanted: number of good rows that were left out, by reason.
  """

  rows: list[Row] = dataclasses.field(default_factory=list)
  bad: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  examples: list[str] = dataclasses.field(default_factory=list)
  unwanted: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

  @property
  def skipped(self) -> int:
    return self.bad.total()


def load(
  source: Source, to_row: Callable[[Fields], Row | None], on_bad_row: str = "raise"
) -> Loaded[Row]:
  """Reads a whole source; see `stream` for the arguments and errors.

  Raises:
    ValueError: also where every row was bad: the columns are then not the ones named.
  """
  loaded: Loaded[Row] = Loaded()
  loaded.rows.extend(stream(source, to_row, on_bad_row, loaded))
  if not loaded.rows:
    why = f": all {loaded.skipped} are bad, e.g. {loaded.examples[0]}" if loaded.skipped else ""
    if loaded.unwanted:
      why += f"; {loaded.unwanted.total()} are not wanted: {', '.join(loaded.unwanted)}"
    raise ValueError(f"{source.path} gave no rows{why}.")
  return loaded


def stream(
  source: Source,
  to_row: Callable[[Fields], Row | None],
  on_bad_row: str = "raise",
  record: Loaded[Row] | None = None,
) -> Iterator[Row]:
  """Yields the rows of a source as they are read.

  Args:
    source: where the rows come from.
    to_row: e.g. `rows.prompt_row`; raises `BadRow`. For a row that is good but not wanted it raises
      `Unwanted`, which is counted, or returns `None`.
    on_bad_row: "raise" stops at the first bad row, "skip" counts it.
    record: where skipped rows are counted.

  Raises:
    ValueError: a bad row, under "raise", with the file and the line; or a source that cannot be
      read, or only in part: see `check`.
    FileNotFoundError: there is no such source.
  """
  if on_bad_row not in ON_BAD_ROW:
    raise ValueError(f"on_bad_row={on_bad_row!r} is not one of {', '.join(ON_BAD_ROW)}.")
  check(source)
  for where, fields in _located(source):
    try:
      if isinstance(fields, BadRow):
        raise fields
      row = to_row(_renamed(source, fields))
    except Unwanted as error:
      if record is not None:
        _count(record.unwanted, error)
      continue
    except BadRow as error:
      message = printable(f"{where}: {error}")
      if isinstance(error, files.Unreadable):
        raise ValueError(f"{message}. Replace the file with a whole one.") from error
      if on_bad_row == "raise":
        raise ValueError(
          f"{message}. Mend the row, map its columns, or set on_bad_row='skip'."
        ) from error
      if record is not None:
        _count(record.bad, error)
        if len(record.examples) < _SHOWN:
          record.examples.append(message)
      continue
    if row is not None:
      yield row


def most_common(counts: Mapping[str, int], most: int) -> tuple[list[tuple[str, int]], int]:
  """The `most` common reasons with their counts, and the count of all others."""
  named = collections.Counter({r: n for r, n in counts.items() if r != OTHER_REASONS})
  shown = named.most_common(most)
  return shown, sum(counts.values()) - sum(count for _, count in shown)


def _count(counts: collections.Counter[str], error: Exception) -> None:
  reason = printable(str(error), _LONGEST_REASON)
  counts[reason if reason in counts or len(counts) < _REASONS else OTHER_REASONS] += 1


def _renamed(source: Source, fields: Fields) -> dict[str, Any]:
  """The fields under our names of columns."""
  renamed = {**fields, **source.constants}
  for ours, theirs in source.columns.items():
    if theirs not in fields:
      raise BadRow(f"no column {short(theirs)} (for {ours!r}); it has {columns(fields)}")
    renamed[ours] = fields[theirs]
  return renamed


def _located(source: Source) -> Iterator[tuple[str, Fields | BadRow]]:
  """Yields each row with its location."""
  parts = splits.parse(source.split)
  if source.path.startswith(_HUB):
    name = source.path.removeprefix(_HUB)
    yield from libraries.from_datasets(name, parts, source.subset, streaming=source.streaming)
  elif source.path.startswith(_TFDS):
    yield from libraries.from_tfds(source.path.removeprefix(_TFDS), parts)
  else:
    for part in parts:
      start, stop = part.rows(lambda: files.count(source.path))
      yield from files.read(source.path, start, stop)


def check(source: Source) -> None:
  """Checks a source as far as possible without reading it.

  Raises:
    ValueError: its split is not understood, a field has no effect on what it is, or its path is not
      a file of rows, or lies in a bucket that cannot be read.
    FileNotFoundError: it is a file that does not exist.
  """
  parts = splits.parse(source.split)
  if not source.path.startswith(PREFIXES):
    files.check(source.path)
    names = {part.name for part in parts} - {"train", "all"}
    if names:
      raise ValueError(
        f"{source.path} is a file, which has no split {sorted(names)[0]!r}: parts of it are "
        "written as split='train[:100]'."
      )
  if not source.path.startswith(_HUB):
    for field in ("subset", "streaming"):
      if value := getattr(source, field):
        raise ValueError(f"{field}={value!r} has no effect on {source.path}, only on hf:NAME.")

"""Reads rows from JSONL, Parquet, Hugging Face `datasets` and `tensorflow_datasets`.

Nothing here imports TensorFlow: data sources of tensorflow_datasets don't need it.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, Generic, TypeVar

from lhrm_jax.data import urls
from lhrm_jax.data.rows import BadRow, Fields, columns

Row = TypeVar("Row")
ON_BAD_ROW = ("raise", "skip")
SUFFIXES = _JSONL, _PARQUET = (".jsonl", ".parquet")
PREFIXES = _HUB, _TFDS = "hf:", "tfds:"
_SHOWN = 5  # bad rows that a summary quotes


@dataclasses.dataclass(frozen=True)
class Source:
  """Where rows come from, and what their columns are called there.

  Attributes:
    path: a `.jsonl` or `.parquet` file, here or by URL in a bucket (`gs://`, `s3://`); `hf:` and a
      hub id, a folder of data files or one that `save_to_disk` wrote; or `tfds:` and a data set's
      name or its builder's folder.
    split: of `hf:` and `tfds:`; slices such as `train[:100]` too.
    subset: of `hf:`, for data sets that have several.
    columns: our name of a column -> the file's.
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
    bad: how many were skipped, by reason.
    examples: where the first of them stand, and why.
  """

  rows: list[Row] = dataclasses.field(default_factory=list)
  bad: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
  examples: list[str] = dataclasses.field(default_factory=list)

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
    source: where from.
    to_row: e.g. `rows.prompt_row`; raises `BadRow`, or returns `None` for a row that is good but
      not wanted.
    on_bad_row: "raise" stops at the first bad row, "skip" counts it.
    record: where skipped rows are counted.

  Raises:
    ValueError: a bad row, under "raise", with the file and the line, or a bucket that cannot be
      read.
    FileNotFoundError: there is no such source.
  """
  if on_bad_row not in ON_BAD_ROW:
    raise ValueError(f"on_bad_row={on_bad_row!r} is none of {', '.join(ON_BAD_ROW)}.")
  for where, fields in _located(source):
    try:
      if isinstance(fields, BadRow):
        raise fields
      row = to_row(_renamed(source, fields))
    except BadRow as error:
      if on_bad_row == "raise":
        raise ValueError(
          f"{where}: {error}. Mend the row, map its columns, or set on_bad_row='skip'."
        ) from error
      if record is not None:
        record.bad[str(error)] += 1
        if len(record.examples) < _SHOWN:
          record.examples.append(f"{where}: {error}")
      continue
    if row is not None:
      yield row


def _renamed(source: Source, fields: Fields) -> dict[str, Any]:
  """The fields under our names, those the config maps and those that bear them already."""
  renamed = {**fields, **source.constants}
  for ours, theirs in source.columns.items():
    if theirs not in fields:
      raise BadRow(f"no column {theirs!r} (for {ours!r}); it has {columns(fields)}")
    renamed[ours] = fields[theirs]
  return renamed


def _located(source: Source) -> Iterable[tuple[str, Fields | BadRow]]:
  """Each row with the place it stands at."""
  if source.path.startswith(_HUB):
    return _from_datasets(source)
  if source.path.startswith(_TFDS):
    return _from_tfds(source)
  check_file(source.path)
  read = _from_jsonl if source.path.endswith(_JSONL) else _from_parquet
  return _from_file(source.path, read)


def check_file(path: str) -> None:
  """Whether a file or URL can be read; reads nothing of it.

  Raises:
    ValueError: it is no file of rows, or lies in a bucket that cannot be read.
    FileNotFoundError: it does not exist.
  """
  if not path.endswith(SUFFIXES):
    raise ValueError(
      f"{path!r} is no .jsonl or .parquet file; a hub id or folder is written hf:NAME, a data set "
      "of tensorflow_datasets tfds:NAME."
    )
  if urls.is_url(path):
    files, name = urls.open_bucket(path)
    with urls.explained(path, "read"):
      found = files.isfile(name)
  else:
    found = pathlib.Path(path).expanduser().is_file()
  if not found:
    raise FileNotFoundError(f"{path} does not exist.")


_Read = Callable[[IO[bytes], str], Iterator[tuple[str, Fields | BadRow]]]


def _from_file(path: str, read: _Read) -> Iterator[tuple[str, Fields | BadRow]]:
  if urls.is_url(path):
    files, name = urls.open_bucket(path)
    with urls.explained(path, "read"), files.open(name, "rb") as file:
      yield from read(file, path)
  else:
    with pathlib.Path(path).expanduser().open("rb") as file:
      yield from read(file, path)


def _from_jsonl(file: IO[bytes], name: str) -> Iterator[tuple[str, Fields | BadRow]]:
  for number, line in enumerate(file, start=1):
    if line.strip():
      yield f"{name}:{number}", _json_object(line)


def _json_object(line: bytes) -> Fields | BadRow:
  try:
    fields = json.loads(line.decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    return BadRow(f"is not UTF-8 ({error.reason} at byte {error.start + 1})")
  except json.JSONDecodeError as error:
    return BadRow(f"is no JSON ({error.msg} at column {error.colno})")
  except RecursionError:
    return BadRow("is JSON nested too deeply")
  except ValueError:  # Python converts no text of more than 4,300 digits
    return BadRow("holds a number of too many digits")
  if not isinstance(fields, dict):
    return BadRow(f"is a JSON {type(fields).__name__}, not an object")
  return fields


def _from_parquet(file: IO[bytes], name: str) -> Iterator[tuple[str, Fields]]:
  import pyarrow.parquet

  row = 0
  for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024):
    for fields in batch.to_pylist():
      yield f"{name}: row {row}", fields
      row += 1


def _from_datasets(source: Source) -> Iterator[tuple[str, Fields]]:
  import datasets

  name = source.path.removeprefix(_HUB)
  folder = pathlib.Path(name).expanduser()
  if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
    data = datasets.load_from_disk(str(folder))
    if isinstance(data, datasets.DatasetDict):
      data = data[source.split]
  else:
    data = datasets.load_dataset(
      str(folder) if folder.is_dir() else name,
      source.subset or None,
      split=source.split,
      streaming=source.streaming,
    )
  for row, fields in enumerate(data):
    yield f"{source.path} ({source.split}): row {row}", fields


def _from_tfds(source: Source) -> Iterator[tuple[str, Fields]]:
  import tensorflow_datasets as tfds

  name = source.path.removeprefix(_TFDS)
  folder = pathlib.Path(name).expanduser()
  builder = tfds.builder_from_directory(folder) if folder.is_dir() else tfds.builder(name)
  for row, fields in enumerate(builder.as_data_source(split=source.split)):
    yield f"{source.path} ({source.split}): row {row}", _decoded(fields)


def _decoded(value: Any) -> Any:
  """tensorflow_datasets gives text as bytes, and numbers as arrays without axes."""
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if isinstance(value, Mapping):
    return {key: _decoded(item) for key, item in value.items()}
  if hasattr(value, "tolist"):
    return _decoded(value.tolist())
  if isinstance(value, list | tuple):
    return [_decoded(item) for item in value]
  return value

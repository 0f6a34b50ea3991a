"""Reads rows through the libraries `datasets` and `tensorflow_datasets`.

Nothing here imports TensorFlow: data sources of tensorflow_datasets don't need it.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lhrm_jax.data.fields import BadRow, Fields
from lhrm_jax.data.splits import Part
from lhrm_jax.text import printable

Located = tuple[str, Fields | BadRow]


def from_datasets(
  name: str, parts: Sequence[Part], subset: str = "", *, streaming: bool = False
) -> Iterator[Located]:
  """Yields rows of a data set of the hub, a folder of files, or what `save_to_disk` wrote.

  Args:
    name: hub id or folder.
    parts: of its splits.
    subset: of a data set that has several.
    streaming: read while it downloads.

  Raises:
    ValueError: it has no such split or subset, or `datasets` cannot read it; or a stream, whose
      length is not known, is to be cut at a percentage or counted from its end.
    FileNotFoundError: there is no such data set.
  """
  import datasets

  folder = pathlib.Path(name).expanduser()
  with _explained(name):
    saved = _saved(folder)
    for field, value in (("subset", subset), ("streaming", streaming)):
      if saved is not None and value:
        raise ValueError(f"{field}={value!r} has no effect on a folder that save_to_disk wrote")
    for part in parts:
      if saved is not None:
        data = _split_of_saved(saved, part.name)
      else:
        data = datasets.load_dataset(
          str(folder) if folder.is_dir() else name,
          subset or None,
          split=part.name,
          streaming=streaming,
        )
      if isinstance(data, datasets.IterableDataset):
        start, stop = part.rows(_unknown_length)
        data = data.skip(start) if stop is None else data.skip(start).take(max(stop - start, 0))
      else:
        kept = _range(part, len(data))
        start, data = kept.start, data.select(kept)
      for row, fields in enumerate(data, start):
        yield f"hf:{name} ({part.name}): row {row}", fields


def _saved(folder: pathlib.Path) -> Any:
  """The splits that `save_to_disk` wrote, by name; `None` where it did not write this folder."""
  import datasets

  if not any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
    return None
  data = datasets.load_from_disk(str(folder))
  if isinstance(data, datasets.DatasetDict):
    return data
  # A part of a split, "train[:100]", goes by the split's name; "train+test" is no single split.
  recorded = str(data.split or "train").partition("[")[0]
  return {recorded if recorded.isidentifier() else "train": data}


def _split_of_saved(saved: Mapping[str, Any], name: str) -> Any:
  import datasets

  if name == "all":
    return datasets.concatenate_datasets(list(saved.values()))
  if name not in saved:
    raise ValueError(f"no split {name!r}; it has {', '.join(saved)}")
  return saved[name]


def _range(part: Part, length: int) -> range:
  start, stop, _ = slice(*part.rows(lambda: length)).indices(length)
  return range(start, max(start, stop))


def _unknown_length() -> int:
  raise ValueError(
    "the length of a stream is not known: cut it at numbers of rows from its beginning, or set "
    "streaming=False"
  )


def from_tfds(name: str, parts: Sequence[Part]) -> Iterator[Located]:
  """Yields rows of a data set of `tensorflow_datasets`, by name or by its builder's folder.

  Raises:
    ValueError: it has no such split, or cannot be read.
  """
  import tensorflow_datasets as tfds

  folder = pathlib.Path(name).expanduser()
  with _explained(name):
    builder = tfds.builder_from_directory(folder) if folder.is_dir() else tfds.builder(name)
    for part in parts:
      data = builder.as_data_source(split=part.name)
      for row in _range(part, len(data)):
        yield f"tfds:{name} ({part.name}): row {row}", _decoded_row(data[row])


def _decoded_row(fields: Fields) -> Fields | BadRow:
  try:
    return _decoded(fields)
  except UnicodeDecodeError as error:
    return BadRow(f"is not UTF-8 ({error.reason} at byte {error.start + 1} of a field)")


def _decoded(value: Any) -> Any:
  """`value` with text for bytes and numbers for arrays, as tensorflow_datasets gives them."""
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if isinstance(value, Mapping):
    return {key: _decoded(item) for key, item in value.items()}
  if hasattr(value, "tolist"):
    return _decoded(value.tolist())
  if isinstance(value, list | tuple):
    return [_decoded(item) for item in value]
  return value


@contextmanager
def _explained(name: str) -> Iterator[None]:
  """Turns the libraries' own errors into `ValueError`."""
  try:
    yield
  except (FileNotFoundError, ImportError):
    raise
  except Exception as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise ValueError(f"{name} cannot be read: {printable(reason, 300).rstrip('.')}.") from error

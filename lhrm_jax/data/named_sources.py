"""Finds the sources that a config names, before anything is read or trained."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from lhrm_jax.data import rows, sources
from lhrm_jax.data.catalog import DATASETS, Dataset
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.data.sources import Source

_SOURCE_KEYS = ("format", *(field.name for field in dataclasses.fields(Source)))
_READERS: dict[type, Callable] = {PromptRow: rows.prompt_row, HFTRow: rows.hft_row}
_WORDS = {PromptRow: "queries", HFTRow: "demonstrations"}


def find(name: str, own: Mapping[str, Mapping[str, Any]], kind: type, key: str) -> Dataset:
  """The source of that name, with the reader for the wanted kind of row.

  Args:
    name: one of `own` or of the catalog, or a path.
    own: sources that the config defines, by name, as fields of `Source` and `format`.
    kind: `PromptRow` or `HFTRow`.
    key: of the section `data`, for messages.

  Raises:
    ValueError: there is no such source, it has a wrong field, or it gives rows of the other kind.
  """
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


def evaluation_rows(data: DataConfig) -> dict[str, list[PromptRow]]:
  """All rows of the sources that `data.evaluation` names, by name.

  Raises:
    ValueError: a source does not exist, has no rows, or a row is bad.
  """
  found = {}
  for name in filter(None, map(str.strip, data.evaluation.split(","))):
    dataset = find(name, data.sources, PromptRow, "evaluation")
    found[name] = sources.load(dataset.source, dataset.to_row, data.on_bad_row).rows
  return found


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

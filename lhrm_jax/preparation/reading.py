"""Reads the sources in their own formats into parts, and counts what is bad or not wanted."""

import collections
import dataclasses
import glob
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fsspec
from datatrove.pipeline.base import PipelineStep

from lhrm_jax.data import named_sources, sources
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.preparation.rows import fields_of, write_part
from lhrm_jax.storage import urls
from lhrm_jax.storage.folder import Folder

COUNTS = "read"
_KINDS: dict[str, type] = {"demonstrations": HFTRow, "prompts": PromptRow}


@dataclasses.dataclass(frozen=True)
class Unit:
  """What one task reads at a time: a source, or one of its files.

  Attributes:
    source: name of the source.
    key: "demonstrations" or "prompts".
    own: definition of the source in the config, with this file as its path; `None` for one of the
      catalog.
  """

  source: str
  key: str
  own: Mapping[str, Any] | None

  def __str__(self) -> str:
    return f"{self.key}: {self.source} {(self.own or {}).get('path', '')}".rstrip()

  @property
  def version(self) -> str:
    """Size and time of change of its file, by which another content is noticed; "" if unknown."""
    path = str((self.own or {}).get("path", ""))
    if urls.is_url(path):
      files, name = urls.open_bucket(path)
      with urls.explained(path, "read"):
        found = files.info(name) if files.isfile(name) else {}
      return " ".join(str(found[key]) for key in ("size", "ETag", "etag", "mtime") if key in found)
    local = pathlib.Path(path)
    return f"{local.stat().st_size} {local.stat().st_mtime_ns}" if path and local.is_file() else ""

  @property
  def dataset(self) -> named_sources.Dataset:
    """Raises:
    ValueError: see `named_sources.find`.
    """
    own = {} if self.own is None else {self.source: self.own}
    return named_sources.find(self.source, own, _KINDS[self.key], self.key)


def units(data: DataConfig) -> list[Unit]:
  """The sources that `data.demonstrations` and `data.prompts` name, file by file.

  A path of `data.sources` may hold `*`.

  Raises:
    ValueError: a source does not exist or is malformed.
  """
  found = []
  for key in _KINDS:
    for name in filter(None, map(str.strip, getattr(data, key).split(","))):
      own = data.sources.get(name)
      paths = _files(str(own.get("path", ""))) if own is not None else [None]
      for path in paths:
        found.append(Unit(name, key, own if path is None else {**own, "path": path}))
  if not found:
    raise ValueError("nothing is named to prepare: set data.demonstrations or data.prompts.")
  for unit in found:
    _ = unit.dataset
  return found


def _files(path: str) -> list[str]:
  """The files of a path with `*`, sorted; any other path as it is."""
  if "*" not in path:
    return [path]
  if urls.is_url(path):
    files, pattern = urls.open_bucket(path)
    with urls.explained(path, "read"):
      found = [files.unstrip_protocol(name) for name in files.glob(pattern)]
  else:
    found = glob.glob(fsspec.utils.stringify_path(path), recursive=True)
  if not found:
    raise ValueError(f"no file matches {path!r}.")
  return sorted(found)


class ReadSources(PipelineStep):
  """Writes the parts of the units of a rank: those at `rank`, `rank + world_size` and so on."""

  type, name = "Reader", "sources"

  def __init__(self, work: str, found: Sequence[Unit], part_rows: int):
    super().__init__()
    self._work, self._units, self._part_rows = work, tuple(found), part_rows

  def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    folder = Folder(self._work)
    for number in range(rank, len(self._units), world_size):
      self._read(folder, number)
    yield from ()

  def _read(self, folder: Folder, number: int) -> None:
    unit, record = self._units[number], sources.Loaded()
    dataset, kept = unit.dataset, 0
    rows = sources.stream(dataset.source, dataset.to_row, "skip", record)
    for part, held in enumerate(_batched(rows, self._part_rows)):
      fields = [fields_of(row, unit.source) for row in held]
      write_part(folder, f"{number:05d}-{part:05d}", fields)
      kept += len(fields)
    counts = {
      "source": unit.source,
      "kept": kept,
      "bad": record.bad,
      "unwanted": record.unwanted,
      "examples": record.examples,
    }
    folder.write(f"{COUNTS}/{number:05d}.json", json.dumps(counts).encode())


class CheckSources(PipelineStep):
  """Ends a preparation in which a source has no row: one task, after all are read."""

  type, name = "Reader", "sources without rows"

  def __init__(self, work: str):
    super().__init__()
    self._work = work

  def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    """Raises:
    ValueError: a source has no row that is well formed and wanted.
    """
    folder, kept, why = Folder(self._work), collections.Counter(), {}
    for name in folder.names(COUNTS):
      counts = json.loads(folder.read(name))
      kept[counts["source"]] += counts["kept"]
      why[counts["source"]] = {**counts["bad"], **counts["unwanted"]}
    for source in kept:
      if not kept[source]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in why[source].items())
        raise ValueError(f"{source} has no row that can be used: {reasons or 'it is empty'}.")
    yield from ()


def _batched(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
  while held := list(itertools.islice(rows, size)):
    yield held

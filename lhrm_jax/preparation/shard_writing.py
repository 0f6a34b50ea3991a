"""Tokenises rows, leaves out those that are too long, shuffles them globally, writes shards.

Every row has a random number that is a function of the seed and its place in the sources. Each part
becomes a run: its rows, encoded, in the order of their numbers. Merging all runs of a source gives
its rows in the order of their numbers, whatever was read by which task, and only as many rows of
each run are in memory as the shard that is being written takes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from lhrm_jax import text
from lhrm_jax.data.batches import encode, prompt_ids
from lhrm_jax.data.shards import Group, Shard, file_name
from lhrm_jax.policy.pretrained import locate
from lhrm_jax.preparation.rows import QUERY, Removal, parquet, row_of
from lhrm_jax.storage.folder import Folder

RUNS, GROUPS, TOKENS = "runs", "groups", "tokens"
_ROW_GROUP = 64  # rows of a run that are in memory at a time
_ENCODED = pa.schema([
  ("order", pa.uint64()), ("id", pa.string()), ("ids", pa.list_(pa.int32())),
  ("prompt", pa.int32()),
])  # fmt: skip
_QUERIES = pa.schema([
  ("order", pa.uint64()), ("id", pa.string()),
  ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
  ("answer", pa.string()), ("level", pa.int32()), ("source", pa.string()),
])  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Limits:
  """Most tokens of a row, end of sequence included.

  Attributes:
    prompt: of a query, chat template included.
    by_mode: of a demonstration, prompt included, by the name of its mode.
  """

  prompt: int
  by_mode: Mapping[str, int]


class Tokenise(PipelineStep):
  """Writes a run for each source and mode of every part."""

  type, name = "Tokenizer", "rows within the limits"

  def __init__(self, work: str, tokenizer: str, limits: Limits, seed: int, step: str):
    """Args:
    work: folder of the preparation.
    tokenizer: model whose tokenizer encodes the rows.
    limits: most tokens of a row.
    seed: of the order of the rows.
    step: name under which removed rows are recorded.
    """
    super().__init__()
    self._work, self._tokenizer, self._limits = work, tokenizer, limits
    self._seed, self._removal = seed, Removal(work, step, "too many tokens")

  def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    folder, tokenizer = Folder(self._work), load_tokenizer(self._tokenizer)
    with self._removal as removal:
      for part, docs in itertools.groupby(data, lambda doc: doc.id.rpartition(":")[0]):
        self._write(folder, part, tokenizer, docs, removal, rank)
    yield from ()

  def _write(
    self, folder: Folder, part: str, tokenizer: text.Tokenizer, docs: Iterator[Document],
    removal: Removal, rank: int,
  ) -> None:  # fmt: skip
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for doc in docs:
      mode, source = doc.metadata["mode"], doc.metadata["source"]
      try:
        fields = self._encoded(tokenizer, doc)
      except ValueError:  # e.g. two turns of the user in a row
        fields = None
        doc.metadata["filter_reason"] = "the chat template refuses it"
      if fields is None:
        removal.write(doc, rank)
      else:
        runs.setdefault((mode, source), []).append(fields)
    for (mode, source), rows in runs.items():
      rows.sort(key=lambda fields: (fields["order"], fields["id"]))
      schema = _QUERIES if mode == QUERY else _ENCODED
      table = pa.Table.from_pylist(rows, schema)
      folder.write(f"{RUNS}/{mode}/{file_name(source)}/{part}.parquet", parquet(table, _ROW_GROUP))

  def _encoded(self, tokenizer: text.Tokenizer, doc: Document) -> dict[str, Any] | None:
    row, mode = row_of(doc.metadata), doc.metadata["mode"]
    fields = {"order": _order(self._seed, doc.id), "id": doc.id}
    if mode == QUERY:
      if len(prompt_ids(tokenizer, row)) > self._limits.prompt:
        return None
      messages = [*doc.metadata["earlier"], {"role": "user", "content": row.prompt}]
      kept = {"answer": row.answer, "level": row.level, "source": row.source}
      return fields | {"messages": messages} | kept
    sequence = encode(tokenizer, row)
    if len(sequence.ids) > self._limits.by_mode[mode]:
      return None
    return fields | {"ids": sequence.ids, "prompt": sequence.weights.count(0.0)}


class WriteShards(PipelineStep):
  """Merges the runs of each source and mode into shards, or into one file of queries."""

  type, name = "Writer", "shards"

  def __init__(
    self, work: str, out: str, shard_rows: int, most_rows: Mapping[str, float],
    weights: Mapping[str, float],
  ):  # fmt: skip
    """Args:
    work: folder of the preparation.
    out: folder of the prepared data.
    shard_rows: rows of a shard.
    most_rows: most rows of a source, by name.
    weights: of the rows of a source in a mixture, by name; 1 for others.
    """
    super().__init__()
    self._work, self._out, self._shard_rows = work, out, shard_rows
    self._most, self._weights = dict(most_rows), dict(weights)

  def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    work = Folder(self._work)
    found = sorted({tuple(name.split("/")[1:3]) for name in work.names(RUNS)})
    for mode, quoted in found[rank::world_size]:
      source = urllib.parse.unquote(quoted)
      tables = merged(work, mode, source, self._shard_rows, self._most.get(source))
      if mode == QUERY:
        held = self._write_queries(tables, source)
      else:
        held = dataclasses.asdict(self._write_group(tables, mode, source))
      work.write(f"{GROUPS}/{mode}/{quoted}.json", json.dumps(held).encode())
    yield from ()

  def _write_queries(self, tables: Iterator[pa.Table], source: str) -> dict[str, Any]:
    table = pa.concat_tables(tables).drop_columns(["order", "id"])
    Folder(self._out).write(f"prompts/{file_name(source)}.parquet", parquet(table))
    return {"source": source, "rows": len(table)}

  def _write_group(self, tables: Iterator[pa.Table], mode: str, source: str) -> Group:
    out, shards, tokens, longest = Folder(self._out), [], 0, 0
    for number, table in enumerate(tables):
      lengths = pa.compute.list_value_length(table["ids"]).to_numpy()
      tokens, longest = tokens + int(lengths.sum()), max(longest, int(lengths.max()))
      content = shard_bytes(table)
      name = f"demonstrations/{mode}/{file_name(source)}/{number:05d}.parquet"
      out.write(name, content)
      shards.append(Shard(name, len(table), hashlib.sha256(content).hexdigest()))
    rows = sum(shard.rows for shard in shards)
    weight = self._weights.get(source, 1.0)
    return Group(source, mode, rows, tokens, longest, weight, tuple(shards))


class _Run:
  """One run, read in its order by row groups; `iter_batches` would hold five times as much."""

  def __init__(self, folder: Folder, name: str):
    self._file = folder.open(name)
    self._parquet = pa.parquet.ParquetFile(self._file)
    self._groups = iter(range(self._parquet.num_row_groups))
    self._held = self._parquet.schema_arrow.empty_table()
    self.order = self._parquet.read(columns=["order"])["order"].to_numpy()

  def take(self, count: int) -> pa.Table:
    """The next `count` rows."""
    while len(self._held) < count:
      group = self._parquet.read_row_group(next(self._groups), use_threads=False)
      self._held = pa.concat_tables([self._held, group])
    taken, self._held = self._held.slice(0, count), self._held.slice(count)
    return taken

  def close(self) -> None:
    self._file.close()


def merged(
  work: Folder, mode: str, source: str, size: int, most: float | None = None
) -> Iterator[pa.Table]:
  """Yields a source's rows of one mode in their order, `size` at a time and `most` in all."""
  _raise_limit_of_files()
  runs = [_Run(work, name) for name in work.names(f"{RUNS}/{mode}/{file_name(source)}")]
  of_run = np.repeat(np.arange(len(runs)), [len(run.order) for run in runs])
  orders = np.concatenate([run.order for run in runs])
  order = np.argsort(orders, kind="stable")[: None if most is None else int(most)]
  for first in range(0, len(order), size):
    counts = np.bincount(of_run[order[first : first + size]], minlength=len(runs))
    taken = [run.take(count) for run, count in zip(runs, counts.tolist(), strict=True) if count]
    table = pa.concat_tables(taken)
    yield table.sort_by([("order", "ascending"), ("id", "ascending")]).combine_chunks()
  for run in runs:
    run.close()


def shard_bytes(table: pa.Table) -> bytes:
  """A table of `merged` as the bytes of a shard."""
  return parquet(table.select(["ids", "prompt", "id"]))


def _raise_limit_of_files() -> None:
  """As many open files as the system allows: merging holds every run of a source open."""
  with contextlib.suppress(ImportError, ValueError, OSError):
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@functools.cache  # a worker runs many tasks
def load_tokenizer(model: str) -> text.Tokenizer:
  """The tokenizer of a model's folder, hub id, GGUF file or `package:NAME`.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is damaged.
  """
  tokenizer = text.load_tokenizer(locate(model))
  return tokenizer.faster() if isinstance(tokenizer, text.PretrainedTokenizer) else tokenizer


def _order(seed: int, row: str) -> int:
  digest = hashlib.blake2b(f"{seed}:{row}".encode(), digest_size=8).digest()
  return int.from_bytes(digest, "big")

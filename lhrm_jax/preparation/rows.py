"""The rows of a preparation: Parquet parts, a reader of the rows left, and what is removed."""

import collections
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from lhrm_jax.data.questions import normalise
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.storage.folder import Folder
from lhrm_jax.text import tags

PARTS, REMOVED = "rows", "removed"
QUERY = "query"  # in the column `mode`, where a demonstration has its mode
_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
_SCHEMA = pa.schema([
  ("source", pa.string()), ("mode", pa.string()), ("question", pa.string()),
  ("asked", pa.string()), ("prompt", pa.string()), ("response", pa.string()),
  ("earlier", pa.list_(_TURN)),
  ("answer", pa.string()), ("level", pa.int32()), ("label", pa.string()),
])  # fmt: skip
_SHOWN, _LONGEST_SHOWN = 3, 300  # removed rows that are kept as examples, and their characters


def fields_of(row: HFTRow | PromptRow, source: str) -> dict[str, Any]:
  """A row as a part holds it.

  `question` is the user's turns, normalised, without requests for a form of answer; `asked` is the
  system's and the user's turns with them, by which rows are compared; `label` is the source that
  rewards go by, which may be another name than that of the source in the config.
  """
  users = [content for role, content in row.earlier if role == "user"]
  system = [content for role, content in row.earlier if role == "system"]
  shown = isinstance(row, HFTRow)
  return {
    "source": source,
    "mode": tags.MODES[row.mode] if shown else QUERY,
    "question": " ".join(normalise("\n".join([*users, row.prompt])).words),
    "asked": " ".join(normalise("\n".join([*system, *users, row.prompt]), requests=True).words),
    "prompt": row.prompt,
    "response": row.response if shown else "",
    "earlier": [{"role": role, "content": content} for role, content in row.earlier],
    "answer": row.answer,
    "level": 0 if shown else row.level,
    "label": "" if shown else row.source or source,
  }


def row_of(fields: dict[str, Any]) -> HFTRow | PromptRow:
  """The row that `fields_of` was given."""
  earlier = tuple((turn["role"], turn["content"]) for turn in fields["earlier"])
  if fields["mode"] == QUERY:
    return PromptRow(fields["prompt"], fields["answer"], fields["level"], fields["label"], earlier)
  mode = tags.MODES.index(fields["mode"])
  return HFTRow(
    fields["prompt"], fields["response"], mode, earlier=earlier, answer=fields["answer"]
  )


def parquet(table: pa.Table, row_group_size: int | None = None) -> bytes:
  """A table as the bytes of a Parquet file: the same table gives the same bytes."""
  out = io.BytesIO()
  pa.parquet.write_table(
    table, out, compression="zstd", compression_level=1, row_group_size=row_group_size
  )
  return out.getvalue()


def write_part(folder: Folder, name: str, rows: Sequence[dict[str, Any]]) -> None:
  folder.write(f"{PARTS}/{name}.parquet", parquet(pa.Table.from_pylist(rows, _SCHEMA)))


def part_names(folder: Folder) -> list[str]:
  """Names of all parts, in the order of the sources and their rows."""
  found = folder.names(PARTS)
  return [name.removeprefix(f"{PARTS}/").removesuffix(".parquet") for name in found]


def read_part(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
  content = io.BytesIO(folder.read(f"{PARTS}/{name}.parquet"))
  return pa.parquet.read_table(content, columns=columns and list(columns))


class Rows(PipelineStep):
  """Reads the rows that earlier steps left, part by part; a rank reads every `world_size`-th part.

  A document's text is its normalised question, its id `PART:ROW`, its metadata the row's fields.
  """

  type, name = "Reader", "rows that are left"

  def __init__(self, work: str, earlier: Sequence[str]):
    """Args:
    work: folder of the preparation.
    earlier: steps whose removed rows are skipped.
    """
    super().__init__()
    self._work, self._earlier = work, tuple(earlier)

  def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
    folder = Folder(self._work)
    gone = removed(folder, rank, self._earlier)
    for part in part_names(folder)[rank::world_size]:
      for number, fields in enumerate(read_part(folder, part).to_pylist()):
        if number not in gone[part]:
          yield Document(fields["question"], f"{part}:{number}", metadata=fields)


@dataclasses.dataclass
class Removal:
  """Records the rows that one step removes in one rank: datatrove's `exclusion_writer`.

  It is written once the step is done, so a step that is killed leaves nothing.

  Attributes:
    work: folder of the preparation.
    step: name of the step.
    reason: why rows are removed, where a filter gives no reason of its own.
  """

  work: str
  step: str
  reason: str = ""

  def __enter__(self) -> "Removal":
    self._rank, self._rows = 0, collections.defaultdict(list)
    self._counts, self._examples = collections.Counter(), []
    return self

  def write(self, doc: Document, rank: int = 0) -> None:
    self._rank = rank
    part, _, number = doc.id.rpartition(":")
    self._rows[part].append(int(number))
    reason = doc.metadata.pop("filter_reason", self.reason)
    source = doc.metadata["source"]
    self._counts[source, reason] += 1
    if len(self._examples) < _SHOWN:
      shown = {key: doc.metadata[key][:_LONGEST_SHOWN] for key in ("prompt", "response")}
      self._examples.append({"id": doc.id, "source": source, "reason": reason, **shown})

  def __exit__(self, error_type, error, traceback) -> None:
    if error_type is None and self._rows:
      counts = [[*key, count] for key, count in sorted(self._counts.items())]
      held = {"rows": self._rows, "counts": counts, "examples": self._examples}
      name = f"{REMOVED}/{self.step}/{self._rank:05d}.json"
      Folder(self.work).write(name, json.dumps(held).encode())


def removed(
  folder: Folder, rank: int, steps: Sequence[str]
) -> collections.defaultdict[str, set[int]]:
  """Numbers of the rows that steps removed from the parts of a rank, by part."""
  found: collections.defaultdict[str, set[int]] = collections.defaultdict(set)
  for step in steps:
    name = f"{REMOVED}/{step}/{rank:05d}.json"
    if folder.has(name):
      for part, rows in json.loads(folder.read(name))["rows"].items():
        found[part] |= set(rows)
  return found

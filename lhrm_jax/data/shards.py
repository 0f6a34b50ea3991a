"""Prepared demonstrations: tokenised rows in Parquet files, with an index.

ROOT/index.json                        what there is, and the tokenizer that made it
ROOT/demonstrations/MODE/SOURCE/N.parquet  rows of one source in one mode, globally shuffled
ROOT/prompts/SOURCE.parquet            queries, as text
ROOT/card.md, card.json                what was read, removed and kept

A row of a shard is one demonstration: its token ids (`ids`), how many of them are the prompt's
(`prompt`), and where it was read (`id`). ROOT is a folder or the URL of one in a bucket. Each
shard is read whole and checked against the index. In SOURCE, characters that a path gives a meaning
are quoted as in a URL.
"""

import dataclasses
import functools
import hashlib
import io
import json
import urllib.parse
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lhrm_jax.data.batches import Encoded
from lhrm_jax.storage.folder import Folder
from lhrm_jax.text import Tokenizer, tags

INDEX, VERSION = "index.json", 1
_PROBE = "Is 17 + 25 = 42?\nThe café's \\boxed{42} <think>"
_KEPT = 2  # shards of each group in memory: one is read to its end before another begins


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of rows, with its number of rows and the SHA-256 of its content."""

  name: str
  rows: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Group:
  """The rows of one source in one mode.

  Attributes:
    source: name of the source.
    mode: one of `tags.MODES`, by name.
    rows: number of rows.
    tokens: sum of their tokens, end of sequence included.
    longest: most tokens of a row.
    weight: weight of each row in a mixture.
    shards: files.
  """

  source: str
  mode: str
  rows: int
  tokens: int
  longest: int
  weight: float
  shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class Index:
  """What a folder of prepared data holds.

  Attributes:
    tokenizer: `fingerprint` of the tokenizer that encoded the demonstrations.
    groups: of demonstrations.
    prompts: sources of queries, with their numbers of rows.
    suites: evaluations whose questions were removed.
  """

  tokenizer: str
  groups: tuple[Group, ...]
  prompts: Mapping[str, int]
  suites: tuple[str, ...]

  def to_json(self) -> bytes:
    return json.dumps({"version": VERSION, **dataclasses.asdict(self)}, indent=1).encode() + b"\n"

  @classmethod
  def read(cls, folder: Folder) -> "Index":
    """Raises:
    ValueError: the folder holds no index, or one of another version.
    """
    try:
      held = json.loads(folder.read(INDEX))
      if held.pop("version") != VERSION:
        raise ValueError(f"it is not of version {VERSION}")
      groups = tuple(
        Group(**{**group, "shards": tuple(Shard(**shard) for shard in group["shards"])})
        for group in held.pop("groups")
      )
      return cls(groups=groups, suites=tuple(held.pop("suites")), **held)
    except FileNotFoundError as error:
      raise ValueError(
        f"{folder.root} holds no {INDEX}: it is not prepared data, or its preparation "
        "(experiments.prepare_data) has not finished."
      ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise ValueError(f"{folder.root}/{INDEX} is damaged: {error}.") from error


class ShardSource:
  """The demonstrations of one group, read shard by shard.

  Every epoch takes the shards in a new order and, within each, the rows in a new order.
  """

  def __init__(self, folder: Folder, group: Group):
    self._folder, self._group = folder, group
    self._read = functools.lru_cache(maxsize=_KEPT)(self._read_shard)
    self._sizes = np.array([shard.rows for shard in group.shards])

  def __len__(self) -> int:
    return self._group.rows

  @property
  def weight(self) -> float:
    return self._group.weight

  @property
  def longest(self) -> int:
    return self._group.longest

  def take(self, key: tuple[int, ...], number: int) -> Encoded:
    """Row of the draw `number` of an endless stream that is a function of `key`.

    Raises:
      ValueError: its shard is missing or damaged.
    """
    epoch, place = divmod(number, len(self))
    order, ends = _order((*key, epoch), tuple(self._sizes.tolist()))
    at = int(np.searchsorted(ends, place, side="right"))
    shard = int(order[at])
    within = place - (int(ends[at - 1]) if at else 0)
    row = int(_permutation((*key, epoch, shard), int(self._sizes[shard]))[within])
    ids, offsets, prompts = self._read(shard)
    ids = ids[offsets[row] : offsets[row + 1]]
    weights = np.ones(len(ids), np.float32)
    weights[: prompts[row]] = 0
    return Encoded(ids, weights)

  def _read_shard(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import pyarrow.parquet

    shard = self._group.shards[number]
    where = f"{self._folder.root}/{shard.name}"
    try:
      content = self._folder.read(shard.name)
    except FileNotFoundError as error:
      raise ValueError(f"{where} is missing, which {INDEX} names: copy it again.") from error
    if hashlib.sha256(content).hexdigest() != shard.sha256:
      raise ValueError(f"{where} is damaged: its checksum is not that of {INDEX}. Copy it again.")
    table = pyarrow.parquet.read_table(io.BytesIO(content), columns=["ids", "prompt"])
    ids = table["ids"].combine_chunks()
    return ids.values.to_numpy(), ids.offsets.to_numpy(), table["prompt"].to_numpy()


class Shards:
  """The demonstrations of a folder of prepared data.

  Attributes:
    root: its path or URL.
    index: what it holds.
  """

  def __init__(self, root: str):
    """Raises:
    ValueError: there is no prepared data.
    """
    self._folder = Folder(root)
    self.root, self.index = self._folder.root, Index.read(self._folder)

  @property
  def names(self) -> tuple[str, ...]:
    """Sources of demonstrations."""
    return tuple(dict.fromkeys(group.source for group in self.index.groups))

  def of_mode(self, mode: int, names: Sequence[str]) -> dict[str, ShardSource]:
    """The sources of these names that have rows in a mode."""
    return {
      group.source: ShardSource(self._folder, group)
      for group in self.index.groups
      if group.mode == tags.MODES[mode] and group.source in names and group.rows
    }

  def check_tokenizer(self, tokenizer: Tokenizer) -> None:
    """Raises:
    ValueError: the demonstrations were encoded by another tokenizer.
    """
    if fingerprint(tokenizer) != self.index.tokenizer:
      raise ValueError(
        f"data.root={self.root} was prepared with another tokenizer or chat template than the "
        "policy's: prepare it again with --config.prepare.tokenizer of this policy, or start from "
        "the model that it was prepared for."
      )


def file_name(source: str) -> str:
  """Name of a source, which may be a path or a hub id, as a part of a path."""
  return urllib.parse.quote(source, safe="")


def fingerprint(tokenizer: Tokenizer) -> str:
  """SHA-256 of what a tokenizer makes of a probe, chat template included, and of its own ids."""
  held: list[Any] = [
    tokenizer.vocab_size, tokenizer.pad_id, *tokenizer.eos_ids, *tokenizer.tag_ids.opening,
    *tokenizer.tag_ids.closing,
  ]  # fmt: skip
  held += [tokenizer.encode_prompt(_PROBE), tokenizer.encode_response(_PROBE)]
  return hashlib.sha256(json.dumps([*map(_whole, held)]).encode()).hexdigest()


def _whole(value: Any) -> Any:
  return [int(i) for i in value] if isinstance(value, list) else int(value)


def stream_of(name: str) -> int:
  """The number that a source's random order is keyed by, whatever sources stand beside it."""
  return zlib.crc32(name.encode())


@functools.lru_cache(maxsize=64)
def _order(key: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """The order of the shards of one epoch, and the row beyond each one's last."""
  order = np.random.default_rng(key).permutation(len(sizes))
  return order, np.cumsum(np.array(sizes)[order])


@functools.lru_cache(maxsize=64)
def _permutation(key: tuple[int, ...], size: int) -> np.ndarray:
  return np.random.default_rng(key).permutation(size)

"""Trees of sharded arrays in a bucket: every process writes and reads its own shards, in parallel.

PREFIX/PROCESS.NNNN    the bytes of shards, one after the other, up to 64 MiB a file
PREFIX/PROCESS.json    what they are: array, place in it, place in the file, SHA-256

An object store has no shared folder to rename, so what is whole is decided by who commits it: see
`runs.bucket_checkpoints`. Reading needs neither the mesh nor the number of processes that wrote.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax.storage.folder import Folder
from lhrm_jax.storage.urls import BucketError, OvertakenError

_FILE_BYTES = 2**26
_THREADS = 8
_TRIES, _FIRST_PAUSE_S, _LONGEST_PAUSE_S = 12, 0.5, 60.0  # about six minutes in all
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Block:
  """One shard of one array, on the host.

  Attributes:
    array: path of the array in the tree.
    shape: of the whole array.
    starts: place of the shard in it, by axis.
    data: the shard.
  """

  array: str
  shape: tuple[int, ...]
  starts: tuple[int, ...]
  data: np.ndarray


@dataclasses.dataclass(frozen=True)
class Stored:
  """Where a block is stored.

  Attributes:
    array: path of the array in the tree.
    shape: of the whole array.
    dtype: its name.
    starts: place of the block in it, by axis.
    sizes: shape of the block.
    file: name of the file within the prefix.
    offset: first byte in the file.
    sha256: of its bytes.
  """

  array: str
  shape: tuple[int, ...]
  dtype: str
  starts: tuple[int, ...]
  sizes: tuple[int, ...]
  file: str
  offset: int
  sha256: str

  @property
  def bytes(self) -> int:
    return math.prod(self.sizes) * jnp.dtype(self.dtype).itemsize


def snapshot(tree: Any) -> list[Block]:
  """Copies this process's shards of a tree to the host; of replicas, one process copies one."""
  blocks = []
  for path, array in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not isinstance(array, jax.Array):
      array = jnp.asarray(array)
    for shard in array.addressable_shards:
      if shard.replica_id == 0:
        starts = tuple(index.start or 0 for index in shard.index)
        # A copy, even on a CPU: the array may be donated before it is written.
        blocks.append(Block(name, array.shape, starts, np.array(shard.data)))
  return blocks


def write(folder: Folder, prefix: str, process: int, blocks: Sequence[Block]) -> None:
  """Writes a process's blocks, and then the list of them.

  Raises:
    BucketError: the bucket could not be written, after several tries.
  """
  stored: list[Stored] = []
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    pending = []
    for number, held in enumerate(_files(blocks)):
      name, offset = f"{process:05d}.{number:04d}", 0
      contents = [block.data.tobytes() for block in held]
      for block, content in zip(held, contents, strict=True):
        digest = hashlib.sha256(content).hexdigest()
        stored.append(Stored(block.array, block.shape, block.data.dtype.name, block.starts,
                             block.data.shape, name, offset, digest))  # fmt: skip
        offset += len(content)
      pending.append(pool.submit(retried, folder.write, f"{prefix}/{name}", b"".join(contents)))
      if len(pending) >= 2 * _THREADS:
        pending.pop(0).result()  # no more of the copies in memory than are being sent
    for write_ in pending:
      write_.result()
  listed = json.dumps([dataclasses.asdict(s) for s in stored]).encode()
  retried(folder.write, f"{prefix}/{process:05d}.json", listed)


def _files(blocks: Sequence[Block]) -> Iterator[list[Block]]:
  held: list[Block] = []
  for block in blocks:
    if held and sum(b.data.nbytes for b in held) + block.data.nbytes > _FILE_BYTES:
      yield held
      held = []
    held.append(block)
  if held:
    yield held


def listed(folder: Folder, prefix: str, processes: int) -> list[Stored]:
  """All blocks below a prefix that so many processes wrote.

  Raises:
    ValueError: a list is missing or damaged.
  """
  found = []
  for process in range(processes):
    name = f"{prefix}/{process:05d}.json"
    try:
      for fields in json.loads(retried(folder.read, name)):
        tuples = {key: tuple(fields[key]) for key in ("shape", "starts", "sizes")}
        found.append(Stored(**{**fields, **tuples}))
    except FileNotFoundError as error:
      raise ValueError(f"{name} is missing") from error
    except (KeyError, TypeError, ValueError) as error:
      if isinstance(error, BucketError):
        raise
      raise ValueError(f"{name} is damaged: {error}") from error
  return found


def damage(folder: Folder, prefix: str, blocks: Sequence[Stored]) -> str | None:
  """Why blocks are not what was written, if they are not; reads all of them."""
  by_file: dict[str, list[Stored]] = {}
  for block in blocks:
    by_file.setdefault(block.file, []).append(block)

  def check(item: tuple[str, list[Stored]]) -> str | None:
    name, held = item
    try:
      content = retried(folder.read, f"{prefix}/{name}")
    except FileNotFoundError:
      return f"{name} is missing"
    for block in held:
      if hashlib.sha256(content[block.offset : block.offset + block.bytes]).hexdigest() != (
        block.sha256
      ):
        return f"{name} is changed at {block.array}"
    return None

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return next(filter(None, pool.map(check, by_file.items())), None)


def load(folder: Folder, prefix: str, blocks: Sequence[Stored], target: Mapping[str, Any]) -> Any:
  """Reads a tree of arrays; each process reads the blocks that its own shards take.

  Args:
    folder: where the prefix is.
    prefix: given to `write`.
    blocks: all blocks below it, see `listed`.
    target: tree of `jax.ShapeDtypeStruct` with shardings; may be a part of what was written.

  Raises:
    ValueError: an array is missing, has another shape or dtype, or is damaged.
  """
  by_array: dict[str, list[Stored]] = {}
  for block in blocks:
    by_array.setdefault(block.array, []).append(block)

  def read(leaf: tuple[Any, jax.ShapeDtypeStruct]) -> dict[Any, np.ndarray]:
    path, wanted = leaf
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    held = by_array.get(name, [])
    if not held or held[0].shape != wanted.shape or held[0].dtype != wanted.dtype.name:
      found = f"{held[0].dtype}{list(held[0].shape)}" if held else "nothing"
      raise ValueError(
        f"{name} is {found} in the checkpoint, and {wanted.dtype.name}{list(wanted.shape)} here"
      )
    indices = wanted.sharding.addressable_devices_indices_map(wanted.shape).values()
    distinct = {_key(index): index for index in indices}
    return {key: _assembled(folder, prefix, held, wanted, index) for key, index in distinct.items()}

  leaves, tree = jax.tree_util.tree_flatten_with_path(target)
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    parts = list(pool.map(read, leaves))
  arrays = [
    jax.make_array_from_callback(
      wanted.shape, wanted.sharding, lambda index, part=part: part[_key(index)]
    )
    for (_, wanted), part in zip(leaves, parts, strict=True)
  ]
  return jax.tree_util.tree_unflatten(tree, arrays)


def _key(index: tuple[slice, ...]) -> tuple[tuple[int | None, int | None], ...]:
  return tuple((part.start, part.stop) for part in index)


def _assembled(
  folder: Folder, prefix: str, blocks: Sequence[Stored], wanted: jax.ShapeDtypeStruct,
  index: tuple[slice, ...],
) -> np.ndarray:  # fmt: skip
  """The part `index` of an array, from the blocks that overlap it."""
  bounds = [part.indices(size)[:2] for part, size in zip(index, wanted.shape, strict=True)]
  out = np.empty([stop - start for start, stop in bounds], wanted.dtype)
  filled = 0
  for block in blocks:
    ends = [start + size for start, size in zip(block.starts, block.sizes, strict=True)]
    common = [
      (max(a, start), min(b, end))
      for (a, b), start, end in zip(bounds, block.starts, ends, strict=True)
    ]
    if any(start >= stop for start, stop in common):
      continue
    data = _read(folder, prefix, block)
    theirs = tuple(slice(a - s, b - s) for (a, b), s in zip(common, block.starts, strict=True))
    ours = tuple(slice(a - s, b - s) for (a, b), (s, _) in zip(common, bounds, strict=True))
    out[ours] = data[theirs]
    filled += math.prod(b - a for a, b in common)
  if filled != out.size:
    raise ValueError(f"{blocks[0].array} is not whole")
  return out


def _read(folder: Folder, prefix: str, block: Stored) -> np.ndarray:
  name = f"{prefix}/{block.file}"
  content = retried(folder.read, name, block.offset, block.offset + block.bytes)
  if hashlib.sha256(content).hexdigest() != block.sha256:
    raise ValueError(f"{name} is damaged at {block.array}")
  return np.frombuffer(content, jnp.dtype(block.dtype)).reshape(block.sizes)


def retried(call: Callable[..., Result], *arguments: Any) -> Result:
  """The result of a call, which is made again after a pause where the bucket is out of reach.

  Raises:
    BucketError: the last try failed too.
  """
  pause = _FIRST_PAUSE_S
  for _ in range(_TRIES - 1):
    try:
      return call(*arguments)
    except OvertakenError:
      raise
    except BucketError:
      time.sleep(pause)
      pause = min(2 * pause, _LONGEST_PAUSE_S)
  return call(*arguments)

"""Checkpoints that processes without a shared disk write into a bucket, each its own shards.

STEP/commit.json                  written last of all: the step is whole
STEP/ATTEMPT/PROCESS.NNNN, .json  see `storage.sharded_arrays`

The policy that adapters belong to is such a step too, `BASE`, beside the stages. A copy of a step's
folder on a disk is read alike.
"""

import dataclasses
import json
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from lhrm_jax import parallel
from lhrm_jax.storage import bucket, sharded_arrays, urls
from lhrm_jax.storage.folder import Folder
from lhrm_jax.storage.sharded_arrays import Stored
from lhrm_jax.storage.urls import BucketError

COMMIT, DAMAGED = "commit.json", "damaged.json"
BASE = pathlib.PurePosixPath("base", "0")
Path = pathlib.Path | epath.Path


@dataclasses.dataclass(frozen=True)
class Commit:
  """What makes a step whole.

  Attributes:
    attempt: folder within the step's.
    processes: how many wrote.
    record: JSON record that was saved with the arrays.
  """

  attempt: str
  processes: int
  record: dict[str, Any]

  def to_json(self) -> bytes:
    return json.dumps(dataclasses.asdict(self)).encode()


def holds(path: Path) -> bool:
  """Whether a step's folder holds a checkpoint of this kind."""
  return urls.is_url(str(path)) or (pathlib.Path(path) / COMMIT).is_file()


def read(path: Path) -> Commit:
  """The commit of a step.

  Raises:
    ValueError: there is none, or it is damaged.
  """
  try:
    return Commit(**json.loads(sharded_arrays.retried(Folder(path).read, COMMIT)))
  except FileNotFoundError as error:
    raise ValueError(f"it has no {COMMIT}: its save never ended") from error
  except TypeError as error:
    raise ValueError(f"{COMMIT} is damaged: {error}") from error


def save(url: str, arrays: Mapping[str, Any]) -> None:
  """Writes trees of arrays by name and commits them; every process makes the call.

  Raises:
    BucketError: the bucket could not be written, after several tries.
  """
  folder = Folder(url)
  attempt = parallel.gather_objects(secrets.token_hex(4))[0]
  blocks = sharded_arrays.snapshot(arrays)
  sharded_arrays.write(folder, attempt, jax.process_index(), blocks)
  parallel.wait_for_all(f"arrays of {url}")
  if parallel.is_writer():
    commit = Commit(attempt, jax.process_count(), {})
    sharded_arrays.retried(folder.write, COMMIT, commit.to_json())
    for name in sharded_arrays.retried(folder.names):
      if name != COMMIT and not name.startswith(f"{attempt}/"):  # of an earlier start
        sharded_arrays.retried(folder.remove, name)
  parallel.wait_for_all(f"commit of {url}")


def load(path: Path, target: Mapping[str, Any]) -> dict[str, Any]:
  """Loads trees of arrays by name onto the shardings of `target`.

  Raises:
    ValueError: an array is missing, damaged, or of another shape.
  """
  folder, commit = Folder(path), read(path)
  return sharded_arrays.load(folder, commit.attempt, _blocks(folder, commit), target)


def has(path: Path, name: str) -> bool:
  """Whether a step holds a tree of this name."""
  folder, commit = Folder(path), read(path)
  return any(block.array.startswith(f"{name}/") for block in _blocks(folder, commit))


def damage(path: Path, process: int = 0, processes: int = 1) -> str | None:
  """Why a step is not what was committed, if it is not.

  Args:
    path: folder of the step.
    process: of those that look, each at a part of the files.
    processes: how many look.

  Raises:
    BucketError: the bucket cannot be read.
  """
  try:
    folder, commit = Folder(path), read(path)
    blocks = _blocks(folder, commit)
  except BucketError:  # out of reach says nothing about the step
    raise
  except ValueError as error:
    return str(error)
  files = sorted({block.file for block in blocks})[process::processes]
  mine = [block for block in blocks if block.file in files]
  return sharded_arrays.damage(folder, commit.attempt, mine)


def _blocks(folder: Folder, commit: Commit) -> list[Stored]:
  return sharded_arrays.listed(folder, commit.attempt, commit.processes)


def fetch(url: str, folder: pathlib.Path, inside: str = "") -> None:
  """Downloads checkpoints of a run in a bucket to where a run's folder has them.

  Args:
    url: the run's.
    folder: the run's folder on this machine.
    inside: the checkpoint wanted, as "hgpo/300"; "" for the newest of every stage.

  Raises:
    BucketError: the bucket cannot be read.
  """
  remote, stages = Folder(f"{url}/{bucket.SAVED}"), {}
  names = remote.names()
  for name in names:
    stage, _, rest = name.partition("/")
    step, _, file = rest.partition("/")
    if file == COMMIT:
      stages.setdefault(stage, []).append(int(step))
  newest = {f"{stage}/{max(steps)}" for stage, steps in stages.items()}
  wanted = newest if "/" not in inside else {inside}
  if f"{BASE}/{COMMIT}" in names:
    wanted = wanted | {str(BASE)}
  local = Folder(folder / "checkpoints")
  for step in sorted(wanted):
    held = [name for name in names if name.startswith(f"{step}/")]
    for name in sorted(held, key=lambda name: name.endswith(COMMIT)):  # last: then it is whole
      if not local.has(name):
        local.write(name, sharded_arrays.retried(remote.read, name))

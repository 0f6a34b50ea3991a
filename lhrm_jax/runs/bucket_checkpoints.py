"""Saves a stage straight into a bucket, from processes that share no disk.

Every process uploads its own shards. The first one waits for all, uploads the logs, and commits the
step by one small file, see `committed`; what is not committed is not there, whichever process died
when. Orbax would do the same on Google's buckets alone, and refuses others' URLs.
"""

import functools
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from lhrm_jax import parallel
from lhrm_jax.runs import committed
from lhrm_jax.runs.checkpoints import STEP, CheckpointError, Checkpoints, Saved, reason
from lhrm_jax.storage import sharded_arrays
from lhrm_jax.storage.folder import Folder
from lhrm_jax.storage.urls import BucketError

_POLL_S, _LONGEST_WAIT_S = 0.2, 1800.0


class BucketCheckpoints(Checkpoints):
  """Checkpoints of a stage in a bucket; every process of a run makes the same calls."""

  def __init__(self, url: str, *, before_commit: Callable[[], None] = lambda: None, **options: Any):
    """Args:
    url: the stage's folder in the bucket.
    before_commit: called in the first process once all shards are uploaded.
    **options: as of `Checkpoints`.
    """
    super()._set_up(epath.Path(url), **options)
    self._remote, self._before_commit = Folder(url), before_commit
    self._attempt = ""

  def newest(self) -> Saved | None:
    """Finds the newest whole checkpoint; each process reads and checks a part of it."""
    number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
    self._attempt = f"{int(number):08x}"
    found = None
    while found is None:
      steps = [int(path.name) for path in self._whole()] if parallel.is_writer() else []
      step = int(multihost_utils.broadcast_one_to_all(np.int32(max(steps, default=-1))))
      if step < 0:
        break
      path = self._folder / str(step)
      problem = committed.damage(path, jax.process_index(), jax.process_count())
      problems = [p for p in parallel.gather_objects(problem) if p]
      if not problems:
        found = _saved(path)
      elif parallel.is_writer():
        self._remote.write(f"{step}/{committed.DAMAGED}", self._remote.read(_commit(step)))
        self._remote.remove(_commit(step))
        self._report(
          f"checkpoint {path} is damaged ({problems[0]}); set aside: its {committed.COMMIT} is now "
          f"{committed.DAMAGED}."
        )
    if parallel.is_writer():
      self._remove_unfinished()
    if found:
      self._last_step = found.step
    self._note_highest()
    parallel.wait_for_all("checkpoints in a bucket")
    return found

  def _begin_save(
    self, path: epath.Path, arrays: Mapping[str, Any], record: Mapping[str, Any]
  ) -> "_Upload":
    blocks = sharded_arrays.snapshot(arrays)
    return _Upload(self._remote, f"{path.name}/{self._attempt}", blocks, dict(record))

  def _seal(self, path: epath.Path, response: "_Upload") -> None:
    waited = time.monotonic() + _LONGEST_WAIT_S
    lists = {f"{path.name}/{self._attempt}/{i:05d}.json" for i in range(jax.process_count())}
    while missing := lists - {name for name in lists if self._there(name)}:
      if time.monotonic() > waited:
        raise TimeoutError(f"{len(missing)} processes have not uploaded their part")
      time.sleep(_POLL_S)
    self._before_commit()
    commit = committed.Commit(self._attempt, jax.process_count(), response.record)
    sharded_arrays.retried(self._remote.write, _commit(path.name), commit.to_json())

  def _there(self, name: str) -> bool:
    return sharded_arrays.retried(self._remote.has, name)

  def _whole(self) -> list[epath.Path]:
    found = sharded_arrays.retried(self._remote.names)
    ends = f"/{committed.COMMIT}"
    steps = [name.removesuffix(ends) for name in found if name.endswith(ends)]
    return [self._folder / str(s) for s in sorted(int(s) for s in steps if STEP.fullmatch(s))]

  def _remove(self, path: epath.Path) -> None:
    remove = functools.partial(sharded_arrays.retried, self._remote.remove)
    remove(_commit(path.name))  # first: the rest is then no checkpoint
    for name in sharded_arrays.retried(self._remote.names, path.name):
      remove(name)

  def _delete_old(self) -> None:
    """Deletes old steps; what cannot be deleted now is when the run is resumed."""
    try:
      super()._delete_old()
    except BucketError as error:
      self._report(f"an old checkpoint is left: {error}")

  def _record_of(self, path: epath.Path) -> dict[str, Any]:
    return _saved(path).record

  def _clean_up(self, path: epath.Path) -> None:
    """Leaves a failed save where it is: other processes may be writing into it yet."""

  def _remove_unfinished(self) -> None:
    """Removes what saves left behind that a crash interrupted."""
    attempts: dict[str, str | None] = {}
    for path in self._whole():
      try:
        attempts[path.name] = committed.read(path).attempt
      except BucketError:
        raise
      except ValueError:  # an older step with a damaged commit: it may yet be repaired
        attempts[path.name] = None
    for name in sharded_arrays.retried(self._remote.names):
      step, _, rest = name.partition("/")
      attempt, inside, _ = rest.partition("/")
      unfinished = inside and attempts.get(step, "") not in (attempt, None)
      if unfinished and not self._there(f"{step}/{committed.DAMAGED}"):
        sharded_arrays.retried(self._remote.remove, name)


class _Upload:
  """Blocks on the host that are uploaded once the result is asked for, in the background."""

  def __init__(self, folder: Folder, prefix: str, blocks: list, record: dict[str, Any]):
    self._folder, self._prefix, self._blocks, self.record = folder, prefix, blocks, record

  def result(self) -> None:
    blocks, self._blocks = self._blocks, []
    sharded_arrays.write(self._folder, self._prefix, jax.process_index(), blocks)


def _commit(step: int | str) -> str:
  return f"{step}/{committed.COMMIT}"


def _saved(path: epath.Path) -> Saved:
  try:
    return Saved(path, int(path.name), committed.read(path).record)
  except ValueError as error:
    raise CheckpointError(f"the checkpoint {path} has no record: {reason(error)}.") from error

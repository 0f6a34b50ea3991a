"""A control group (cgroup v2) for one run of the sandbox, where this process may make one.

The kernel then counts all memory of the run, of whatever kind. Elsewhere the sandbox counts by
itself and forbids memory that it could not see.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pathlib
import time
from collections.abc import Iterator

_RUNS = itertools.count()


class Group:
  """One group.

  Attributes:
    path: of its folder.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path

  def ran_out(self) -> bool:
    """Whether the kernel killed a process of the group because it was out of memory."""
    with contextlib.suppress(OSError, ValueError):
      events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
      return int(events.get("oom_kill", 0)) > 0
    return False


@contextlib.contextmanager
def limited(memory_bytes: int, processes: int) -> Iterator[Group | None]:
  """A group for the block; `None` where none can be made.

  Args:
    memory_bytes: of all its processes together, files in memory included.
    processes: at one time.
  """
  group = _make(memory_bytes, processes)
  try:
    yield group
  finally:
    if group is not None:
      _remove(group.path)


def _make(memory_bytes: int, processes: int) -> Group | None:
  parent = parent_folder()
  if parent is None:
    return None
  path = parent / f"sandbox-{os.getpid()}-{next(_RUNS)}"
  try:
    path.mkdir()
    (path / "memory.max").write_text(str(memory_bytes))
    for name, value in (
      ("memory.swap.max", "0"), ("memory.oom.group", "1"), ("pids.max", str(processes)),
    ):  # fmt: skip
      with contextlib.suppress(OSError):
        (path / name).write_text(value)
  except OSError:
    _remove(path)
    return None
  return Group(path)


def _remove(path: pathlib.Path) -> None:
  with contextlib.suppress(OSError):
    (path / "cgroup.kill").write_text("1")
  for _ in range(50):  # its processes are dead but may not be reaped yet
    try:
      path.rmdir()
      return
    except FileNotFoundError:
      return
    except OSError:
      time.sleep(0.01)


@functools.cache
def parent_folder() -> pathlib.Path | None:
  """The folder of the control group in which groups with a limit on memory can be made."""
  try:
    own = next(
      line.rstrip("\n").partition("::")[2]
      for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()
      if line.startswith("0::")
    )
    mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
  except (OSError, StopIteration):
    return None
  for _, place, kind, *_ in mounts:
    if kind == "cgroup2":
      folder = pathlib.Path(place) / own.lstrip("/")
      for candidate in (folder, folder.parent):
        if _takes_groups(candidate):
          return candidate
  return None


def _takes_groups(folder: pathlib.Path) -> bool:
  trial = folder / f"sandbox-{os.getpid()}-trial"
  try:
    if "memory" not in (folder / "cgroup.subtree_control").read_text().split():
      return False
    trial.mkdir()
  except OSError:
    return False
  try:
    return os.access(trial / "memory.max", os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)
  finally:
    _remove(trial)

"""A copy of a run's folder in a bucket (`gs://`, `s3://`), through fsspec.

A run appends to logs, cuts them back and renames folders; object stores can do none of that. So it
works in a folder of its machine, and the bucket holds a copy that is brought up to date after every
checkpoint and at the end. An index, written after the files it names and before older ones are
removed, says what belongs to the copy: whoever reads it finds whole checkpoints, and logs at least
as long as the newest of them says (a run that goes on cuts the rest off). The folder keeps the same
index, and so it is known whether the copy is of this folder, which may be ahead of it, or was
written from another machine since.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from lhrm_jax.data.urls import BucketError, explained, open_bucket

INDEX = "copy.json"
_CHECKPOINTS = "checkpoints/"
# Of this machine, of the moment.
_LEFT_OUT, _UNFINISHED = (INDEX, "lock"), (".tmp", "-tmp")


class Bucket:
  """A folder in a bucket, and the folder here that it is a copy of.

  One process at a time may use the folder here; whoever makes a `Bucket` sees to that.
  """

  def __init__(self, url: str, folder: pathlib.Path):
    """Args:
    url: `PROTOCOL://BUCKET/PATH`, of any protocol that fsspec knows.
    folder: here; created where missing.

    Raises:
      BucketError: there is no such protocol, or its package is not installed.
    """
    self.url, self._folder = url.rstrip("/"), folder
    self._files, self._root = open_bucket(self.url)
    if hasattr(self._files, "auto_mkdir"):  # file://, where folders do not come by themselves
      self._files.auto_mkdir = True
    self._copied: dict[str, list[int]] = {}  # names in the copy; size and time of change here
    self._left_over: set[str] = set()  # in the bucket, of uploads that were cut short

  def take_over(self) -> pathlib.Path | None:
    """Makes the folder what the copy is, unless it is that already or ahead of it.

    What the folder held of another run, or of another past of this one, is moved beside it.

    Returns:
      Where to, if there was anything.

    Raises:
      BucketError: the bucket cannot be read, or holds files and no run.
    """
    found = self._found()
    there, here = self._index_there(found), self._index_here()
    if there is None:
      if found:
        raise BucketError(
          f"{self.url} holds files and no run, e.g. {min(found)}. Choose another folder."
        )
      return self._set_aside() if here else None  # the copy was deleted, or never made
    self._left_over = {
      name for name in set(found) - set(there["files"]) if name.startswith(_CHECKPOINTS)
    }
    if here and here["id"] == there["id"]:
      self._copied = here["files"]
      return None
    aside = self._set_aside()
    self._download(there["files"])
    self._copied = dict(self._listed())
    self._write_index_here(there["id"])
    return aside

  def fetch(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Makes the folder what the copy is, for reading. A folder without a run comes as it is.

    Args:
      wanted: whether a file of this name, relative to the folder, is of use.

    Raises:
      BucketError: the bucket cannot be read, or there is nothing.
    """
    found = self._found()
    there, here = self._index_there(found), self._index_here()
    if there is None:
      listing = json.dumps(sorted(found.items())).encode()
      there = {"id": hashlib.sha256(listing).hexdigest(), "files": list(found)}
    names = [name for name in there["files"] if wanted(name)]
    if not names:
      raise BucketError(f"{self.url} does not exist, or holds nothing of use.")
    if here and here["id"] == there["id"]:
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    for path in self._held():
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    self._download(names)
    self._write_index_here(there["id"])

  def upload(self) -> None:
    """Brings the copy up to date: sends what is new or changed here, removes what is gone.

    Raises:
      BucketError: the bucket cannot be written, or somebody else has; the copy stays what it was.
    """
    before, now = self._copied, dict(self._listed())
    changed = [name for name, stamp in now.items() if before.get(name) != stamp]
    gone = (set(before) | self._left_over) - set(now)
    here = self._index_here()
    if here and not (changed or gone):
      return
    if here and (self._index_there({INDEX: 0}) or {}).get("id") != here["id"]:
      raise BucketError(
        f"{self.url} was written by another run since this one last did. Nothing more is copied "
        f"there; this run is whole in {self._folder}."
      )
    this = uuid.uuid4().hex
    with explained(self.url, "written"):
      if not here:
        self._write_index(this, [])  # first of all: what follows belongs to a run
      if changed:
        self._files.put([str(self._folder / name) for name in changed], self._paths(changed))
      self._write_index(this, sorted(now))
      self._copied = now
      self._write_index_here(this)
      if gone:
        self._files.rm(self._paths(sorted(gone)))
      self._left_over = set()

  def _found(self) -> dict[str, int]:
    """Names and sizes of all files in the bucket's folder."""
    with explained(self.url, "read"):
      self._files.invalidate_cache()
      found = self._files.find(self._root, detail=True)
    if self._root in found:
      raise BucketError(f"{self.url} is a file, where a folder is asked for.")
    return {path.removeprefix(f"{self._root}/"): info["size"] for path, info in found.items()}

  def _index_there(self, found: dict[str, int]) -> dict[str, Any] | None:
    if INDEX not in found:
      return None
    with explained(self.url, "read"):
      return json.loads(self._files.cat_file(f"{self._root}/{INDEX}"))

  def _write_index(self, this: str, names: Sequence[str]) -> None:
    index = json.dumps({"id": this, "files": names}, indent=0)
    self._files.pipe_file(f"{self._root}/{INDEX}", index.encode())

  def _index_here(self) -> dict[str, Any] | None:
    """What the copy was when the folder last was the same; `None` for a folder that never was."""
    try:
      index = json.loads((self._folder / INDEX).read_text(encoding="utf-8"))
      return index if index["url"] == self.url else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
      return None

  def _write_index_here(self, this: str) -> None:
    index = {"url": self.url, "id": this, "files": self._copied}
    unfinished = self._folder / f"{INDEX}.tmp"
    unfinished.write_text(json.dumps(index), encoding="utf-8")
    unfinished.rename(self._folder / INDEX)

  def _download(self, names: Sequence[str]) -> None:
    targets = [self._folder / name for name in names]
    for parent in {target.parent for target in targets}:
      parent.mkdir(parents=True, exist_ok=True)
    with explained(self.url, "read"):
      self._files.get(self._paths(names), [str(target) for target in targets])

  def _paths(self, names: Sequence[str]) -> list[str]:
    return [f"{self._root}/{name}" for name in names]

  def _listed(self) -> Iterator[tuple[str, list[int]]]:
    """Name, size and time of change of each file here that belongs into the copy."""
    for folder, _, files in os.walk(self._folder):
      for file in files:
        path = pathlib.Path(folder, file)
        name = path.relative_to(self._folder).as_posix()
        if name not in _LEFT_OUT and not any(mark in name for mark in _UNFINISHED):
          with suppress(FileNotFoundError):  # the training goes on meanwhile
            stat = path.stat()
            yield name, [stat.st_size, stat.st_mtime_ns]

  def _held(self) -> list[pathlib.Path]:
    """What lies in the folder here, but for the lock of whoever uses it."""
    return [path for path in self._folder.glob("*") if path.name != "lock"]

  def _set_aside(self) -> pathlib.Path | None:
    """Moves what the folder holds beside it."""
    held = self._held()
    if not held:
      return None
    number = 1
    while (aside := self._folder.with_name(f"{self._folder.name}.abandoned-{number}")).exists():
      number += 1
    aside.mkdir()
    for path in held:
      path.rename(aside / path.name)
    return aside


def fetched(url: str, wanted: Callable[[str], bool] = lambda name: True) -> pathlib.Path:
  """A folder of this machine with what a bucket's folder holds now, for reading.

  Processes that want the same wait for the one that came first.

  Args:
    url: of the folder.
    wanted: see `Bucket.fetch`.

  Raises:
    BucketError: see `Bucket.fetch`.
  """
  folder = folder_for(url, "fetched")
  folder.parent.mkdir(parents=True, exist_ok=True)
  with folder.with_name(f"{folder.name}.lock").open("a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    Bucket(url, folder).fetch(wanted)
  return folder


def folder_for(url: str, use: str) -> pathlib.Path:
  """The folder of this machine that stands for a URL, one for each use.

  It lies in `$XDG_CACHE_HOME`, or else `~/.cache`: a run needs a disk there that holds it.

  Raises:
    BucketError: the URL names no folder of a bucket.
  """
  protocol, _, path = url.partition("://")
  parts = [part for part in path.split("/") if part]
  if not protocol.isalnum() or not parts or ".." in parts:
    raise BucketError(f"{url} names no folder of a bucket: PROTOCOL://BUCKET/FOLDER.")
  cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
  return cache.joinpath("lhrm_jax", use, protocol, *parts)

"""A copy of a run's folder in a bucket (`gs://`, `s3://`), through fsspec.

A run appends to logs, truncates them and renames folders; object stores can do none of that. So it
works in a local folder, and the bucket holds a copy that is updated after every checkpoint and at
the end. An index, written after the files it names and before older ones are removed, lists what
belongs to the copy: a reader finds whole checkpoints, and logs at least as long as the newest of
them records (a resumed run truncates the rest). The local folder keeps the same index, which tells
whether the copy was made from it, and may be behind it, or was written by another machine since.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from lhrm_jax.storage.urls import BucketError, OvertakenError, explained, open_bucket
from lhrm_jax.text.characters import printable

INDEX = "copy.json"
# Folder of checkpoints that are no copies: see `runs.bucket_checkpoints`.
SAVED = "saved"
_CHECKPOINTS = "checkpoints/"
_LARGEST_INDEX, _LONGEST_NAME = 2**26, 1024
# Not copied: files of this machine alone, and unfinished ones.
_LEFT_OUT, _UNFINISHED = (INDEX, "lock"), (".tmp", "-tmp")


class Bucket:
  """A folder in a bucket, and the local folder that it is a copy of.

  One process at a time may use the local folder; the caller ensures that.
  """

  def __init__(self, url: str, folder: pathlib.Path):
    """Args:
    url: `PROTOCOL://BUCKET/PATH`, of any protocol that fsspec knows.
    folder: the local folder; created where missing.

    Raises:
      BucketError: there is no such protocol, or its package is not installed.
    """
    self.url, self._folder = url.rstrip("/"), folder
    self._files, self._root = open_bucket(self.url)
    if hasattr(self._files, "auto_mkdir"):  # file://, where folders must be created
      self._files.auto_mkdir = True
    self._copied: dict[str, list[int]] = {}  # names in the copy; local size and modification time
    self._left_over: set[str] = set()  # in the bucket, from interrupted uploads

  def take_over(self) -> pathlib.Path | None:
    """Syncs the local folder from the copy unless it is newer.

    Local files of another run, or of a history that the copy does not share, are moved beside it.

    Returns:
      The folder they were moved to; `None` if there were none.

    Raises:
      BucketError: the bucket cannot be read, or holds files but no run, or a copy that is damaged
        or names files outside the folder; the local folder is unchanged.
    """
    found = self._found()
    there, here = self._index_there(found), self._index_here()
    if there is None:
      if found:
        raise BucketError(
          f"{self.url} holds files and no run, e.g. {printable(min(found), 200)}. Choose another "
          "folder."
        )
      return self._set_aside() if here else None  # the copy was deleted, or never made
    self._left_over = {
      name for name in set(found) - set(there["files"]) if name.startswith(_CHECKPOINTS)
    }
    if here and here["id"] == there["id"]:
      self._copied = here["files"]
      return None
    self._check_names(there["files"])
    if missing := set(there["files"]) - set(found):
      raise BucketError(
        f"{self.url} lacks {printable(min(missing), 200)}, which its {INDEX} names: the copy is "
        "damaged, and nothing here was changed."
      )
    aside = self._set_aside()
    self._download(there["files"])
    self._copied = dict(self._listed())
    self._write_index_here(there["id"])
    return aside

  def fetch(
    self, wanted: Callable[[str], bool] = lambda name: True, *, may_be_empty: bool = False
  ) -> None:
    """Downloads the copy, for reading; a remote folder without an index as it is.

    Args:
      wanted: whether to download a file, by its name relative to the folder.
      may_be_empty: whether a copy without a wanted file is none to complain about.

    Raises:
      BucketError: the bucket cannot be read, or holds no wanted file.
    """
    found = self._found()
    there, here = self._index_there(found), self._index_here()
    if there is None:
      listing = json.dumps(sorted(found.items())).encode()
      # Cloud consoles represent folders by empty objects.
      files = [name for name in found if name and not name.endswith("/")]
      there = {"id": hashlib.sha256(listing).hexdigest(), "files": files}
    names = [name for name in there["files"] if wanted(name)]
    if not names and not may_be_empty:
      raise BucketError(f"{self.url} does not exist, or holds nothing of use.")
    self._check_names(names)
    if here and here["id"] == there["id"]:
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    for path in self._held():
      shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    self._download(names)
    self._write_index_here(there["id"])

  def upload(self) -> None:
    """Updates the copy: uploads new and changed files, removes deleted ones.

    Raises:
      BucketError: the bucket cannot be written, or another machine wrote it; the copy is unchanged.
    """
    before, now = self._copied, dict(self._listed())
    changed = [name for name, stamp in now.items() if before.get(name) != stamp]
    gone = (set(before) | self._left_over) - set(now)
    here = self._index_here()
    if before and not here:
      raise BucketError(
        f"{self._folder} was deleted or emptied since it was last copied to {self.url}, which "
        "stays as it is. The same command fetches the copy and resumes from it."
      )
    if here and not (changed or gone):
      return
    if here and (self._index_there({INDEX: 0}) or {}).get("id") != here["id"]:
      raise OvertakenError(
        f"{self.url} was written by another run since this one last did. Nothing more is copied "
        f"there; this run is whole in {self._folder}."
      )
    this = uuid.uuid4().hex
    with explained(self.url, "written"):
      if not here:
        self._write_index(this, [])  # first: the files that follow belong to a run
      if changed:
        self._files.put([str(self._folder / name) for name in changed], self._paths(changed))
      self._write_index(this, sorted(now))
      self._copied = now
      self._write_index_here(this)
      for path in self._paths(sorted(gone)):
        self._files.rm_file(path)  # `rm` would take a bracket in the URL for a pattern
      self._left_over = set()

  def has_saved(self) -> bool:
    """Whether processes without a shared disk have saved checkpoints into the bucket.

    Raises:
      BucketError: the bucket cannot be read.
    """
    with explained(self.url, "read"):
      self._files.invalidate_cache()
      return bool(self._files.find(f"{self._root}/{SAVED}", maxdepth=3))

  def _found(self) -> dict[str, int]:
    """Names and sizes of all files in the bucket's folder, checkpoints in `SAVED` left out."""
    with explained(self.url, "read"):
      self._files.invalidate_cache()
      found = self._files.find(self._root, detail=True)
    if self._root in found:
      raise BucketError(f"{self.url} is a file, where a folder is asked for.")
    names = {path.removeprefix(f"{self._root}/"): info["size"] for path, info in found.items()}
    return {name: size for name, size in names.items() if not name.startswith(f"{SAVED}/")}

  def _index_there(self, found: dict[str, int]) -> dict[str, Any] | None:
    if INDEX not in found:
      return None
    with explained(self.url, "read"):
      content = self._files.cat_file(f"{self._root}/{INDEX}", start=0, end=_LARGEST_INDEX + 1)
    try:
      if len(content) > _LARGEST_INDEX:
        raise ValueError(f"it is longer than {_LARGEST_INDEX:,} bytes")
      index = json.loads(content)
      names = index["files"]
      if not (isinstance(index["id"], str) and isinstance(names, list)):
        raise ValueError("it lists no files")
      if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("it lists something other than a file's name, or a file twice")
      return index
    except (KeyError, RecursionError, TypeError, ValueError) as error:
      raise BucketError(
        f"{self.url}/{INDEX} is damaged ({printable(str(error), 200)}). Choose another folder, or "
        "restore that file."
      ) from error

  def _write_index(self, this: str, names: Sequence[str]) -> None:
    index = json.dumps({"id": this, "files": names}, indent=0)
    self._files.pipe_file(f"{self._root}/{INDEX}", index.encode())

  def _index_here(self) -> dict[str, Any] | None:
    """Index of the copy when the folder was last synced; `None` if it never was."""
    try:
      index = json.loads((self._folder / INDEX).read_text(encoding="utf-8"))
      right = isinstance(index["id"], str) and isinstance(index["files"], dict)
      return index if right and index["url"] == self.url else None
    except (FileNotFoundError, KeyError, RecursionError, TypeError, ValueError):
      return None

  def _write_index_here(self, this: str) -> None:
    index = {"url": self.url, "id": this, "files": self._copied}
    unfinished = self._folder / f"{INDEX}.tmp"
    unfinished.write_text(json.dumps(index), encoding="utf-8")
    unfinished.rename(self._folder / INDEX)

  def _download(self, names: Sequence[str]) -> None:
    targets, root = [self._folder / name for name in names], self._folder.resolve()
    with explained(self.url, "read"):
      for parent in {target.parent for target in targets}:
        if not parent.resolve().is_relative_to(root):
          raise BucketError(f"{parent} leads out of {self._folder}: remove that link.")
        parent.mkdir(parents=True, exist_ok=True)
      self._files.get(self._paths(names), [str(target) for target in targets])

  def _check_names(self, names: Sequence[str]) -> None:
    """Raises:
    BucketError: a file would lie outside the local folder, or replace one of this machine's own.
    """
    bad = [name for name in names if not is_inside(name) or name in _LEFT_OUT]
    if bad:
      shown = printable(bad[0], 200)
      raise BucketError(
        f"{self.url} holds {shown!r}, which is not the name of a file in a run's folder: nothing "
        "is copied here."
      )

  def _paths(self, names: Sequence[str]) -> list[str]:
    return [f"{self._root}/{name}" for name in names]

  def _listed(self) -> Iterator[tuple[str, list[int]]]:
    """Name, size and modification time of each local file that belongs in the copy."""
    for folder, _, files in os.walk(self._folder):
      for file in files:
        path = pathlib.Path(folder, file)
        name = path.relative_to(self._folder).as_posix()
        mine = name in _LEFT_OUT or any(mark in name for mark in _UNFINISHED)
        if mine or not is_inside(name):  # could not be fetched again
          continue
        with suppress(FileNotFoundError):  # training continues meanwhile
          found = path.lstat()
          if stat.S_ISREG(found.st_mode):  # a link may lead anywhere, a pipe never ends
            yield name, [found.st_size, found.st_mtime_ns]

  def _held(self) -> list[pathlib.Path]:
    """Contents of the local folder, except the lock of the process that uses it."""
    found = self._folder.iterdir() if self._folder.is_dir() else ()
    return [path for path in found if path.name != "lock"]

  def _set_aside(self) -> pathlib.Path | None:
    """Moves the contents of the local folder to a new one beside it."""
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


def is_inside(name: str) -> bool:
  """Whether an object's name, joined to a folder, is a file below it on any system."""
  parts = name.split("/")
  plain = name.isprintable() and "\\" not in name and not re.match("[A-Za-z]:", name)
  return plain and not {"", ".", ".."} & set(parts) and len(name) <= _LONGEST_NAME


def fetched(url: str, wanted: Callable[[str], bool] = lambda name: True) -> pathlib.Path:
  """Downloads a bucket's folder, for reading, and returns the local one.

  Processes that want the same folder wait for the first.

  Args:
    url: URL of the bucket's folder.
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
  """The local folder for a URL, one for each use.

  It lies below `$XDG_CACHE_HOME`, or else `~/.cache`, which must have room for a run.

  Raises:
    BucketError: the URL names no folder of a bucket.
  """
  protocol, _, path = url.partition("://")
  parts = [part for part in path.split("/") if part]
  if not protocol.isalnum() or not parts or ".." in parts:
    raise BucketError(f"{url} names no folder of a bucket: PROTOCOL://BUCKET/FOLDER.")
  cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
  return cache.joinpath("lhrm_jax", use, protocol, *parts)

"""A folder of files, on this machine or by URL in a bucket, through fsspec."""

import pathlib
import uuid
from collections.abc import Sequence
from typing import IO

import fsspec

from lhrm_jax.storage import urls


class Folder:
  """Files by their names relative to a folder; each is written whole or not at all.

  Attributes:
    root: path or URL of the folder.
  """

  def __init__(self, root: str | pathlib.Path):
    """Raises:
    BucketError: it is a URL of no known protocol, or its package is not installed.
    """
    root = str(root).rstrip("/")
    self.root = root if urls.is_url(root) else str(pathlib.Path(root).expanduser().absolute())
    self._files, self._path = urls.open_bucket(self.root)
    self._local = isinstance(self._files, fsspec.implementations.local.LocalFileSystem)

  def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """Content of a file, or its bytes from `start` to `stop - 1`.

    Raises:
      FileNotFoundError: there is none.
      BucketError: the bucket cannot be read.
    """
    if self._local:
      with pathlib.Path(self._path, name).open("rb") as file:
        file.seek(start)
        return file.read(-1 if stop is None else stop - start)
    with urls.explained(f"{self.root}/{name}", "read", passes=(FileNotFoundError,)):
      # A range of nothing is an error of the store; an empty file has no ranges.
      whole = not start and stop is None
      ends = {} if whole else {"start": start, "end": stop}
      return b"" if start == stop else self._files.cat_file(f"{self._path}/{name}", **ends)

  def write(self, name: str, content: bytes) -> None:
    """Writes a file, replacing any; a reader sees the old content or the new.

    Raises:
      OSError: it cannot be written.
      BucketError: the bucket cannot be written.
    """
    if not self._local:
      with urls.explained(f"{self.root}/{name}", "written"):
        return self._files.pipe_file(f"{self._path}/{name}", content)
    target = pathlib.Path(self._path, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(target)
    return None

  def has(self, name: str) -> bool:
    """Whether there is such a file.

    Raises:
      BucketError: the bucket cannot be read.
    """
    absent = (FileNotFoundError, NotADirectoryError)
    try:
      with urls.explained(f"{self.root}/{name}", "read", passes=absent):
        self._files.invalidate_cache()
        # fsspec's `isfile` takes every error for an absent file.
        return self._files.info(f"{self._path}/{name}")["type"] == "file"
    except absent:
      return False

  def names(self, within: str = "") -> Sequence[str]:
    """Names of the files below `within`, sorted; unfinished ones are left out."""
    path = f"{self._path}/{within}".rstrip("/")
    with urls.explained(f"{self.root}/{within}", "read"):
      self._files.invalidate_cache()
      found = self._files.find(path)
    root = f"{self._path}/"  # a folder that just came to be may be listed as a file itself
    inside = [p.removeprefix(root) for p in found if p.startswith(root)]
    return sorted(name for name in inside if not name.endswith(".tmp"))

  def remove(self, name: str) -> None:
    """Deletes a file."""
    with urls.explained(f"{self.root}/{name}", "written"):
      self._files.rm_file(f"{self._path}/{name}")

  def open(self, name: str) -> IO[bytes]:
    """A file, opened for reading in any order.

    Raises:
      FileNotFoundError: there is none.
      BucketError: the bucket cannot be read.
    """
    with urls.explained(f"{self.root}/{name}", "read", passes=(FileNotFoundError,)):
      return self._files.open(f"{self._path}/{name}", "rb")

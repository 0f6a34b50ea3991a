"""SHA-256 checksums of a folder's files in the format of `sha256sum`, and checks against them.

The folder is untrusted: a list that names files elsewhere, a pipe that never ends or a link counts
as damage, and only regular files below the folder are ever opened.
"""

import hashlib
import os
import pathlib
import re
import stat
from collections.abc import Iterator

from lhrm_jax.text.characters import printable

CHECKSUMS = "checksums.sha256"
_LARGEST_LIST = 2**26  # bytes; a checkpoint of 10,000 files needs 1 MB
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def damage(path: pathlib.Path) -> str | None:
  """Why a folder does not match its checksums; `None` if it does."""
  try:
    with _open_regular(path / CHECKSUMS) as file:
      content = file.read(_LARGEST_LIST + 1)
  except FileNotFoundError:
    return f"it has no {CHECKSUMS}: its save never ended, or the file was removed"
  except OSError as error:
    return f"{CHECKSUMS} cannot be read: {error.strerror}"
  if len(content) > _LARGEST_LIST:
    return f"{CHECKSUMS} is longer than {_LARGEST_LIST:,} bytes"
  try:
    first, _, lines = content.decode("ascii").partition("\n")
  except UnicodeDecodeError as error:
    return f"{CHECKSUMS} cannot be read: {error}"
  if first != _heading(lines):
    return f"{CHECKSUMS} itself is changed"
  if strange := next(_not_regular(path), None):
    return f"{printable(strange, 200)} is a link, a pipe or a device"
  for line in lines.splitlines():
    if not (match := _LINE.fullmatch(line)):
      return f"{CHECKSUMS} has a line that is not a checksum: {printable(line, 80)}"
    digest, name = match.groups()
    if problem := _changed(path, name, digest):
      return f"{printable(name, 200)} {problem}"
  return None


def write_checksums(path: pathlib.Path) -> None:
  """Writes `CHECKSUMS` of all files below `path`; `sha256sum --check` reads it too."""
  names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
  lines = "".join(f"{_sha256(path / name)}  {name}\n" for name in names)
  unfinished = path / f"{CHECKSUMS}.tmp"
  with unfinished.open("w", encoding="ascii") as file:
    file.write(f"{_heading(lines)}\n{lines}")
    file.flush()
    os.fsync(file.fileno())
  unfinished.rename(path / CHECKSUMS)


def _changed(folder: pathlib.Path, name: str, digest: str) -> str:
  parts = pathlib.PurePosixPath(name).parts
  if ".." in parts or name.startswith("/"):
    return "lies outside the folder"
  try:
    return "" if _sha256(folder / name) == digest else "is changed"
  except (OSError, ValueError):  # a name with a zero byte is a ValueError
    return "is missing or cannot be read"


def _heading(lines: str) -> str:
  return f"# sha256 of the lines below: {hashlib.sha256(lines.encode('ascii')).hexdigest()}"


def _sha256(path: pathlib.Path) -> str:
  with _open_regular(path) as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _open_regular(path: pathlib.Path):
  """Opens a regular file for reading; neither waits for a pipe nor follows a link.

  Raises:
    OSError: it is not a regular file, or cannot be opened.
  """
  # Without O_NONBLOCK, opening a pipe waits for a writer.
  descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise OSError(None, "it is not a regular file", str(path))
  return os.fdopen(descriptor, "rb")


def _not_regular(folder: pathlib.Path) -> Iterator[str]:
  """Names, relative to `folder`, of everything in it but regular files and folders."""
  for root, folders, files in os.walk(folder):
    for name in (*folders, *files):
      path = pathlib.Path(root, name)
      mode = path.lstat().st_mode
      if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        yield str(path.relative_to(folder))

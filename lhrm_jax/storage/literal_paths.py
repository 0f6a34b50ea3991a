"""Paths that Orbax and TensorStore take literally.

Orbax globs with patterns appended to a folder's path, so it reads `exp[lr=1e-3]` as a character
class; TensorStore reads a backslash as a slash, and needs UTF-8. Folders whose path holds such
characters are reached through a symbolic link with a plain name.
"""

import os
import pathlib
import tempfile

_SPECIAL = frozenset("*?[]\\")
# Bytes of the longest path below: STEP.orbax-checkpoint-tmp/training/ocdbt.process_N/d/HASH.__lock.
_ROOM = 256

_links: dict[pathlib.Path, pathlib.Path] = {}
_folder: tempfile.TemporaryDirectory | None = None


def is_literal(path: pathlib.Path) -> bool:
  """Whether Orbax and TensorStore take every character of an absolute path literally."""
  return str(path).isprintable() and not _SPECIAL & set(str(path))


def too_long(folder: pathlib.Path) -> bool:
  """Whether paths of a checkpoint's files in an absolute folder would be too long to open."""
  return len(os.fsencode(folder)) + _ROOM > os.pathconf("/", "PC_PATH_MAX")


def literal(path: pathlib.Path) -> pathlib.Path:
  """A path to the same place in which no character is special.

  Args:
    path: exists, or its last part has no special character and the folder it lies in exists.

  Raises:
    ValueError: the path does not exist and its last part has a special character, or the folder
      for temporary files has one.
  """
  path = path.resolve()
  if is_literal(path):
    return path
  found = _link(path) if path.exists() else _link(path.parent) / path.name
  if not is_literal(found):
    raise ValueError(f"{str(path)!a} ends in characters that cannot be in a checkpoint's name.")
  return found


def _link(folder: pathlib.Path) -> pathlib.Path:
  global _folder
  link = _links.get(folder)
  if link is None or not link.is_symlink():  # a clean-up of temporary files may have removed it
    if _folder is None or not os.path.isdir(_folder.name):
      _folder = tempfile.TemporaryDirectory(prefix="lhrm_jax-", ignore_cleanup_errors=True)
    link = _links[folder] = pathlib.Path(_folder.name).resolve() / str(len(_links))
    link.symlink_to(folder, target_is_directory=True)
  return link

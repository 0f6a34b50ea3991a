"""Paths that Orbax and TensorStore take as they are written.

Orbax looks for files with patterns that it appends to a folder's path, so that `exp[lr=1e-3]` is a
class of characters to it; TensorStore takes a backslash for a slash, and needs UTF-8. Folders whose
path holds such characters are reached through a symbolic link with a plain name.
"""

import os
import pathlib
import tempfile

_SPECIAL = frozenset("*?[]\\")
# For what lies below it: STEP.orbax-checkpoint-tmp/training/ocdbt.process_N/d/HASH.__lock.
_ROOM = 256

_links: dict[pathlib.Path, pathlib.Path] = {}
_folder: tempfile.TemporaryDirectory | None = None


def is_literal(path: pathlib.Path) -> bool:
  """Whether no character of an absolute path means another thing to Orbax or TensorStore."""
  return str(path).isprintable() and not _SPECIAL & set(str(path))


def too_long(folder: pathlib.Path) -> bool:
  """Whether the files of a checkpoint in an absolute folder have paths that cannot be opened."""
  return len(os.fsencode(folder)) + _ROOM > os.pathconf("/", "PC_PATH_MAX")


def literal(path: pathlib.Path) -> pathlib.Path:
  """A path to the same place in which no character is special.

  Args:
    path: exists, or its last part has no special character and the folder it lies in exists.

  Raises:
    ValueError: what does not exist has one in its last part, or the folder for temporary files has.
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
  if link is None or not link.is_symlink():  # whoever cleans up temporary files may have been here
    if _folder is None or not os.path.isdir(_folder.name):
      _folder = tempfile.TemporaryDirectory(prefix="lhrm_jax-", ignore_cleanup_errors=True)
    link = _links[folder] = pathlib.Path(_folder.name).resolve() / str(len(_links))
    link.symlink_to(folder, target_is_directory=True)
  return link

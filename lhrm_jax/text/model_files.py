"""Reads the small files of a model folder, none of which is trusted: bounded, plain, inside."""

import json
import pathlib
from typing import Any

_JSON_BYTES = 64 * 2**20
_LFS_POINTER = b"version https://git-lfs"


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """The plain file `name` of a model folder; `None` where there is no such file.

  Args:
    folder: the model's.
    name: relative to `folder`, as an index or a convention names it.

  Raises:
    ValueError: the file lies outside the folder (`../`, an absolute path, a symbolic link), is a
      device or a pipe, or is the Git LFS pointer to a file that was never fetched.
  """
  path = folder / name
  try:
    if not path.exists():  # a link to nothing, too
      return None
  except OSError as error:  # a name longer than any file's
    raise ValueError(f"{folder}: {name[:60]!a} names no file: {error.strerror}.") from error
  root, target = folder.resolve(), path.resolve()
  if not target.is_relative_to(root) and not _is_hub_blob(root, target):
    raise ValueError(
      f"{folder}: {name} leads out of its folder, to {target}: a model's files must lie in its "
      "folder (only links within the hub's cache are followed). Copy the file if you trust it."
    )
  if not target.is_file():
    raise ValueError(f"{path} is not a plain file: put the model's own {name} in its place.")
  with target.open("rb") as file:
    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
      raise ValueError(
        f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in {folder}, or "
        "download the model again."
      )
  return path


def _is_hub_blob(root: pathlib.Path, target: pathlib.Path) -> bool:
  """Whether `target` is a blob of the hub's cache that holds the snapshot `root`."""
  return root.parent.name == "snapshots" and target.parent == root.parents[1] / "blobs"


def read_text(path: pathlib.Path, limit: int = _JSON_BYTES) -> str:
  """The UTF-8 text of a file of at most `limit` bytes.

  Raises:
    ValueError: it is longer, or not UTF-8.
  """
  with path.open("rb") as file:
    data = file.read(limit + 1)
  if len(data) > limit:
    raise ValueError(f"{path} is larger than {limit} bytes: it is not a file of this kind.")
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not UTF-8 ({error}): fetch the file again.") from error


def read_json(path: pathlib.Path | None) -> dict[str, Any]:
  """The JSON object in a file; empty for `None`.

  Raises:
    ValueError: the file holds something else.
  """
  if path is None:
    return {}
  try:
    fields = json.loads(read_text(path))
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(f"{path} is not JSON ({error}): fetch the file again.") from error
  if not isinstance(fields, dict):
    raise ValueError(f"{path} holds {type(fields).__name__} where an object {{...}} belongs.")
  return fields

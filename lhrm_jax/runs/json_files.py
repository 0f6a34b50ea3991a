"""JSON files of a run folder, read with care and written whole."""

import json
import pathlib
from typing import Any

_LARGEST = 2**26  # bytes


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file.

  Raises:
    OSError: there is no such file.
    ValueError: it is not JSON; the message names it.
  """
  if path.exists() and not (path.is_file() and path.stat().st_size <= _LARGEST):
    raise ValueError(f"{path} is damaged: it is not a file of at most {_LARGEST:,} bytes")
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (RecursionError, ValueError) as error:
    raise ValueError(f"{path} is damaged: {error or 'it is nested too deeply'}") from error


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes `value` atomically; a link in its place is replaced, not followed."""
  unfinished = path.with_name(f"{path.name}.tmp")
  unfinished.unlink(missing_ok=True)
  with unfinished.open("x", encoding="utf-8") as file:
    file.write(json.dumps(value, indent=2) + "\n")
  unfinished.rename(path)

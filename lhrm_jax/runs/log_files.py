"""Log files that only grow, and how a resumed run makes them end where its checkpoint was made.

A checkpoint records how long every log was; going on from it cuts them back to that. So nothing is
logged twice, and a line that a crash left half-written is gone, without any format being parsed.
"""

import os
import pathlib
from collections.abc import Mapping

# Events lie in a folder per stage; before, all were in one.
_PATTERNS = (
  "metrics.jsonl", "rollouts/*.jsonl", "tensorboard/events.*", "tensorboard/*/events.*",
)  # fmt: skip


def sizes(workdir: pathlib.Path) -> dict[str, int]:
  """Bytes of each log below a run folder, by relative path. Flush the writers before."""
  return {str(path.relative_to(workdir)): path.stat().st_size for path in _logs(workdir)}


def cut(workdir: pathlib.Path, to: Mapping[str, int]) -> list[str]:
  """Cuts every log back to the sizes recorded; removes those that did not exist then.

  No writer may have them open.

  Returns:
    Those that are shorter than recorded or gone: something else has been at them.
  """
  for path in _logs(workdir):
    size = to.get(str(path.relative_to(workdir)), 0)
    if not size:
      path.unlink()
    elif path.stat().st_size > size:
      os.truncate(path, size)
  left = sizes(workdir)
  for path in _logs(workdir):
    if path.suffix == ".jsonl":
      _end_line(path)
  return [name for name, size in to.items() if left.get(name, 0) < size]


def _end_line(path: pathlib.Path) -> None:
  """Ends a line that was left half-written, so that what is appended stands on its own."""
  with path.open("r+b") as file:
    if file.seek(0, os.SEEK_END):
      file.seek(-1, os.SEEK_END)
      if file.read(1) != b"\n":
        file.write(b"\n")


def set_aside(workdir: pathlib.Path) -> pathlib.Path | None:
  """Moves all logs of a run that starts over into `abandoned-N`, if there are any."""
  logs = _logs(workdir)
  if not logs:
    return None
  number = 1
  while (aside := workdir / f"abandoned-{number}").exists():
    number += 1
  for path in logs:
    target = aside / path.relative_to(workdir)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
  return aside


def _logs(workdir: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for pattern in _PATTERNS for path in workdir.glob(pattern))

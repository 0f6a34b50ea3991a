"""Append-only log files, which a resumed run truncates to the state of its checkpoint.

A checkpoint records the length of every log, and resuming truncates them to it. So nothing is
logged twice and a line half-written in a crash disappears, whatever the format of the file.
"""

import os
import pathlib
from collections.abc import Mapping

# Events lie in a folder per stage; in older runs, all in one.
_PATTERNS = (
  "metrics.jsonl", "rollouts/*.jsonl", "tensorboard/events.*", "tensorboard/*/events.*",
)  # fmt: skip


def sizes(workdir: pathlib.Path) -> dict[str, int]:
  """Returns the bytes of each log under a run folder, by relative path; flush writers first."""
  return {str(path.relative_to(workdir)): path.stat().st_size for path in _logs(workdir)}


def cut(workdir: pathlib.Path, to: Mapping[str, int]) -> list[str]:
  """Truncates every log to its recorded size and removes logs that have none.

  No writer may have them open.

  Returns:
    The logs shorter than recorded or missing: something else has changed them.
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
  """Terminates a half-written last line, so that the next one starts on its own."""
  with path.open("r+b") as file:
    if file.seek(0, os.SEEK_END):
      file.seek(-1, os.SEEK_END)
      if file.read(1) != b"\n":
        file.write(b"\n")


def set_aside(workdir: pathlib.Path, *, evaluations: bool) -> pathlib.Path | None:
  """Moves the logs of a run that starts over into `abandoned-N`, if there are any.

  Args:
    workdir: the run's folder.
    evaluations: whether to move its evaluations too: those of other policies, if it trains.
  """
  logs = _logs(workdir)
  if evaluations:
    logs += sorted((workdir / "evaluation").glob("*"))
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

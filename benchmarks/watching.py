"""Runs a command of several steps and records what each takes, over interruptions."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

_PERIOD_S = 1.0
_LONGEST_S = 5.0  # a longer pause between two looks is one of this process, and does not count


class Watched:
  """Seconds of the clock and of processors by step, and the most memory, of a command.

  Attributes:
    state: JSON-like: "seconds" and "processor_seconds" by step, "peak_bytes" (the sum of the
      processes' proportional shares), "killed_in" (the steps in which it was killed).
  """

  def __init__(
    self, path: pathlib.Path, step: Callable[[], str], to_kill: Callable[[list[str]], str | None]
  ):
    """Args:
    path: file that keeps the state.
    step: gives the step that runs.
    to_kill: given the steps killed so far, that in which to kill now, or `None`.
    """
    self._path, self._step, self._to_kill = path, step, to_kill
    empty: dict[str, Any] = {
      "seconds": {}, "processor_seconds": {}, "peak_bytes": 0, "killed_in": [],
    }  # fmt: skip
    self.state = json.loads(path.read_text()) if path.exists() else empty

  def run(self, command: Sequence[str]) -> None:
    """Runs it until it ends well, again after each kill.

    Raises:
      CalledProcessError: it failed.
    """
    while self._run_once(command):
      pass

  def _run_once(self, command: Sequence[str]) -> bool:
    """Returns whether it was killed."""
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    used: dict[int, float] = {}
    before = time.monotonic()
    while (code := process.poll()) is None:
      time.sleep(_PERIOD_S)
      now = time.monotonic()
      self._look(process.pid, min(now - before, _LONGEST_S), used)
      before = now
      if step := self._to_kill(self.state["killed_in"]):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.state["killed_in"].append(step)
        self._path.write_text(json.dumps(self.state))
        return True
    if code:
      raise subprocess.CalledProcessError(code, command)
    return False

  def _look(self, pid: int, seconds: float, used: dict[int, float]) -> None:
    step, memory, processor = self._step(), 0, 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
      first = psutil.Process(pid)
      for one in [first, *first.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
          times = one.cpu_times()
          total = times.user + times.system
          processor += total - used.get(one.pid, 0.0)
          used[one.pid] = total
          memory += one.memory_full_info().pss
    for key, value in (("seconds", seconds), ("processor_seconds", processor)):
      self.state[key][step] = round(self.state[key].get(step, 0.0) + value, 2)
    self.state["peak_bytes"] = max(self.state["peak_bytes"], memory)
    self._path.write_text(json.dumps(self.state))

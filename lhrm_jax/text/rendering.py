"""The process that renders chat templates: started at first use, replaced when it was stopped.

Templates come with models, from anybody, and transformers' sandbox bounds neither loops nor powers.
Rendering once in a child and then in the trainer would not do: what a template does may depend on
the conversation. So every render goes through one child, under limits on processor time and memory;
a prompt pays a pipe's round trip. The child imports transformers' renderer instead of this process,
so that loading takes no longer.
"""

import atexit
import contextlib
import json
import os
import pathlib
import selectors
import subprocess
import sys
import threading
import time
from typing import Any

_WORKER = pathlib.Path(__file__).with_name("render_worker.py")
_START_LIMIT_S = 120.0
_RENDER_LIMIT_S = 60.0  # of wall time; the worker's own limit is on processor time
_MAX_REPLY_BYTES = 2**28


class RenderError(Exception):
  """A template that failed, or that had to be stopped; the text says how."""


class _Worker:
  def __init__(self):
    self.ready = False
    self.process = subprocess.Popen(
      [sys.executable, "-P", str(_WORKER)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    )
    os.set_blocking(self.process.stdin.fileno(), False)
    self._rest = b""

  def ask(self, job: dict[str, Any] | None, limit_s: float) -> dict[str, Any]:
    """Sends a job, if any, and gives the next answer.

    Raises:
      TimeoutError: there was none within `limit_s`.
      EOFError: the process has ended.
    """
    deadline = time.monotonic() + limit_s
    data = b"" if job is None else json.dumps(job).encode("ascii") + b"\n"
    with contextlib.suppress(BrokenPipeError):  # told below, as the end of the answers
      while data:
        _await(self.process.stdin, selectors.EVENT_WRITE, deadline)
        data = data[os.write(self.process.stdin.fileno(), data) :]
    parts = [self._rest]
    while b"\n" not in parts[-1]:
      _await(self.process.stdout, selectors.EVENT_READ, deadline)
      parts.append(os.read(self.process.stdout.fileno(), 2**16))
      if not parts[-1] or sum(map(len, parts)) > _MAX_REPLY_BYTES:
        raise EOFError
    line, _, self._rest = b"".join(parts).partition(b"\n")
    return json.loads(line)

  def end(self) -> None:
    with contextlib.suppress(OSError):
      self.process.kill()
    for pipe in (self.process.stdin, self.process.stdout):
      with contextlib.suppress(OSError):
        pipe.close()
    self.process.wait()


def _await(pipe, event: int, deadline: float) -> None:
  with selectors.DefaultSelector() as selector:
    selector.register(pipe, event)
    if not selector.select(max(0.0, deadline - time.monotonic())):
      raise TimeoutError


_lock = threading.RLock()
_worker: _Worker | None = None


def start() -> None:
  """Starts the process if there is none, without waiting: it gets ready while weights are read."""
  global _worker
  with _lock:
    if _worker is not None and _worker.process.poll() is not None:
      _drop()  # somebody else ended it
    if _worker is None:
      _worker = _Worker()


def render(template: str, variables: dict[str, Any]) -> str:
  """The text of a template by transformers' renderer.

  Args:
    template: Jinja source.
    variables: JSON-like; `messages` among them.

  Raises:
    RenderError: the template failed or took more than it may.
    ChildProcessError: no process that could render came up.
  """
  with _lock:
    start()
    worker = _worker
    try:
      if not worker.ready:
        _wait_ready(worker)
      reply = worker.ask({"template": template, "variables": variables}, _RENDER_LIMIT_S)
    except (TimeoutError, EOFError) as error:
      _drop()
      raise RenderError(
        "it took more time or memory than a template may and was stopped"
      ) from error
    except BaseException:
      _drop()  # an answer may still come, and must not be taken for the next one's
      raise
  if "error" in reply:
    raise RenderError(reply["error"])
  return reply["text"]


def _wait_ready(worker: _Worker) -> None:
  try:
    worker.ask(None, _START_LIMIT_S)
    worker.ready = True
  except (TimeoutError, EOFError) as error:
    command = " ".join(worker.process.args)
    raise ChildProcessError(
      f"The process that renders chat templates did not start; run it to see why: {command}"
    ) from error


def _forget() -> None:
  """In a fork of this process, whose parent keeps the pipes."""
  global _lock, _worker
  _lock, _worker = threading.RLock(), None


os.register_at_fork(after_in_child=_forget)


@atexit.register
def _drop() -> None:
  global _worker
  with _lock:
    if _worker is not None:
      _worker.end()
      _worker = None

"""The process that renders chat templates: started at first use, replaced when it was stopped.

Templates come with models, from anybody, and transformers' sandbox bounds neither loops nor powers.
Rendering once in a child and then in the trainer would not do: what a template does may depend on
the conversation. So every render goes through one child, under limits on processor time and memory;
a prompt pays a pipe's round trip. The child imports transformers' renderer instead of this process,
so that loading takes no longer.
"""

import atexit
import os
import pathlib
import sys
import threading
from typing import Any

from lhrm_jax.worker_process import WorkerProcess

_WORKER = pathlib.Path(__file__).with_name("render_worker.py")
_START_LIMIT_S = 120.0
_RENDER_LIMIT_S = 60.0  # of wall time; the worker's own limit is on processor time


class RenderError(Exception):
  """A template that failed, or that had to be stopped; the text says how."""


_lock = threading.RLock()
_worker: WorkerProcess | None = None
_ready = False  # whether it has told that it can render


def start() -> None:
  """Starts the process if there is none, without waiting: it gets ready while weights are read."""
  global _worker, _ready
  with _lock:
    if _worker is not None and _worker.process.poll() is not None:
      _drop()  # killed from outside
    if _worker is None:
      _worker, _ready = WorkerProcess([sys.executable, "-P", str(_WORKER)]), False


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
    try:
      if not _ready:
        _wait_ready()
      reply = _worker.ask({"template": template, "variables": variables}, _RENDER_LIMIT_S)
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


def _wait_ready() -> None:
  global _ready
  try:
    _worker.receive(_START_LIMIT_S)
    _ready = True
  except (TimeoutError, EOFError) as error:
    command = " ".join(_worker.process.args)
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
      _worker.kill()
      _worker = None

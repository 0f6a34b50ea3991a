"""Renders chat templates in a child process, started at first use and replaced once killed.

Templates come with untrusted models, and transformers' sandbox bounds neither loops nor powers.
What a template does may depend on the conversation, so every render goes through the child, which
has limits on processor time and memory; a prompt costs a round trip over a pipe. The child, not
this process, imports transformers' renderer, so loading takes no longer.
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
  """A template failed or was stopped; the message says how."""


_lock = threading.RLock()
_worker: WorkerProcess | None = None
_ready = False  # whether the worker has said that it can render


def start() -> None:
  """Starts the process if there is none, without waiting: it loads while weights are read."""
  global _worker, _ready
  with _lock:
    if _worker is not None and _worker.process.poll() is not None:
      _drop()  # killed from outside
    if _worker is None:
      _worker, _ready = WorkerProcess([sys.executable, "-P", str(_WORKER)]), False


def render(template: str, variables: dict[str, Any]) -> str:
  """Renders a template with transformers' renderer.

  Args:
    template: Jinja source.
    variables: JSON-like; `messages` among them.

  Raises:
    RenderError: the template failed, or took more time or memory than it may.
    ChildProcessError: the process did not start.
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
  """Drops the worker in a fork of this process, whose parent keeps the pipes."""
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

"""A child process that answers JSON messages over pipes, each within a time limit.

Both sides write one JSON value per line. JSON carries data only, so nothing that a child sends can
execute in this process, as a pickle could.
"""

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

_MAX_REPLY_BYTES = 2**28


class WorkerProcess:
  """One process and its two pipes; usable by one thread at a time.

  Args:
    command: program and arguments; each line of its standard output is a reply.
    env: environment of the process; this process's by default.
  """

  def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None):
    self.process = subprocess.Popen(
      list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, close_fds=True
    )
    os.set_blocking(self.process.stdin.fileno(), False)
    self._unread = b""

  def ask(self, message: Any, limit_s: float) -> Any:
    """Sends a message and returns the reply.

    Raises:
      TimeoutError: no reply within `limit_s` seconds. Kill the process: a late reply would be taken
        for the answer to the next message.
      EOFError: the process has ended, or its reply is too long.
      ValueError: the reply is not JSON.
    """
    deadline = time.monotonic() + limit_s
    self._send(json.dumps(message).encode("ascii") + b"\n", deadline)
    return self._receive(deadline)

  def receive(self, limit_s: float) -> Any:
    """Returns the next message that the process sends by itself; see `ask` for the errors."""
    return self._receive(time.monotonic() + limit_s)

  def kill(self) -> None:
    """Kills the process."""
    with contextlib.suppress(OSError):
      self.process.kill()
    for pipe in (self.process.stdin, self.process.stdout):
      with contextlib.suppress(OSError):
        pipe.close()
    self.process.wait()

  def _send(self, data: bytes, deadline: float) -> None:
    with contextlib.suppress(BrokenPipeError):  # the end of the replies is reported instead
      while data:
        _wait(self.process.stdin, selectors.EVENT_WRITE, deadline)
        data = data[os.write(self.process.stdin.fileno(), data) :]

  def _receive(self, deadline: float) -> Any:
    parts, size = [self._unread], len(self._unread)
    while b"\n" not in parts[-1]:
      _wait(self.process.stdout, selectors.EVENT_READ, deadline)
      parts.append(os.read(self.process.stdout.fileno(), 2**16))
      size += len(parts[-1])
      if not parts[-1]:
        raise EOFError("the process has ended")
      if size > _MAX_REPLY_BYTES:
        raise EOFError(f"a reply of more than {_MAX_REPLY_BYTES} bytes")
    line, _, self._unread = b"".join(parts).partition(b"\n")
    return json.loads(line)


def _wait(pipe: Any, event: int, deadline: float) -> None:
  with selectors.DefaultSelector() as selector:
    selector.register(pipe, event)
    if not selector.select(max(0.0, deadline - time.monotonic())):
      raise TimeoutError("no reply in time")

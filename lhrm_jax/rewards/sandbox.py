"""Runs an untrusted program, isolated from network, files and other processes, under limits.

`jail.py` builds the isolation. Where the platform does not allow it, `run` raises
`SandboxUnavailable` and runs nothing; there is no weaker fallback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from lhrm_jax.rewards import cgroup, interpreter_files, seccomp
from lhrm_jax.rewards.registry import CannotJudge

_RUNS = itertools.count(os.getpid() * 1000)
_JAIL = pathlib.Path(__file__).with_name("jail.py")


class SandboxUnavailable(RuntimeError, CannotJudge):
  """This platform cannot isolate a program; nothing was run."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a program may use.

  Attributes:
    wall_s: seconds until it is killed.
    cpu_s: seconds of CPU time of one process.
    memory_mib: memory of all its processes together, and address space of each.
    processes: processes and threads at one time.
    output_bytes: what it may write to its output and to its error stream, each.
    disk_mib: what it may write into its working folder, which is in memory.
  """

  wall_s: float = 10.0
  cpu_s: int = 8
  memory_mib: int = 512
  processes: int = 16
  output_bytes: int = 1 << 20
  disk_mib: int = 16


@dataclasses.dataclass(frozen=True)
class Result:
  """How a program ended.

  `end` is exit, timeout, output or memory; `code` is its exit status, negative for a signal.
  """

  end: str
  code: int | None
  stdout: bytes
  stderr: bytes


def interpreter() -> str:
  """The interpreter that programs run in: the standard library, no packages."""
  return os.path.realpath(sys.executable)


def run(
  command: Sequence[str],
  *,
  stdin: bytes = b"",
  files: Mapping[str, str] | None = None,
  limits: Limits | None = None,
) -> Result:
  """Runs `command` in a fresh sandbox and waits for it.

  Args:
    command: the program as seen from inside, by its full path; it starts in its working folder.
    stdin: what it reads.
    files: names and texts to put into the working folder.
    limits: what it may use.

  Raises:
    SandboxUnavailable: isolation is not possible here.
  """
  limits = limits or Limits()
  machine = platform.machine()
  try:
    system_calls = seccomp.program(machine)
    folders, shown = interpreter_files.of(interpreter())
  except KeyError:
    raise SandboxUnavailable(f"no isolation on {sys.platform} {machine}") from None
  except (OSError, ValueError, subprocess.TimeoutExpired) as error:
    raise SandboxUnavailable(str(error)) from error
  with (
    cgroup.limited(limits.memory_mib << 20, 2 * limits.processes) as group,
    tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder,
  ):
    root = os.path.join(folder, "root")
    os.mkdir(root)
    spec = {
      "root": root,
      "run": next(_RUNS),
      "command": list(command),
      "files": dict(files or {}),
      "folders": folders,
      "shown": shown,
      "filter": system_calls.hex(),
      "cgroup": None if group is None else str(group.path),
      "limits": dataclasses.asdict(limits),
    }
    path = os.path.join(folder, "spec.json")
    pathlib.Path(path).write_text(json.dumps(spec), encoding="utf-8")
    read_end, write_end = os.pipe()
    try:
      process = subprocess.Popen(
        [interpreter(), "-I", "-S", "-B", str(_JAIL), path, str(write_end)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(write_end,),
        start_new_session=True,
        cwd="/",
        env={},
      )
      os.close(write_end)
      write_end = -1
      end, out, err = _pump(process, stdin, limits)
      messages = _messages(read_end)
      if group is not None and group.ran_out():
        messages["killed"] = "memory"
    finally:
      os.close(read_end)
      if write_end >= 0:
        os.close(write_end)
  if "refused" in messages or not messages:
    detail = messages.get("refused") or err.decode(errors="replace").strip() or "no reply"
    if end != "exit":
      detail = f"{end} before the program started"
    raise SandboxUnavailable(
      f"this platform cannot isolate a program ({detail}); run the code reward on Linux with user "
      "namespaces enabled (sysctl user.max_user_namespaces), or as root in a container that may "
      "make namespaces. Untrusted code is never run without isolation."
    )
  if end == "exit" and "killed" in messages:
    end = messages["killed"]
  return Result(end, messages.get("exit"), out, err)


def _messages(fd: int) -> dict:
  """The jail's reports; it has ended, so reading does not wait."""
  os.set_blocking(fd, False)
  data = b""
  with contextlib.suppress(BlockingIOError):
    while part := os.read(fd, 65536):
      data += part
  messages: dict = {}
  for line in data.splitlines():
    with contextlib.suppress(ValueError):
      messages.update(json.loads(line))
  return messages


def _pump(process: subprocess.Popen, stdin: bytes, limits: Limits) -> tuple[str, bytes, bytes]:
  """Feeds the program and collects its output until it ends or a limit is reached."""
  deadline = time.monotonic() + limits.wall_s
  out = {process.stdout: bytearray(), process.stderr: bytearray()}
  end = "exit"
  with selectors.DefaultSelector() as selector:
    for pipe in out:
      selector.register(pipe, selectors.EVENT_READ)
    os.set_blocking(process.stdin.fileno(), False)
    rest = memoryview(stdin)
    if rest:
      selector.register(process.stdin, selectors.EVENT_WRITE)
    else:
      process.stdin.close()
    while any(pipe in out for pipe in _files(selector)):
      events = selector.select(deadline - time.monotonic())
      if time.monotonic() >= deadline:
        end = "timeout"
        break
      for key, _ in events:
        if key.fileobj is process.stdin:
          try:
            rest = rest[os.write(process.stdin.fileno(), rest[:65536]) :]
          except BrokenPipeError:
            rest = rest[:0]
          if not rest:
            selector.unregister(process.stdin)
            process.stdin.close()
          continue
        part = os.read(key.fd, 65536)
        if not part:
          selector.unregister(key.fileobj)
          continue
        out[key.fileobj] += part
        if len(out[key.fileobj]) > limits.output_bytes:
          end = "output"
      if end != "exit":
        break
  if end == "exit":
    try:
      process.wait(max(0.05, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      end = "timeout"
  # The namespace ends with its first process, and that one with this group.
  with contextlib.suppress(ProcessLookupError, PermissionError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  for pipe in (process.stdin, process.stdout, process.stderr):
    with contextlib.suppress(OSError):
      pipe.close()
  cut = [bytes(data[: limits.output_bytes]) for data in out.values()]
  return end, cut[0], cut[1]


def _files(selector: selectors.BaseSelector) -> list:
  return [key.fileobj for key in selector.get_map().values()]


@functools.cache
def why_unavailable() -> str | None:
  """Why nothing can be run here; `None` where the sandbox works."""
  try:
    result = run([interpreter(), "-I", "-S", "-c", "print(6 * 7)"])
  except SandboxUnavailable as error:
    return str(error)
  return None if result.stdout.strip() == b"42" else f"a trial run failed: {result}"

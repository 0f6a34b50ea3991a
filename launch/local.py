"""Starts N processes of one job on this machine: a pod in miniature, on CPU devices.

  python launch/local.py --processes 2 --devices 4 -- \\
      python -m experiments.hgpo --config experiments/configs/arithmetic.py --workdir runs/local

Every line of output carries the number of its process. When one process fails, its last lines are
repeated, the others are killed, and the launcher exits with that process's status.
"""

import argparse
import collections
import io
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

_TAIL = 30  # lines of a failed process that are repeated
_GRACE_SECONDS = 10.0
_MOST = 1024


def environment(
  process: int, processes: int, devices: int, coordinator: str, base: Mapping[str, str]
) -> dict[str, str]:
  """Environment of one process: coordinator, its number, and its virtual CPU devices."""
  flags = [f for f in base.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
  flags.append(f"--xla_force_host_platform_device_count={devices}")
  return {
    **base,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": " ".join(flags),
    "JAX_COORDINATOR_ADDRESS": coordinator,
    "JAX_NUM_PROCESSES": str(processes),
    "JAX_PROCESS_ID": str(process),
  }


def run(command: Sequence[str], processes: int, devices: int) -> int:
  """Runs the job; returns 0, or the status of the process that failed first."""
  if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack a character
    sys.stdout.reconfigure(errors="backslashreplace")
  coordinator = f"127.0.0.1:{free_port()}"
  workers = [
    subprocess.Popen(
      command,
      env=environment(i, processes, devices, coordinator, os.environ),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      errors="replace",
      start_new_session=True,  # so that a worker's own children end with it
    )
    for i in range(processes)
  ]
  tails = [collections.deque(maxlen=_TAIL) for _ in workers]
  ended: collections.deque[int] = collections.deque()
  any_ended = threading.Condition()

  def follow(i: int) -> None:
    for line in workers[i].stdout:
      tails[i].append(line)
      sys.stdout.write(f"[{i}] {line}")
      sys.stdout.flush()
    workers[i].wait()
    with any_ended:
      ended.append(i)
      any_ended.notify()

  threads = [threading.Thread(target=follow, args=(i,), daemon=True) for i in range(processes)]
  for thread in threads:
    thread.start()
  # A preempted machine gets SIGTERM: passed on, so that all workers save before they exit.
  preempted = threading.Event()

  def on_signal(*_) -> None:
    preempted.set()
    _signal_all(workers, signal.SIGTERM)

  signal.signal(signal.SIGTERM, on_signal)
  status = 0
  try:
    for _ in workers:
      with any_ended:
        any_ended.wait_for(lambda: ended)
        i = ended.popleft()
      if workers[i].returncode:
        code = workers[i].returncode
        status = code if code > 0 else 128 - code  # as a shell reports a signal
        if preempted.is_set():
          continue
        # The others wait for it in a collective, where no Python handler would run.
        _signal_all(workers, signal.SIGKILL)
        for thread in threads:
          thread.join(_GRACE_SECONDS)
        print(f"\nProcess {i} failed with status {status}. Its last lines:", file=sys.stderr)
        sys.stderr.writelines(f"[{i}] {line}" for line in tails[i])
        break
  except KeyboardInterrupt:
    status = 130
  finally:
    _end(workers)
  return status


def _end(workers: Sequence[subprocess.Popen]) -> None:
  """Terminates the workers that are still running, then kills them."""
  _signal_all(workers, signal.SIGTERM)
  for worker in workers:
    try:
      worker.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
      _signal_all([worker], signal.SIGKILL)
      worker.wait()


def _signal_all(workers: Sequence[subprocess.Popen], number: int) -> None:
  for worker in workers:
    if worker.poll() is None:
      os.killpg(worker.pid, number)


def free_port() -> int:
  """A port that nothing listens on right now."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--devices", type=int, default=1, help="virtual CPU devices per process")
  parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
  parser.add_argument("command", nargs=argparse.REMAINDER, help="after --: what each process runs")
  args = parser.parse_args(argv)
  command = args.command[1:] if args.command[:1] == ["--"] else args.command
  if not command:
    parser.error("name the command after --, e.g. -- python -m experiments.hgpo --config FILE")
  if not (1 <= args.processes <= _MOST and 1 <= args.devices <= _MOST):
    parser.error(f"--processes and --devices are from 1 to {_MOST}")
  if args.dry_run:
    for i in range(args.processes):
      added = environment(i, args.processes, args.devices, "127.0.0.1:PORT", {})
      print(shlex.join([*(f"{k}={v}" for k, v in added.items()), *command]))
    return 0
  if not shutil.which(command[0]):
    parser.error(f"{command[0]!r} is not a command on this machine")
  return run(command, args.processes, args.devices)


if __name__ == "__main__":
  sys.exit(main())

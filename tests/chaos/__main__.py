"""Kills a small run again and again, and compares its result with an uninterrupted run.

python -m tests.chaos [--kills 50] [--signals 20] [--seed 0]
"""

import argparse
import pathlib
import random
import signal
import tempfile
import time

from lhrm_jax.runs.preemption import EXIT_STATUS
from tests.chaos.small_run import log_of, outcome, start

_TIME_LIMIT = 30  # seconds from SIGTERM to the end


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--signals", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  chance = random.Random(options.seed)
  folder = pathlib.Path(tempfile.mkdtemp(prefix="chaos-"))
  alone, seconds = left_alone(folder)
  print(f"left alone: {seconds:.0f} s, in {folder}", flush=True)
  kill(folder, alone, seconds, options.kills, chance)
  terminate(folder, alone, seconds, options.signals, chance)


def left_alone(folder: pathlib.Path) -> tuple[dict[str, str], float]:
  """The outcome without interruption, and its seconds once every program is in the cache."""
  for name in ("warm", "alone"):
    began = time.monotonic()
    assert start(folder / name).wait() == 0, log_of(folder / name)
  return outcome(folder / "alone"), time.monotonic() - began


def kill(
  folder: pathlib.Path, alone: dict[str, str], seconds: float, kills: int, chance: random.Random
) -> None:
  """SIGKILL at random moments; each run is resumed until it ends, then compared."""
  done = number = 0
  while done < kills:
    workdir = folder / f"kill-{number}"
    number += 1
    while True:
      process = start(workdir)
      if done < kills:
        # Every third time the moment is that of a save: its temporary folder is there.
        if done % 3 == 2:
          wait_for_save(workdir, process)
        else:
          wait(process, chance.uniform(0.3, 0.9) * seconds)
      else:
        process.wait()
      if process.poll() is not None:
        assert process.returncode == 0, log_of(workdir)
        break
      process.kill()
      process.wait()
      done += 1
    compare(alone, outcome(workdir), workdir)
    print(f"{done} kills, {number} runs bit-equal to the one left alone", flush=True)


def terminate(
  folder: pathlib.Path, alone: dict[str, str], seconds: float, signals: int, chance: random.Random
) -> None:
  """SIGTERM and SIGINT at random moments: saved, and ended in time with the documented status."""
  sent = number = 0
  longest = 0.0
  while sent < signals:
    workdir = folder / f"signal-{number}"
    number += 1
    while True:
      process = start(workdir)
      wait(process, chance.uniform(0.4, 0.9) * seconds if sent < signals else float("inf"))
      if process.poll() is not None:
        assert process.returncode == 0, log_of(workdir)
        break
      process.send_signal(signal.SIGTERM if sent % 2 == 0 else signal.SIGINT)
      began = time.monotonic()
      status = process.wait(timeout=_TIME_LIMIT)
      longest = max(longest, time.monotonic() - began)
      # 0: it was ending by itself.
      assert status in (EXIT_STATUS, 0), (status, log_of(workdir)[-2000:])
      sent += 1
    compare(alone, outcome(workdir), workdir)
    print(
      f"{sent} signals, {number} runs bit-equal; the longest end took {longest:.1f} s", flush=True
    )


def wait(process, seconds: float) -> None:
  began = time.monotonic()
  while process.poll() is None and time.monotonic() - began < seconds:
    time.sleep(0.01)


def wait_for_save(workdir: pathlib.Path, process) -> None:
  """Until a save is under way that was not when the process started."""
  old = set(workdir.glob("checkpoints/*/*"))
  while process.poll() is None:
    if any("tmp" in path.name for path in set(workdir.glob("checkpoints/*/*")) - old):
      return


def compare(alone: dict[str, str], found: dict[str, str], workdir: pathlib.Path) -> None:
  different = [name for name, value in alone.items() if found[name] != value]
  assert not different, f"{workdir} differs in {', '.join(different)}\n{log_of(workdir)[-3000:]}"


if __name__ == "__main__":
  main()

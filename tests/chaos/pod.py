"""A job of several processes that share no disk: each has a cache folder of its own."""

import json
import os
import pathlib
import subprocess
import time

from launch.local import environment, free_port
from lhrm_jax.storage import bucket
from lhrm_jax.storage.folder import Folder
from tests.chaos.small_run import ROOT, command

FLAGS = ["--config.hft.steps=12", "--config.hft.until.check_every=100", "--config.hgpo.steps=0",
         "--config.hft.think_per_step=8", "--config.hft.no_think_per_step=8",
         "--config.evaluation.prompts=8", "--config.evaluation.batch_prompts=4"]  # fmt: skip


class Pod:
  """Processes with four devices together that train into a bucket.

  Attributes:
    workers: the processes.
  """

  def __init__(self, url: str, folder: pathlib.Path, processes: int, *more: str):
    self.url, self._folder = url, folder
    coordinator = f"127.0.0.1:{free_port()}"
    self.workers = []
    for i in range(processes):
      base = {**os.environ, "PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": str(folder / f"disk{i}")}
      with self._log(i).open("a") as log:
        self.workers.append(
          subprocess.Popen(
            command(url, *FLAGS, *more), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
            env=environment(i, processes, 4 // processes, coordinator, base),
          )
        )  # fmt: skip

  def _log(self, process: int) -> pathlib.Path:
    return self._folder / f"process{process}.log"

  def log(self, process: int = 0) -> str:
    return self._log(process).read_text()

  @property
  def metrics(self) -> list[dict]:
    """What the first process has logged, on its own disk."""
    cache = self._folder / "disk0"
    path = cache / bucket.folder_for(self.url, "runs").relative_to(_cache()) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

  def until_uploading(self, least: int, seconds: float = 300, stage: str = "hft") -> None:
    """Waits until a step from `least` on is being uploaded and is not whole."""
    saved, deadline = Folder(f"{self.url}/saved/{stage}"), time.monotonic() + seconds
    while time.monotonic() < deadline:
      assert self.workers[0].poll() is None, self.log()[-5000:]
      names = saved.names()
      begun = {int(name.split("/")[0]) for name in names}
      whole = {int(name.split("/")[0]) for name in names if name.endswith("/commit.json")}
      if any(step >= least for step in begun - whole):
        return
      time.sleep(0.002)
    raise AssertionError(self.log()[-5000:])

  def kill(self) -> None:
    for worker in self.workers:
      worker.kill()
      worker.wait()

  def finish(self, seconds: float = 600) -> None:
    """Waits for a good end."""
    for i, worker in enumerate(self.workers):
      assert worker.wait(timeout=seconds) == 0, self.log(i)[-5000:]


def _cache() -> pathlib.Path:
  return bucket.folder_for("s3://x", "y").parents[3]


def arrays_of(url: str, step: int, stage: str = "hft") -> dict[str, bytes]:
  """The bytes of every array of a step, whatever processes wrote it."""
  import numpy as np

  from lhrm_jax.runs import committed
  from lhrm_jax.storage import sharded_arrays

  path = f"{url}/saved/{stage}/{step}"
  folder, commit = Folder(path), committed.read(path)
  blocks = sharded_arrays.listed(folder, commit.attempt, commit.processes)
  found: dict[str, np.ndarray] = {}
  for block in blocks:
    whole = found.setdefault(block.array, np.zeros(block.shape, np.dtype(block.dtype)))
    place = tuple(slice(a, a + n) for a, n in zip(block.starts, block.sizes, strict=True))
    whole[place] = sharded_arrays._read(folder, commit.attempt, block)
  return {name: array.tobytes() for name, array in found.items()}

"""Kills processes that save into a bucket, and times saving there against a local disk.

    python -m benchmarks.buckets --kills 10 --out buckets.json

Starts moto's S3 server. One process saves 256 MB to it and to this disk. Then two processes without
a shared disk (`tests.chaos.bucket_pod`) save there, and one of them is killed with SIGKILL during a
save, again and again; every start checks what it resumes from, bit for bit.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import fsspec
import jax
import jax.numpy as jnp
import numpy as np

from launch.local import environment, free_port
from lhrm_jax.runs.bucket_checkpoints import BucketCheckpoints
from lhrm_jax.runs.checkpoints import Checkpoints
from lhrm_jax.storage.folder import Folder
from lhrm_jax.training.state import TrainState

_MEGABYTES, _SAVES = 256, 3


def start_server() -> subprocess.Popen:
  """An S3 server in a process of its own, whose address the environment then names."""
  port = free_port()
  command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
  server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "test",
                 "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
  for _ in range(300):
    try:
      fsspec.filesystem("s3", skip_instance_cache=True).mkdir("pods")
      return server
    except Exception:
      time.sleep(0.2)
  raise RuntimeError("the server did not start")


def start_pod(url: str, steps: int, folder: pathlib.Path) -> list[subprocess.Popen]:
  coordinator, workers = f"127.0.0.1:{free_port()}", []
  for i in range(2):
    command = [sys.executable, "-m", "tests.chaos.bucket_pod", url, str(steps)]
    with (folder / f"process{i}.log").open("a") as log:
      workers.append(
        subprocess.Popen(
          command, env=environment(i, 2, 2, coordinator, os.environ), stdout=log,
          stderr=subprocess.STDOUT,
        )
      )  # fmt: skip
  return workers


def until_saving(url: str, least: int, workers: list[subprocess.Popen]) -> int:
  """Waits until a step from `least` on is being saved and is not whole; returns it."""
  folder = Folder(url)
  while all(worker.poll() is None for worker in workers):
    names = folder.names()
    begun = {int(name.split("/")[0]) for name in names}
    whole = {int(name.split("/")[0]) for name in names if name.endswith("/commit.json")}
    if saving := [step for step in begun - whole if step >= least]:
      return min(saving)
  raise RuntimeError("a process ended by itself")


def kill(count: int, folder: pathlib.Path) -> dict[str, Any]:
  """Kills one of two processes in mid-save `count` times, then lets them finish."""
  url, killed_at, least = "s3://pods/killed", [], 1
  for number in range(count):
    workers = start_pod(url, 10**6, folder)
    at = until_saving(url, least + 2, workers)
    workers[number % 2].send_signal(signal.SIGKILL)
    for worker in workers:
      worker.kill()
      worker.wait()
    killed_at.append(at)
    least = at
  workers = start_pod(url, least + 4, folder)
  ended = [worker.wait(timeout=600) for worker in workers]
  said = (folder / "process0.log").read_text()
  resumed = [int(step) for step in re.findall(r"resumes from (\d+)", said)]
  return {"kills": count, "killed_while_saving": killed_at, "resumed_from": resumed,
          "all_bit_equal": ended == [0, 0] and len(resumed) == count + 1}  # fmt: skip


def cost(folder: pathlib.Path) -> dict[str, float]:
  """Seconds of a save until it is whole, to this disk and to the bucket."""
  arrays = {
    f"w{i}": jnp.asarray(np.random.default_rng(i).random((1 << 20, 16), np.float32))
    for i in range(_MEGABYTES // 64)
  }
  state = TrainState(jnp.int32(0), arrays, {}, jnp.int32(0), jnp.int32(0))
  stores = {"disk": Checkpoints(folder / "disk", every=1, keep=1),
            "bucket": BucketCheckpoints("s3://pods/cost", every=1, keep=1)}  # fmt: skip
  found = {}
  for name, store in stores.items():
    store.newest()
    seconds = []
    for step in range(1, _SAVES + 1):
      began = time.perf_counter()
      store.save(jax.tree.map(jnp.array, state), step, dict)
      held = time.perf_counter() - began
      store.wait()
      seconds.append((held, time.perf_counter() - began))
    store.close()
    found[f"{name}_training_waits_s"] = min(held for held, _ in seconds)
    found[f"{name}_until_whole_s"] = min(whole for _, whole in seconds)
  return {"megabytes": _MEGABYTES, **found}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--kills", type=int, default=10)
  parser.add_argument("--out", type=pathlib.Path)
  a = parser.parse_args()
  server = start_server()
  try:
    with tempfile.TemporaryDirectory() as folder:
      made = {"cost": cost(pathlib.Path(folder)), "load_average": os.getloadavg()}
      made["kills"] = kill(a.kills, pathlib.Path(folder))
  finally:
    server.kill()
  text = json.dumps(made, indent=2) + "\n"
  print(text)
  if a.out:
    a.out.write_text(text)


if __name__ == "__main__":
  main()

"""One process of a job that saves arrays straight into a bucket, to be killed; without a model.

python -m tests.chaos.bucket_pod URL STEPS
"""

import sys
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lhrm_jax import parallel
from lhrm_jax.runs import saved_arrays
from lhrm_jax.runs.bucket_checkpoints import BucketCheckpoints
from lhrm_jax.training.state import TrainState

_FIELDS = {"w": (8, 1 << 16), "v": (1 << 10,)}  # 2 MB, sharded by the first axis, and a replica
_EVERY_S = 0.2


def values(step: int) -> dict[str, np.ndarray]:
  """The arrays after a step, which each step computes from those before."""
  rng = np.random.default_rng(0)
  found = {name: rng.random(shape, np.float32) for name, shape in _FIELDS.items()}
  for _ in range(step):
    found = advanced(found)
  return found


def advanced(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {name: np.float32(1.01) * x + np.float32(0.1) for name, x in found.items()}


def _state(shardings, held) -> TrainState:
  arrays = {
    name: jax.make_array_from_callback(x.shape, shardings[name], lambda at, x=x: x[at])
    for name, x in held.items()
  }
  return TrainState(**{f: (arrays if f == "params" else {}) for f in _fields()})


def _fields() -> list[str]:
  return ["params", *saved_arrays.training_fields()]


def main(url: str, steps: int) -> None:
  parallel.initialize()
  mesh = parallel.make_mesh(data=-1)
  shardings = {
    "w": NamedSharding(mesh, PartitionSpec("data")), "v": NamedSharding(mesh, PartitionSpec())
  }  # fmt: skip
  store = BucketCheckpoints(url, every=1, keep=2)
  found, start = store.newest(), 0
  held = values(0)
  if found:
    start = found.step
    target = {name: jax.ShapeDtypeStruct(shape, np.float32, sharding=shardings[name])
              for name, shape in _FIELDS.items()}  # fmt: skip
    read = saved_arrays._load(found.path, {"params": target})["params"]
    wanted = values(start)
    for name, array in read.items():
      for shard in array.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), wanted[name][shard.index])
    held = wanted
  print(f"resumes from {start}", flush=True)
  for step in range(start + 1, steps + 1):
    held = advanced(held)
    store.save(_state(shardings, held), step, lambda step=step: {"step": step})
    time.sleep(_EVERY_S)
  store.close()
  parallel.wait_for_all("end")


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]))

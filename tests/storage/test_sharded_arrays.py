"""Arrays in a bucket, shard by shard: read on any mesh, damage found, outages waited for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lhrm_jax.storage import sharded_arrays
from lhrm_jax.storage.folder import Folder
from lhrm_jax.storage.urls import BucketError


def sharding(spec, devices=1):
  return NamedSharding(Mesh(np.array(jax.devices()[:devices]), ("x",)), PartitionSpec(*spec))


TREE = {
  "params": {"w": np.arange(24, dtype=np.float32).reshape(4, 6), "b": np.ones(3, np.float32)},
  "step": np.int32(7),
  "half": np.arange(5).astype(jnp.bfloat16),
  "none": np.zeros((0, 2), np.float32),
}


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
  return Folder(tmp_path if request.param == "local" else f"memory://{tmp_path.name}")


def placed(tree):
  return jax.tree.map(lambda x: jax.device_put(x, sharding(())), tree)


def target(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(())), tree)


def written(folder, processes=1):
  """`TREE` as so many processes write it, each a part of the rows of `w`."""
  blocks = sharded_arrays.snapshot(placed(TREE))
  for process in range(processes):
    mine = [b for i, b in enumerate(blocks) if i % processes == process and b.array != "params/w"]
    rows = np.array_split(np.arange(4), processes)[process]
    part = TREE["params"]["w"][rows]
    mine.append(sharded_arrays.Block("params/w", (4, 6), (int(rows[0]), 0), part))
    sharded_arrays.write(folder, "a", process, mine)
  return sharded_arrays.listed(folder, "a", processes)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_what_any_number_of_processes_wrote_is_read_back(folder, processes):
  blocks = written(folder, processes)
  found = sharded_arrays.load(folder, "a", blocks, target(TREE))
  jax.tree.map(np.testing.assert_array_equal, found, TREE)
  assert found["half"].dtype == jnp.bfloat16
  assert sharded_arrays.damage(folder, "a", blocks) is None
  part = sharded_arrays.load(folder, "a", blocks, {"params": target(TREE["params"])})
  np.testing.assert_array_equal(part["params"]["w"], TREE["params"]["w"])


def test_a_part_of_an_array_is_put_together_from_the_blocks_that_overlap_it(folder):
  blocks = [b for b in written(folder, 4) if b.array == "params/w"]
  wanted = jax.ShapeDtypeStruct((4, 6), jnp.float32)
  index = (slice(1, 3), slice(2, None))
  found = sharded_arrays._assembled(folder, "a", blocks, wanted, index)
  np.testing.assert_array_equal(found, TREE["params"]["w"][1:3, 2:])
  with pytest.raises(ValueError, match="params/w is not whole"):
    sharded_arrays._assembled(folder, "a", blocks[:2], wanted, index)


def test_other_arrays_than_asked_for_are_named(folder):
  blocks = written(folder)
  wrong = {"params": {"w": jax.ShapeDtypeStruct((4, 7), jnp.float32, sharding=sharding(()))}}
  with pytest.raises(ValueError, match=r"float32\[4, 6\] in the checkpoint, and float32\[4, 7\]"):
    sharded_arrays.load(folder, "a", blocks, wrong)
  with pytest.raises(ValueError, match="bias is nothing in the checkpoint"):
    sharded_arrays.load(folder, "a", blocks, {"bias": wrong["params"]["w"]})


def test_a_changed_or_missing_file_is_found(folder):
  blocks = written(folder, 2)
  content = bytearray(folder.read("a/00001.0000"))
  content[5] ^= 1
  folder.write("a/00001.0000", bytes(content))
  assert "00001.0000 is changed at" in sharded_arrays.damage(folder, "a", blocks)
  with pytest.raises(ValueError, match="is damaged at"):
    sharded_arrays.load(folder, "a", blocks, target(TREE))
  folder.remove("a/00001.0000")
  assert sharded_arrays.damage(folder, "a", blocks) == "00001.0000 is missing"
  folder.remove("a/00001.json")
  with pytest.raises(ValueError, match=r"a/00001.json is missing"):
    sharded_arrays.listed(folder, "a", 2)


def test_large_arrays_take_several_files(folder, monkeypatch):
  monkeypatch.setattr(sharded_arrays, "_FILE_BYTES", 50)
  blocks = written(folder)
  assert len({block.file for block in blocks}) > 1
  found = sharded_arrays.load(folder, "a", blocks, target(TREE))
  jax.tree.map(np.testing.assert_array_equal, found, TREE)


def test_a_bucket_that_is_out_of_reach_for_a_while_is_waited_for(monkeypatch):
  pauses, left = [], [3]
  monkeypatch.setattr(sharded_arrays.time, "sleep", pauses.append)

  def call(value):
    left[0] -= 1
    if left[0] >= 0:
      raise BucketError("no route to host")
    return value

  assert sharded_arrays.retried(call, 5) == 5
  assert pauses == [0.5, 1.0, 2.0]
  left[0] = 100
  with pytest.raises(BucketError, match="no route"):
    sharded_arrays.retried(call, 5)

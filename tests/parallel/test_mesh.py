"""The mesh and the table of logical axes."""

import jax
import pytest
from jax.sharding import PartitionSpec

from lhrm_jax import parallel


def test_minus_one_takes_the_devices_that_are_left():
  mesh = parallel.make_mesh(data=-1, fsdp=1, tensor=1)
  assert mesh.shape == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, -1, 1), (-1, 7, 1), (0, 1, 1)])
def test_sizes_that_do_not_fit_are_refused(sizes):
  if jax.device_count() % 3 == 0 or jax.device_count() % 7 == 0:
    pytest.skip("these sizes fit this machine")
  with pytest.raises(ValueError, match="mesh: data="):
    parallel.make_mesh(*sizes)


def test_an_array_uses_a_mesh_axis_once():
  assert parallel.partition_spec(("vocab", "embed")) == PartitionSpec(("tensor",), ("fsdp",))
  assert parallel.partition_spec(("heads", "mlp")) == PartitionSpec(("tensor",), None)
  assert parallel.partition_spec(("layers", None)) == PartitionSpec(None, None)

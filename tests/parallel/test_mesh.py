"""The mesh and the table of logical axes."""

import os
import subprocess
import sys
import textwrap

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


def test_a_sharded_update_equals_that_of_one_device():
  """On 8 virtual devices, in a process of its own: same loss, every matrix really split."""
  script = """
    import jax, numpy as np, optax
    from lhrm_jax import parallel
    from lhrm_jax.data.arithmetic import Arithmetic
    from lhrm_jax.data.batches import encode_demonstrations
    from lhrm_jax.policy import PolicyConfig
    from lhrm_jax.training import hft, state as train_state

    task = Arithmetic(); tokenizer = task.tokenizer()
    config = PolicyConfig(32, 32, 64, 2, 4, 2, max_positions=64)
    batch = encode_demonstrations(tokenizer, task.demonstrations(0, 0, 8, 1)[0], 50)
    schedule = optax.constant_schedule(1e-2)
    optimizer = train_state.make_optimizer(schedule, weight_decay=0.1, clip_norm=1.0)
    losses = []
    for sizes, devices in (((1, 1, 1), 1), ((2, 2, 2), 8)):
      mesh = parallel.make_mesh(*sizes, devices=jax.devices()[:devices])
      state = train_state.create(config, optimizer, mesh, jax.random.key(0))
      step = hft.make_hft_step(config, optimizer, schedule, mesh)
      placed = jax.device_put(batch, parallel.batch_sharding(mesh))
      for _ in range(3):
        state, metrics = step(state, (placed,))
      losses.append(float(metrics["loss"]))
      kernel = state.params["layers"]["mlp"]["gate"]["kernel"]
      assert kernel.addressable_shards[0].data.size * (devices // 2 or 1) == kernel.size
      assert state.opt_state[1][0].mu["embedding"].sharding == state.params["embedding"].sharding
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
  """
  flags = "--xla_force_host_platform_device_count=8"
  subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script)],
    env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    check=True,
    timeout=300,
  )

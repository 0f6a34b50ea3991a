"""Several real processes as one job, started as a user starts them."""

import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from lhrm_jax import parallel
from lhrm_jax.parallel import multihost


def launch(script: str, processes: int, devices: int, timeout: float = 240):
  """Runs a script in every process of a job; returns the finished launcher."""
  return subprocess.run(
    [
      sys.executable, "launch/local.py", "--processes", str(processes), "--devices", str(devices),
      "--", sys.executable, "-c", textwrap.dedent(script),
    ],
    capture_output=True, text=True, timeout=timeout,
  )  # fmt: skip


def test_processes_hold_their_rows_and_know_all_of_them():
  job = launch(
    """
    import jax, numpy as np
    from lhrm_jax import parallel
    parallel.initialize()
    mesh = parallel.make_mesh(2, 2, 1)
    rows = parallel.local_rows(mesh, 8)
    local = {"x": np.stack([rows, rows**2], 1), "version": np.int32(3)}
    batch = parallel.global_batch(mesh, local, 8)
    assert batch["x"].shape == (8, 2) and not batch["x"].is_fully_addressable
    assert batch["x"].sharding.spec == parallel.partition_spec(("batch",))
    total = jax.jit(lambda b: b["x"].sum(0) * b["version"])(batch)
    assert total.tolist() == [3 * 28, 3 * 140], total
    assert parallel.gather_rows(mesh, local, 8)["x"][:, 0].tolist() == list(range(8))
    print("rows", rows.tolist(), "writes", parallel.is_writer(), flush=True)
    """,
    processes=2,
    devices=2,
  )
  assert job.returncode == 0, job.stderr
  lines = [line for line in job.stdout.splitlines() if "rows" in line]
  assert sorted(lines) == [
    "[0] rows [0, 1, 2, 3] writes True",
    "[1] rows [4, 5, 6, 7] writes False",
  ]


def test_every_host_gets_whole_weights_of_its_own():
  """From an update's layout, split over both hosts, to one that each host decodes with alone."""
  job = launch(
    """
    import jax, jax.numpy as jnp, numpy as np
    from lhrm_jax import parallel
    parallel.initialize()
    axes = {"kernel": ("embed", "mlp"), "scale": ("embed",)}
    expected = {"kernel": np.arange(32.0).reshape(8, 4), "scale": np.arange(8.0)}
    shardings = parallel.param_shardings(parallel.make_mesh(1, 4, 1), axes)
    params = jax.jit(lambda: jax.tree.map(jnp.asarray, expected), out_shardings=shardings)()
    assert not params["kernel"].is_fully_addressable
    layout = parallel.SamplingLayout.make(tensor=2)
    mine = layout.place(params, axes)
    assert mine["kernel"].is_fully_addressable
    assert mine["kernel"].addressable_shards[0].data.shape == (8, 2)
    jax.tree.map(np.testing.assert_array_equal, mine, expected)
    """,
    processes=2,
    devices=2,
  )
  assert job.returncode == 0, job.stderr


def test_a_process_that_fails_ends_the_job_with_its_error():
  job = launch(
    """
    import jax, time
    from lhrm_jax import parallel
    parallel.initialize()
    if jax.process_index() == 1:
      raise OSError("the disk of this host is full")
    time.sleep(600)
    """,
    processes=2,
    devices=1,
    timeout=60,
  )
  assert job.returncode == 1
  assert "Process 1 failed with status 1" in job.stderr
  assert "[1] OSError: the disk of this host is full" in job.stderr


def test_rows_that_do_not_divide_are_refused():
  devices = jax.device_count()
  if devices == 1:
    pytest.skip("every number of rows divides over one device")
  with pytest.raises(ValueError, match=f"{devices + 1} rows do not divide"):
    parallel.local_rows(parallel.make_mesh(), devices + 1)


def test_one_process_is_a_job_of_its_own():
  mesh = parallel.make_mesh()
  rows = 2 * jax.device_count()
  assert parallel.local_rows(mesh, rows).tolist() == list(range(rows))
  local = {"x": np.arange(rows)}
  np.testing.assert_array_equal(parallel.global_batch(mesh, local, rows)["x"], local["x"])
  np.testing.assert_array_equal(parallel.gather_rows(mesh, local, rows)["x"], local["x"])


@pytest.mark.parametrize(
  ("environment", "message"),
  [
    ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES"),
    ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID"),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "Open MPI 5"),
  ],
)
def test_half_a_description_of_a_job_is_refused(environment, message):
  with pytest.raises(ValueError, match=message):
    multihost.initialize(environment)


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, None),
    ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
    (
      {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"},
      ("a:1", 4, 2),
    ),
    (
      {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "8", "JOB_COMPLETION_INDEX": "7"},
      ("a:1", 8, 7),
    ),
    (
      {"JAX_COORDINATOR_ADDRESS": "a:1", "OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"},
      ("a:1", 3, 1),
    ),
    ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "16", "SLURM_PROCID": "5"}, ()),
    ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:3"}, ()),
  ],
)
def test_the_job_is_read_from_the_environment(monkeypatch, environment, expected):
  """`()` leaves it to JAX's own detection; `None` starts nothing."""
  calls = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
  monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # what it sets ends with the test
  multihost.initialize(environment)
  assert calls == ([] if expected is None else [expected])

"""One program on many hosts: start-up, the writing process, rows exchanged between hosts.

Every worker runs the same command. JAX's own runtime joins them; each process then holds some of
the devices and, of every batch, the rows that lie on them.
"""

import os
import pickle
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lhrm_jax.parallel.mesh import batch_sharding, parts_of, replicated

COORDINATOR = "JAX_COORDINATOR_ADDRESS"
# Where each number is read from, in this order.
PROCESS_COUNT = ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")
PROCESS_ID = ("JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX")


def initialize(environment: Mapping[str, str] = os.environ) -> None:
  """Joins the other processes of the job, if there are any. Call before anything touches a device.

  Recognises TPU VMs (alone, in a slice or in several slices), GKE JobSets, SLURM's `srun` and Open
  MPI. Elsewhere set `JAX_COORDINATOR_ADDRESS=host:port`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.
  Without any of these the process runs alone.

  Raises:
    ValueError: the environment sets some of these but not all.
  """
  if jax.distributed.is_initialized():
    return
  if environment.get(COORDINATOR):
    count, index = _number(environment, PROCESS_COUNT), _number(environment, PROCESS_ID)
    if count == 1:
      return
    jax.distributed.initialize(environment[COORDINATOR], count, index)
  elif _under_a_scheduler(environment):
    jax.distributed.initialize()
  else:
    return
  sys.excepthook = _report_and_leave


def leave(status: int) -> NoReturn:
  """Exits this process of a job at once.

  An ordinary exit would first wait minutes for the other processes, which wait in a collective for
  this one; the launcher learns of the failure from this process's exit.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _report_and_leave(kind: type, error: BaseException, where: Any) -> NoReturn:
  traceback.print_exception(kind, error, where)
  if isinstance(error, jax.errors.JaxRuntimeError):
    print(
      "Another process of this job may have ended: the first error in the logs of all of them is "
      "the cause. Run the same command again in all of them to resume from the last checkpoint.",
      file=sys.stderr,
    )
  leave(1)


def _under_a_scheduler(environment: Mapping[str, str]) -> bool:
  """Whether JAX can find the job's other processes by itself."""
  if environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
    # Open MPI 5 no longer says where rank 0 runs, so JAX finds the job only under Open MPI 4.
    if "OMPI_MCA_orte_hnp_uri" not in environment:
      raise ValueError(
        f"Open MPI 5 doesn't say where its first process runs: mpirun -x {COORDINATOR}=HOST:PORT, "
        "with the first host's name and a free port."
      )
    return True
  in_slurm = "SLURM_STEP_NODELIST" in environment and environment.get("SLURM_NTASKS", "1") != "1"
  # JAX sets its platforms to this where it sees TPU chips, on a TPU VM and in a GKE pod.
  return in_slurm or (jax.config.jax_platforms or "").startswith("tpu")


def _number(environment: Mapping[str, str], names: Sequence[str]) -> int:
  for name in names:
    if name in environment:
      return int(environment[name])
  raise ValueError(
    f"{COORDINATOR} is set, but none of {', '.join(names)} is: with an explicit coordinator every "
    f"process needs {PROCESS_COUNT[0]} and {PROCESS_ID[0]}."
  )


def is_writer() -> bool:
  """Whether this process writes what a run writes once: config, metrics, rollouts, report."""
  return jax.process_index() == 0


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
  """Indices of the rows of a batch over `mesh` that lie on this process's devices.

  Args:
    mesh: mesh of the job.
    rows: number of rows in the whole batch.

  Returns:
    Sorted indices, int64. Where `tensor` spans processes, they share rows.

  Raises:
    ValueError: the rows do not divide over the batch's mesh axes.
  """
  sharding = batch_sharding(mesh)
  parts = parts_of(mesh)
  if rows % parts:
    raise ValueError(
      f"{rows} rows do not divide over the {parts} parts that mesh axes data and fsdp cut a batch "
      f"into: choose a multiple of {parts}."
    )
  slices = sharding.addressable_devices_indices_map((rows,)).values()
  return np.unique(np.concatenate([np.arange(rows)[index] for index in slices]))


def global_batch(mesh: Mesh, local: Any, rows: int) -> Any:
  """Assembles a global batch from each process's `local_rows(mesh, rows)`.

  Args:
    mesh: mesh of the job.
    local: tree of arrays on the host `[local rows, ...]`; scalars must be equal everywhere.
    rows: number of rows in the whole batch.

  Returns:
    The tree with global arrays `[rows, ...]`, sharded along the batch; scalars are replicated.
  """

  def place(x: Any) -> jax.Array:
    x = np.asarray(x)
    if not x.ndim:
      return jax.make_array_from_process_local_data(replicated(mesh), x)
    return jax.make_array_from_process_local_data(batch_sharding(mesh), x, (rows, *x.shape[1:]))

  return jax.tree.map(place, local)


def gather_rows(mesh: Mesh, local: Any, rows: int) -> Any:
  """Gathers each process's rows into whole numpy arrays on every process.

  For what a host needs whole: scores before advantages, rollouts before they are logged.

  Args:
    mesh: mesh of the job.
    local: tree of arrays on the host `[local rows, ...]`; scalars are returned unchanged.
    rows: number of rows in the whole batch.
  """
  if jax.process_count() == 1:
    return jax.tree.map(np.asarray, local)
  owners = multihost_utils.process_allgather(local_rows(mesh, rows))  # [processes, local rows]

  def gather(x: Any) -> np.ndarray:
    x = np.asarray(x)
    if not x.ndim:
      return x
    parts = multihost_utils.process_allgather(x)  # [processes, local rows, ...]
    whole = np.empty((rows, *x.shape[1:]), x.dtype)
    whole[owners.reshape(-1)] = parts.reshape(-1, *x.shape[1:])
    return whole

  return jax.tree.map(gather, local)


def shard_rows(mesh: Mesh, batch: Any) -> Any:
  """Turns a batch that every process holds whole into global arrays; each keeps its own rows.

  Args:
    mesh: mesh of the job.
    batch: tree of arrays on the host `[rows, ...]`. Where the rows do not divide over the mesh,
      rows of zeros follow, which must mean padding.
  """
  parts = parts_of(mesh)

  def place(x: Any) -> jax.Array:
    rows = -(-len(x) // parts) * parts
    x = np.pad(np.asarray(x), ((0, rows - len(x)), *((0, 0),) * (np.ndim(x) - 1)))
    return global_batch(mesh, x[local_rows(mesh, rows)], rows)

  return jax.tree.map(place, batch)


def replicate(mesh: Mesh, tree: Any) -> Any:
  """Arrays that every process holds whole as global arrays, whole on every device."""
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(replicated(mesh), np.asarray(x)), tree
  )


def gather_objects(mine: Any) -> list[Any]:
  """Gathers one object per process into a list on all of them; for small results such as texts."""
  if jax.process_count() == 1:
    return [mine]
  data = np.frombuffer(pickle.dumps(mine), np.uint8)
  sizes = multihost_utils.process_allgather(np.int64(data.size)).reshape(-1)
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: data.size] = data
  parts = multihost_utils.process_allgather(padded)
  return [pickle.loads(part[:size].tobytes()) for part, size in zip(parts, sizes, strict=True)]


def wait_for_all(name: str) -> None:
  """Waits until every process has called this with the same `name`."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)

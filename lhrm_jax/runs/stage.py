"""What both training stages do around their steps, so that a run survives (docs/reliability.md)."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from lhrm_jax.runs import checkpoints, log_files, resuming, setup
from lhrm_jax.runs.config import plain
from lhrm_jax.runs.instruments import Profiler
from lhrm_jax.runs.metric_writer import MetricWriter
from lhrm_jax.runs.nonfinite import NonFiniteGuard
from lhrm_jax.runs.preemption import Preempted, Preemption
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.training.state import TrainState


class Stage:
  """Where a stage starts, what happens after each of its steps, and when it is over.

  Attributes:
    workdir: the run folder.
    start: updates made when this process took over.
    finished: the stage was over already.
    guard: of non-finite updates.
    profiler: of the steps that the config names.
  """

  def __init__(
    self, name: str, run: setup.Setup, folder: RunFolder, writer: MetricWriter,
    preemption: Preemption,
  ):  # fmt: skip
    self._name, self._run, self._folder = name, run, folder
    self._writer, self._preemption = writer, preemption
    self._checkpoints, self._saved = folder.checkpoints[name], folder.saved[name]
    self.workdir = folder.path
    self._began = time.perf_counter()
    record = self._saved.record if self._saved else {}
    self._seconds_before = record.get("seconds", 0.0)
    self.start = self._saved.step if self._saved else 0
    self.finished = resuming.over(name, self._saved, run.config)
    c = run.config.numerics
    self.guard = NonFiniteGuard(
      folder.path / "dumps", name, limit=c.max_skipped_in_a_row, dumps=c.max_dumps
    )

    self.profiler = Profiler(folder.path / "profile" / name, run.config.profile_steps)

  def begin(self, optimizer, fresh: Callable[[], TrainState]) -> TrainState:
    """The state to go on from: the checkpoint's, or a fresh one."""
    if self._saved is None:
      return fresh()
    run = self._run
    return checkpoints.restore(self._saved, run.policy_config, optimizer, run.mesh)

  def save_start(self, state: TrainState) -> None:
    """Saves a fresh state as step 0, which stays: for HGPO it is the reference."""
    if self._saved is None:
      self._checkpoints.save(state, 0, self._record, now=True)

  def end_step(
    self,
    state: TrainState,
    done: int,
    *,
    finished: bool,
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Saves what is due. Everything of the step has been logged before.

    Raises:
      Preempted: the run was asked to end; the state is saved.
      CheckpointError: it could not be.
    """
    stop = self._preemption.reached(done)
    self.finished = finished
    self._checkpoints.save(state, done, self._record, metrics=metrics, now=finished or stop)
    if stop:
      self._checkpoints.wait()
      raise Preempted(f"{self._name} step {done} is saved")

  def seconds(self) -> float:
    """Wall seconds spent in this stage, by all processes that worked on it one after another."""
    return self._seconds_before + time.perf_counter() - self._began

  def wait(self) -> None:
    """Waits until the last save is on disk."""
    self._checkpoints.wait()

  def _record(self) -> dict[str, Any]:
    self._folder.check_there()
    self._writer.flush()
    return {
      "config": plain(self._run.config),
      "versions": setup.versions(),
      # Keys and prompts are functions of the seed and the step: nothing else says where data is.
      "seed": self._run.config.seed,
      "finished": self.finished,
      "seconds": self.seconds(),
      "logs": log_files.sizes(self._folder.path),
    }

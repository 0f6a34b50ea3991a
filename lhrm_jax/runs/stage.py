"""Start, saves and end of a training stage, common to both stages (docs/reliability.md)."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from lhrm_jax import parallel, policy
from lhrm_jax.runs import early_stop, log_files, resuming, saved_arrays, setup
from lhrm_jax.runs.config import plain
from lhrm_jax.runs.instruments import Profiler
from lhrm_jax.runs.metric_writer import MetricWriter
from lhrm_jax.runs.nonfinite import NonFiniteGuard
from lhrm_jax.runs.preemption import Preempted, Preemption
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.versions import current_versions
from lhrm_jax.training.state import TrainState


class Stage:
  """One training stage of a run: where it resumes, what it saves, when it ends.

  Attributes:
    name: the stage's.
    workdir: run folder.
    start: number of updates made before this process.
    finished: whether the stage has ended.
    guard: guard against non-finite updates.
    profiler: profiler of the steps that the config names.
  """

  def __init__(
    self, name: str, run: setup.Setup, folder: RunFolder, writer: MetricWriter,
    preemption: Preemption,
  ):  # fmt: skip
    self.name, self._run, self._folder = name, run, folder
    self._writer, self._preemption = writer, preemption
    self._checkpoints, self._saved = folder.checkpoints[name], folder.saved[name]
    self.workdir = folder.path
    self._began = time.perf_counter()
    # A job's first stage counts from the job's start: checks, data and weights included.
    self._waited_since: float | None = folder.began or self._began
    folder.began = None
    record = self._saved.record if self._saved else {}
    self._seconds_before = record.get("seconds", 0.0)
    self.start = self._saved.step if self._saved else 0
    self.finished = resuming.over(name, self._saved, run.config)
    c = run.config.numerics
    self.guard = NonFiniteGuard(
      folder.path / "dumps",
      name,
      limit=c.max_skipped_in_a_row,
      dumps=c.max_dumps if folder.shared else 0,
    )
    self.profiler = Profiler(folder.path / "profile" / name, run.config.profile_steps)

  def begin(self, optimizer, fresh: Callable[[], TrainState]) -> TrainState:
    """Returns the state to continue from: the checkpoint's, or a fresh one.

    Prints a warning if the stage ends before its learning rate peaks.
    """
    run = self._run
    c = getattr(run.config, self.name)
    if self.start < c.steps <= c.warmup_steps and not self.finished and parallel.is_writer():
      warning = early_stop.warm_up_warning(self.name, c.steps, c.warmup_steps)
      print(warning, file=sys.stderr, flush=True)
    if self._saved is None:
      return fresh()
    return saved_arrays.restore(self._saved, run.policy_config, optimizer, run.mesh)

  def reference(self, start: policy.Params) -> policy.Params:
    """Reference policy to resume with: that of the checkpoint if it has one, else `start`."""
    if self._saved is None or not saved_arrays.has_reference(self._saved):
      return start
    run = self._run
    return saved_arrays.restore_params(
      self._saved.path, run.policy_config, run.mesh, saved_arrays.REFERENCE
    )

  def save_start(self, state: TrainState) -> None:
    """Saves a fresh state as step 0, which is never deleted: it is HGPO's reference."""
    if self._saved is None:
      self._checkpoints.save(state, 0, self._record, now=True)

  def end_step(
    self,
    state: TrainState,
    done: int,
    *,
    finished: bool,
    metrics: Mapping[str, float] | None = None,
    reference: policy.Params | None = None,
  ) -> None:
    """Saves the state if due. Call it last, after everything of the step is logged.

    Args:
      state: after the step.
      done: steps made.
      finished: whether it was the last.
      metrics: of an evaluation.
      reference: reference policy, if it is no longer that of step 0.

    Raises:
      Preempted: the run was asked to stop; the state is saved.
      CheckpointError: the state could not be saved.
    """
    stop = self._preemption.reached(done)
    self.finished = finished
    self._checkpoints.save(
      state, done, self._record, metrics=metrics, now=finished or stop, reference=reference
    )
    if stop:
      self._checkpoints.wait()
      raise Preempted(f"{self.name} step {done} is saved")

  def first_step(self) -> dict[str, float]:
    """After this process's first step `time/to_first_step`; nothing after later ones.

    Seconds from the start of the job, or from that of the stage if another one trained before it.
    """
    if self._waited_since is None:
      return {}
    seconds, self._waited_since = time.perf_counter() - self._waited_since, None
    return {"time/to_first_step": seconds}

  def seconds(self) -> float:
    """Returns the wall seconds spent in this stage, earlier processes included."""
    return self._seconds_before + time.perf_counter() - self._began

  def wait(self) -> None:
    """Waits until the last save is on disk."""
    self._checkpoints.wait()

  def _record(self) -> dict[str, Any]:
    self._folder.check_there()
    self._writer.flush()
    return {
      "config": plain(self._run.config),
      "versions": current_versions(),
      # Random keys and prompts are functions of seed and step, so there is no data position.
      "seed": self._run.config.seed,
      "finished": self.finished,
      "seconds": self.seconds(),
      "logs": log_files.sizes(self._folder.path),
    }

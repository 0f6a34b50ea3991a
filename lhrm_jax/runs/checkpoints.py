"""Checkpoints of a training stage, through Orbax v1, which `saved_arrays` alone imports too.

A stage's folder holds one folder per saved step. In it are the checkpointables `params`, all that
evaluation and export load, `training`, the optimiser state and the counters, and `reference`, if
HGPO's reference has moved since step 0. With low-rank adapters, `params` and `reference` are the
adapters, and the frozen parameters are in `policy/base` of the run, once. Beside them are a JSON
record of what else a run needs to resume (`Saved.record`), and SHA-256 checksums of every file, in
the format of `sha256sum`. Orbax writes a step's folder atomically; its checksums come last, so a
folder whose checksums match is whole.

Older steps are deleted after the checksums are written. Orbax's `Checkpointer` deletes them before,
and takes no metric when it decides whether to save; so only its preservation policies are used.
"""

import dataclasses
import math
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from lhrm_jax import parallel, policy
from lhrm_jax.config import SHORT, knob, whole
from lhrm_jax.policy import lora
from lhrm_jax.runs import committed
from lhrm_jax.runs.saved_arrays import (
  PARAMS,
  REFERENCE,
  TRAINING,
  CheckpointError,
  Saved,
  no_sharding_file,
  reason,
  training_fields,
)
from lhrm_jax.storage.checksums import CHECKSUMS, damage, write_checksums
from lhrm_jax.storage.literal_paths import is_literal, literal, too_long
from lhrm_jax.storage.urls import BucketError
from lhrm_jax.training.state import TrainState

preservation = ocp.training.preservation_policies

_RECORD = "record"
_DAMAGED = "damaged-"
STEP = re.compile("0|[1-9][0-9]{0,8}")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """Knobs of saving, the section `checkpoint` of a config. Saves run beside the training."""

  every: int = knob(50, whole(1), "Steps between saves.")
  keep: int = knob(2, whole(1), "Newest checkpoints of a stage that are kept.")
  best: str = knob(
    "",
    SHORT,
    'Metric of the evaluations in training whose best checkpoint is kept too; "" for none.',
  )


class Checkpoints:
  """Saves a stage asynchronously, deletes old checkpoints, finds the newest whole one.

  Every process of a run makes the same calls; the first process alone renames and deletes.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    every: int,
    keep: int,
    best: str = "",
    report: Callable[[str], None] = print,
    after_save: Callable[[], None] = lambda: None,
  ):
    """Args:
    folder: the stage's folder, created if missing.
    every: steps between saves.
    keep: number of newest checkpoints to keep. Step 0, the reference of HGPO, is always kept.
    best: metric whose new highest value is saved at once and kept; "" for none.
    report: called with a message for every damaged checkpoint that is set aside.
    after_save: called in the background once a checkpoint is whole and older ones are deleted.

    Raises:
      CheckpointError: no checkpoint can be written under this path.
    """
    # Not resolved: `checkpoints` may be a link, and the run that it belongs to holds `BASE`.
    self._set_up(
      folder.absolute(), every=every, keep=keep, best=best, report=report, after_save=after_save
    )
    _check_folder(self._folder.resolve())
    if parallel.is_writer():
      self._folder.mkdir(parents=True, exist_ok=True)
      for leftover in self._folder.glob("*tmp*"):  # from a save that a crash interrupted
        shutil.rmtree(leftover, ignore_errors=True)

  def _set_up(
    self, folder: committed.Path, *, every: int, keep: int, best: str = "",
    report: Callable[[str], None] = print, after_save: Callable[[], None] = lambda: None,
  ) -> None:  # fmt: skip
    self._folder, self._every, self._best = folder, every, best
    self._report, self._after_save = report, after_save
    self._finisher = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
    self._pending: Future | None = None
    self._last_step: int | None = None
    self._highest = -math.inf
    self._retention = _retention(keep, best)

  def newest(self) -> Saved | None:
    """Finds the newest whole checkpoint; damaged newer ones are reported and set aside.

    A damaged checkpoint is renamed to `damaged-STEP` and never loaded.
    """
    step = -1
    if parallel.is_writer():
      for path in reversed(_steps(self._folder)):
        problem = damage(path) or _unreadable(path)
        if problem is None:
          step = int(path.name)
          break
        aside = path.with_name(_DAMAGED + path.name)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        self._report(f"checkpoint {path} is damaged ({problem}); set aside as {aside.name}.")
    step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
    if step < 0:
      return None
    self._last_step = step
    found = _saved(self._folder / str(step))
    self._note_highest()
    return found

  def _note_highest(self) -> None:
    metrics = [self._metrics(path) for path in self._whole()]
    self._highest = max((m["value"] for m in metrics if m), default=-math.inf)

  def save(
    self,
    state: TrainState,
    step: int,
    record: Callable[[], Mapping[str, Any]],
    *,
    metrics: Mapping[str, float] | None = None,
    now: bool = False,
    reference: policy.Params | None = None,
  ) -> bool:
    """Starts saving if `step` is due: at the interval, at a new best, or `now`.

    Args:
      state: train state, copied before this returns, so it may be donated at once.
      step: number of updates made.
      record: called if the step is saved; returns JSON-like values for `Saved.record`.
      metrics: evaluation metrics of this step, if there are any.
      now: save whatever the interval says.
      reference: parameters of the reference policy, where it is not the one of step 0.

    Returns:
      Whether the step is being saved.

    Raises:
      CheckpointError: this save could not start, or the previous one failed.
    """
    value = (metrics or {}).get(self._best, -math.inf)
    due = now or (step and step % self._every == 0) or value > self._highest
    if not due or step == self._last_step:
      return False
    self.wait()
    self._highest = max(self._highest, value)
    path = self._folder / str(step)
    training = {name: getattr(state, name) for name in training_fields()}
    arrays = {PARAMS: lora.split(state.params)[0], TRAINING: training}
    arrays |= {} if reference is None else {REFERENCE: lora.split(reference)[0]}
    extra = dict(record()) | ({self._best: value} if math.isfinite(value) else {})
    try:
      response = self._begin_save(path, arrays, extra)
    except Exception as error:
      raise self._failed(path, error) from error
    self._last_step = step
    self._pending = self._finisher.submit(self._finish, path, response)
    return True

  def _begin_save(
    self, path: pathlib.Path, arrays: Mapping[str, Any], record: Mapping[str, Any]
  ) -> Any:
    """Copies the arrays and starts to write them; the result of what it returns waits for that."""
    with no_sharding_file():
      return ocp.save_checkpointables_async(
        literal(path), arrays, custom_metadata={_RECORD: dict(record)}
      )

  def _seal(self, path: pathlib.Path, response: Any) -> None:
    """Makes a checkpoint whole that all processes have written."""
    del response
    write_checksums(path)

  def wait(self) -> None:
    """Waits for the save in progress.

    Raises:
      CheckpointError: it failed, e.g. on a full disk; the previous one is whole.
    """
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def close(self) -> None:
    """Waits for the save in progress and stops the background thread."""
    try:
      self.wait()
    finally:
      self._finisher.shutdown()

  def _finish(self, path: pathlib.Path, response) -> None:
    """Waits in the background until Orbax is done, adds the checksums, deletes old steps."""
    try:
      response.result()
      if parallel.is_writer():
        self._seal(path, response)
        self._delete_old()
    except Exception as error:
      raise self._failed(path, error) from error
    self._after_save()

  def _failed(self, path: committed.Path, error: Exception) -> CheckpointError:
    if parallel.is_writer():
      self._clean_up(path)
    try:
      steps = self._whole()
      left = f"Step {steps[-1].name} is whole" if steps else "There is no earlier one"
    except BucketError:
      left = "Earlier ones cannot be listed either"
    return CheckpointError(
      f"the checkpoint {path} could not be written: {reason(error)}. {left}: free or repair the "
      "disk (space, quota, permissions) and run the same command again."
    )

  def _clean_up(self, path: pathlib.Path) -> None:
    """Removes what a failed save has written."""
    for unfinished in self._folder.glob(f"{path.name}*"):
      if unfinished.name == path.name or "tmp" in unfinished.name:
        shutil.rmtree(unfinished, ignore_errors=True)

  def _delete_old(self) -> None:
    steps = self._whole()
    known = [
      ocp.training.CheckpointMetadata(
        int(path.name), path, metadata=None, metrics=self._metrics(path)
      )
      for path in steps
    ]
    kept = self._retention.should_preserve(known, context=preservation.PreservationContext())
    for path, keep in zip(steps, kept, strict=True):
      if not keep:
        self._remove(path)

  def _whole(self) -> list[pathlib.Path]:
    """Folders of the steps whose saves have ended, oldest first."""
    return [path for path in _steps(self._folder) if (path / CHECKSUMS).exists()]

  def _remove(self, path: pathlib.Path) -> None:
    # Renamed first: a crash halfway leaves nothing that looks like a checkpoint.
    doomed = path.with_name(f"{path.name}.tmp-deleted")
    path.rename(doomed)
    shutil.rmtree(doomed)

  def _record_of(self, path: committed.Path) -> dict[str, Any]:
    return _saved(path).record

  def _metrics(self, path: pathlib.Path) -> dict[str, float] | None:
    """Returns the value of the `best` metric and the step (for ties); `None` without a value."""
    if not self._best:
      return None
    try:
      return {"value": float(self._record_of(path)[self._best]), "step": int(path.name)}
    except (CheckpointError, KeyError, TypeError, ValueError):  # damage is reported on loading
      return None


def _retention(keep: int, best: str) -> preservation.PreservationPolicy:
  """Keeps the newest `keep` steps, step 0 and, of those with the metric `best`, the best one."""
  policies = [preservation.LatestN(keep), preservation.CustomSteps([0])]
  if best:
    policies.append(
      preservation.BestN(
        get_metric_fn=lambda metrics: (metrics["value"], -metrics["step"]),  # a tie: the earlier
        n=1,
        keep_checkpoints_without_metrics=False,
      )
    )
  return preservation.AnyPreservationPolicy(policies)


def _unreadable(path: pathlib.Path) -> str | None:
  """Returns why the record of a checkpoint with matching checksums cannot be read, if so."""
  try:
    _saved(path)
  except CheckpointError as error:
    return str(error).removesuffix(".")
  return None


def newest(folder: pathlib.Path) -> pathlib.Path:
  """Returns the folder of a stage's newest whole checkpoint; changes nothing on disk.

  Raises:
    FileNotFoundError: there is none.
  """
  for path in reversed(_steps(folder)):
    if damage_of(path) is None:
      return path.absolute()
  raise FileNotFoundError(f"{folder} holds no whole checkpoint.")


def _steps(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the step folders, oldest first."""
  found = folder.iterdir() if folder.is_dir() else ()
  return sorted((p for p in found if STEP.fullmatch(p.name)), key=lambda p: int(p.name))


def _saved(path: pathlib.Path) -> Saved:
  """Reads a step's record.

  Raises:
    CheckpointError: its metadata cannot be read.
  """
  try:
    record = ocp.checkpointables_metadata(literal(path)).custom_metadata[_RECORD]
    return Saved(path, int(path.name), dict(record))
  except Exception as error:
    raise CheckpointError(f"the checkpoint {path} has no record: {reason(error)}.") from error


def damage_of(path: pathlib.Path) -> str | None:
  """Why a step's folder on this machine is not what was saved; `None` if it is."""
  return committed.damage(path) if committed.holds(path) else damage(path)


def _check_folder(folder: pathlib.Path) -> None:
  if too_long(folder):
    raise CheckpointError(
      f"{folder}: the path is too long, at {len(str(folder))} characters, for a checkpoint's "
      "files. Choose a shorter one."
    )
  if jax.process_count() > 1 and not is_literal(folder):
    raise CheckpointError(
      f"{str(folder)!r}: several processes cannot write checkpoints below a path with any of "
      "* ? [ ] \\ or control characters. Choose another name."
    )

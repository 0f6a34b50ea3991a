"""Checkpoints of a training stage, through Orbax v1. The only module that knows Orbax.

A stage's folder holds one folder per saved step with two checkpointables, `params`, which
evaluation and export load alone, and `training`, the optimiser and the counters; a JSON record of
what else the run needs to go on (`Saved.record`); and SHA-256 checksums of every file, in the
format of `sha256sum`. Orbax makes a step's folder appear at once or not at all; its checksums are
written last, so a folder that bears right checksums is whole (`checksums.damage`).
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
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from lhrm_jax import parallel, policy
from lhrm_jax.config import SHORT, knob, whole
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.storage.checksums import CHECKSUMS, damage, write_checksums
from lhrm_jax.storage.literal_paths import is_literal, literal, too_long
from lhrm_jax.training import state as train_state
from lhrm_jax.training.state import TrainState

_PARAMS, _TRAINING, _RECORD = "params", "training", "record"
_DAMAGED = "damaged-"
_STEP = re.compile("0|[1-9][0-9]{0,8}")


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


class CheckpointError(Exception):
  """A checkpoint could not be written or read; says which, why and what is left."""


@dataclasses.dataclass(frozen=True)
class Saved:
  """A whole checkpoint on disk.

  Attributes:
    path: its folder.
    step: updates made.
    record: what was given to `Checkpoints.save` beside the state.
  """

  path: pathlib.Path
  step: int
  record: dict[str, Any]


class Checkpoints:
  """Saves one stage beside its training, keeps some checkpoints, finds the newest whole one.

  Every process of a run makes one and calls it alike; the first process alone renames and deletes.
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
    folder: of the stage; created where missing.
    every: steps between saves.
    keep: how many of the newest stay. Step 0, the reference of HGPO, always stays.
    best: a metric; the checkpoint with its highest value is saved when it occurs, and stays too.
    report: told of every damaged checkpoint that is set aside.
    after_save: called, beside the training, when a checkpoint is whole and older ones are deleted.

    Raises:
      CheckpointError: no checkpoint could be written below such a path.
    """
    self._folder, self._every, self._keep, self._best = folder.resolve(), every, keep, best
    self._report, self._after_save = report, after_save
    self._finisher = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
    self._pending: Future | None = None
    self._last_step: int | None = None
    self._highest = -math.inf
    _check_folder(self._folder)
    if _first_process():
      self._folder.mkdir(parents=True, exist_ok=True)
      for leftover in self._folder.glob("*tmp*"):  # of a save that a crash cut short
        shutil.rmtree(leftover, ignore_errors=True)

  def newest(self) -> Saved | None:
    """The newest whole checkpoint; newer ones that are damaged are reported and set aside.

    A damaged checkpoint is renamed to `damaged-STEP` and never loaded.
    """
    step = -1
    if _first_process():
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
    self._highest = max((self._metric(path) for path in _steps(self._folder)), default=-math.inf)
    return found

  def save(
    self,
    state: TrainState,
    step: int,
    record: Callable[[], Mapping[str, Any]],
    *,
    metrics: Mapping[str, float] | None = None,
    now: bool = False,
  ) -> bool:
    """Starts saving when `step` is due: at the interval, at a new best, or `now`.

    Args:
      state: its arrays are copied before this returns, so it may be donated at once.
      step: updates made.
      record: called if the step is saved; JSON-like values for `Saved.record`.
      metrics: of this step; where it has the `best` metric.
      now: save whatever the interval says.

    Returns:
      Whether it did.

    Raises:
      CheckpointError: this save could not start, or the one before failed.
    """
    value = (metrics or {}).get(self._best, -math.inf)
    due = now or (step and step % self._every == 0) or value > self._highest
    if not due or step == self._last_step:
      return False
    self.wait()
    self._highest = max(self._highest, value)
    path = self._folder / str(step)
    training = {name: getattr(state, name) for name in _training_fields()}
    extra = {_RECORD: dict(record()) | ({self._best: value} if math.isfinite(value) else {})}
    try:
      with _no_sharding_file():
        response = ocp.save_checkpointables_async(
          literal(path), {_PARAMS: state.params, _TRAINING: training}, custom_metadata=extra
        )
    except Exception as error:
      raise self._failed(path, error) from error
    self._last_step = step
    self._pending = self._finisher.submit(self._finish, path, response)
    return True

  def wait(self) -> None:
    """Waits for a save under way.

    Raises:
      CheckpointError: it failed, e.g. on a full disk; the one before is whole.
    """
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def close(self) -> None:
    """Waits for a save under way, and ends."""
    try:
      self.wait()
    finally:
      self._finisher.shutdown()

  def _finish(self, path: pathlib.Path, response) -> None:
    """In the background: waits until Orbax is done, adds the checksums, deletes old steps."""
    try:
      response.result()
      if _first_process():
        write_checksums(path)
        self._delete_old()
    except Exception as error:
      raise self._failed(path, error) from error
    self._after_save()

  def _failed(self, path: pathlib.Path, error: Exception) -> CheckpointError:
    if _first_process():
      for unfinished in self._folder.glob(f"{path.name}*"):
        if unfinished.name == path.name or "tmp" in unfinished.name:
          shutil.rmtree(unfinished, ignore_errors=True)
    steps = _steps(self._folder)
    left = f"The one of step {steps[-1].name} is whole" if steps else "There is none before it"
    return CheckpointError(
      f"the checkpoint {path} could not be written: {_reason(error)}. {left}: mend the disk "
      "(space, quota, permissions) and run the same command again."
    )

  def _delete_old(self) -> None:
    steps = [path for path in _steps(self._folder) if (path / CHECKSUMS).exists()]
    keep = set(steps[-self._keep :]) | {path for path in steps if path.name == "0"}
    if self._best and steps:
      keep.add(max(steps, key=self._metric))
    for path in steps:
      if path not in keep:
        # Renamed first: a crash halfway leaves nothing that looks like a checkpoint.
        doomed = path.with_name(f"{path.name}.tmp-deleted")
        path.rename(doomed)
        shutil.rmtree(doomed)

  def _metric(self, path: pathlib.Path) -> float:
    try:
      return float(_saved(path).record.get(self._best, -math.inf))
    except Exception:  # damaged: found and reported when it is loaded
      return -math.inf


def _unreadable(path: pathlib.Path) -> str | None:
  """What is wrong with a checkpoint whose files are all as its checksums say."""
  try:
    _saved(path)
  except CheckpointError as error:
    return str(error).removesuffix(".")
  return None


def restore(
  saved: Saved, config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Loads a train state onto `mesh`, whatever mesh or number of processes wrote it.

  Raises:
    CheckpointError: what is in it does not fit `config` or `optimizer`.
  """
  shardings = train_state.shardings(config, optimizer, mesh)
  shapes = jax.eval_shape(
    lambda key: train_state.from_params(policy.init(config, key), optimizer), jax.random.key(0)
  )
  target = _with_shardings(shapes, shardings)
  training = {name: getattr(target, name) for name in _training_fields()}
  loaded = _load(saved.path, {_PARAMS: target.params, _TRAINING: training})
  return TrainState(params=loaded[_PARAMS], **loaded[_TRAINING])


def restore_params(path: pathlib.Path, config: PolicyConfig, mesh: Mesh) -> policy.Params:
  """Loads the parameters alone, of one step's folder, onto `mesh`.

  Raises:
    CheckpointError: what is in it does not fit `config`.
  """
  shapes = jax.eval_shape(lambda: policy.init(config, jax.random.key(0)))
  shardings = parallel.param_shardings(mesh, policy.logical_axes(config))
  return _load(path, {_PARAMS: _with_shardings(shapes, shardings)})[_PARAMS]


def save_tree(path: pathlib.Path, tree: Any) -> None:
  """Writes a tree of arrays, and returns when it is written."""
  path.parent.mkdir(parents=True, exist_ok=True)
  ocp.save(literal(path), tree)


def load_tree(path: pathlib.Path) -> Any:
  """What `save_tree` wrote, as nested dicts and lists of arrays on the first device."""
  path, device = literal(path), jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
    ocp.metadata(path).metadata,
  )
  return ocp.load(path, target)


def load_arrays(path: pathlib.Path, checkpointable: str) -> dict[str, np.ndarray]:
  """All arrays of one checkpointable of a step's folder by their path in the tree, for looking."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
    ocp.checkpointables_metadata(literal(path)).metadata[checkpointable],
  )
  loaded = ocp.load_checkpointables(literal(path), {checkpointable: target})[checkpointable]
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(loaded))
  return {jax.tree_util.keystr(at, simple=True, separator="/"): leaf for at, leaf in leaves}


def newest(folder: pathlib.Path) -> pathlib.Path:
  """The folder of a stage's newest whole checkpoint; looks and changes nothing.

  Raises:
    FileNotFoundError: there is none.
  """
  for path in reversed(_steps(folder)):
    if damage(path) is None:
      return path.resolve()
  raise FileNotFoundError(f"{folder} holds no whole checkpoint.")


def _steps(folder: pathlib.Path) -> list[pathlib.Path]:
  """Step folders, oldest first."""
  found = folder.iterdir() if folder.is_dir() else ()
  return sorted((p for p in found if _STEP.fullmatch(p.name)), key=lambda p: int(p.name))


def _saved(path: pathlib.Path) -> Saved:
  """Raises:
  CheckpointError: the step's metadata cannot be read.
  """
  try:
    record = ocp.checkpointables_metadata(literal(path)).custom_metadata[_RECORD]
    return Saved(path, int(path.name), dict(record))
  except Exception as error:
    raise CheckpointError(f"the checkpoint {path} has no record: {_reason(error)}.") from error


def _load(path: pathlib.Path, target: Mapping[str, Any]) -> dict[str, Any]:
  try:
    return ocp.load_checkpointables(literal(path), target)
  except Exception as error:
    raise CheckpointError(
      f"the checkpoint {path} does not fit this policy and optimiser: {_reason(error)}."
    ) from error


def _check_folder(folder: pathlib.Path) -> None:
  if too_long(folder):
    raise CheckpointError(
      f"{folder}: the path is too long, at {len(str(folder))} characters, for a checkpoint's files "
      "below it. Choose a shorter one."
    )
  if jax.process_count() > 1 and not is_literal(folder):
    raise CheckpointError(
      f"{str(folder)!r}: several processes cannot write checkpoints below a path with any of "
      "* ? [ ] \\ or control characters. Choose another name."
    )


def _no_sharding_file() -> ocp.Context:
  """Orbax without its record of how arrays lay on the mesh, a third of the cost of a small save.

  Nothing here reads it: whoever loads says onto which mesh.
  """
  context = ocp.Context()
  context.array.saving.enable_write_sharding_file = False
  return context


def _training_fields() -> tuple[str, ...]:
  """Names of what a train state holds beside its parameters."""
  return tuple(f.name for f in dataclasses.fields(TrainState) if f.name != "params")


def _with_shardings(shapes, shardings):
  return jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
  )


def _reason(error: Exception) -> str:
  """The first line of an error: Orbax's and TensorStore's go on for a page."""
  text = str(error).strip() or type(error).__name__
  return text.splitlines()[0][:300].rstrip(".")


def _first_process() -> bool:
  return jax.process_index() == 0

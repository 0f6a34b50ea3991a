"""Arrays of a run in its files: what a checkpoint's folder holds, and trees by themselves.

With low-rank adapters, `PARAMS` and `REFERENCE` of a checkpoint are the adapters, and the frozen
parameters are in the run once: in `BASE`, or, of processes without a shared disk, in
`committed.BASE` beside the stages.
"""

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from lhrm_jax import parallel, policy
from lhrm_jax.policy import PolicyConfig, lora
from lhrm_jax.runs import committed
from lhrm_jax.storage import urls
from lhrm_jax.storage.checksums import damage, write_checksums
from lhrm_jax.storage.literal_paths import literal
from lhrm_jax.storage.urls import BucketError
from lhrm_jax.training import state as train_state
from lhrm_jax.training.state import TrainState

PARAMS, TRAINING, REFERENCE = "params", "training", "reference"
BASE = pathlib.PurePath("policy", "base")


class CheckpointError(Exception):
  """A checkpoint could not be written or read; says which, why, and which earlier one is whole."""


@dataclasses.dataclass(frozen=True)
class Saved:
  """A whole checkpoint on disk.

  Attributes:
    path: folder of the step, or its URL in a bucket, see `committed`.
    step: training step the checkpoint was taken at.
    record: JSON record that `Checkpoints.save` was given with the state.
  """

  path: committed.Path
  step: int
  record: dict[str, Any]


def restore(
  saved: Saved, config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Loads a train state onto `mesh`, from any mesh and number of processes.

  Raises:
    CheckpointError: its arrays do not fit `config` or `optimizer`.
  """
  target = train_state.abstract(config, optimizer, mesh)
  training = {name: getattr(target, name) for name in training_fields()}
  trained, frozen = lora.split(target.params)
  loaded = _load(saved.path, {PARAMS: trained, TRAINING: training})
  params = lora.join(loaded[PARAMS], _base(saved.path, config, mesh) if frozen else {})
  return TrainState(params=params, **loaded[TRAINING])


def has_reference(saved: Saved) -> bool:
  """Whether a checkpoint holds a reference policy of its own."""
  if committed.holds(saved.path):
    return committed.has(saved.path, REFERENCE)
  return (saved.path / REFERENCE).is_dir()


def restore_params(
  path: committed.Path, config: PolicyConfig, mesh: Mesh, name: str = PARAMS
) -> policy.Params:
  """Loads only the parameters of one step's folder onto `mesh`, or those of its `REFERENCE`.

  Raises:
    CheckpointError: its arrays do not fit `config`.
  """
  trained, frozen = lora.split(_abstract_params(config, mesh))
  base = _base(path, config, mesh) if frozen else {}
  return lora.join(_load(path, {name: trained})[name], base)


def _abstract_params(config: PolicyConfig, mesh: Mesh) -> policy.Params:
  shapes = jax.eval_shape(lambda: policy.init(config, jax.random.key(0)))
  return parallel.with_shardings(
    shapes, parallel.param_shardings(mesh, policy.logical_axes(config))
  )


def save_base(run: pathlib.Path, params: policy.Params, saved: str = "") -> None:
  """Writes the frozen parameters of a policy with adapters into its run folder, replacing any.

  Args:
    run: the folder.
    params: of the policy.
    saved: URL of the checkpoints, where processes share no disk; they are written there.

  Raises:
    CheckpointError: they cannot be written.
  """
  folder = run / BASE
  _load_base.cache_clear()
  if saved:
    try:
      return committed.save(f"{saved}/{committed.BASE}", {BASE.name: lora.split(params)[1]})
    except BucketError as error:
      raise CheckpointError(str(error)) from error
  if parallel.is_writer():
    shutil.rmtree(folder, ignore_errors=True)
  parallel.wait_for_all("old base")
  _, frozen = lora.split(params)
  try:
    with no_sharding_file():
      save_tree(folder, frozen)
  except Exception as error:
    raise CheckpointError(f"{folder} could not be written: {reason(error)}.") from error
  if parallel.is_writer():
    write_checksums(folder)


def _base(path: pathlib.Path, config: PolicyConfig, mesh: Mesh) -> policy.Params:
  """Loads the frozen parameters that the adapters of one step's folder belong to."""
  if not urls.is_url(str(path)):
    path = path.absolute()
  if committed.holds(path):
    return _load_base(path.parent.parent / str(committed.BASE), config, mesh)
  return _load_base(path.parents[2] / BASE, config, mesh)


@functools.lru_cache(maxsize=1)  # state, reference and starting policy share them
def _load_base(folder: committed.Path, config: PolicyConfig, mesh: Mesh) -> policy.Params:
  target = lora.split(_abstract_params(config, mesh))[1]
  if committed.holds(folder):
    return _load(folder, {BASE.name: target})[BASE.name]  # checks what it reads
  if problem := damage(folder):
    raise CheckpointError(
      f"{folder}, the policy that the adapters of this run belong to, is damaged: {problem}. "
      "Restore it from a copy, or start again in another folder."
    )
  try:
    return ocp.load(literal(folder), target)
  except Exception as error:
    raise CheckpointError(f"{folder} does not fit this policy: {reason(error)}.") from error


def save_tree(path: pathlib.Path, tree: Any) -> None:
  """Writes a tree of arrays; returns when it is on disk."""
  path.parent.mkdir(parents=True, exist_ok=True)
  ocp.save(literal(path), tree)


def load_tree(path: pathlib.Path) -> Any:
  """Loads what `save_tree` wrote, as nested dicts and lists of arrays on the first device."""
  path = literal(path)
  return ocp.load(path, _on_first_device(ocp.metadata(path).metadata))


def load_arrays(path: pathlib.Path, checkpointable: str) -> dict[str, np.ndarray]:
  """Loads the arrays of one checkpointable of a step, by their path in the tree, to inspect."""
  path = literal(path)
  target = _on_first_device(ocp.checkpointables_metadata(path).metadata[checkpointable])
  loaded = ocp.load_checkpointables(path, {checkpointable: target})[checkpointable]
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(loaded))
  return {jax.tree_util.keystr(at, simple=True, separator="/"): leaf for at, leaf in leaves}


def _on_first_device(metadata: Any) -> Any:
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), metadata
  )


def _load(path: committed.Path, target: Mapping[str, Any]) -> dict[str, Any]:
  try:
    if committed.holds(path):
      return committed.load(path, target)
    return ocp.load_checkpointables(literal(path), target)
  except Exception as error:
    raise CheckpointError(
      f"the checkpoint {path} does not fit this policy and optimiser: {reason(error)}."
    ) from error


def no_sharding_file() -> ocp.Context:
  """An Orbax context that writes no sharding file, a third of the cost of a small save.

  Nothing here reads that file: a load names its own mesh.
  """
  context = ocp.Context()
  context.array.saving.enable_write_sharding_file = False
  return context


def training_fields() -> tuple[str, ...]:
  """Returns the fields of a train state other than its parameters."""
  return tuple(f.name for f in dataclasses.fields(TrainState) if f.name != "params")


def reason(error: Exception) -> str:
  """Returns an error's first line: Orbax's and TensorStore's messages are a page long."""
  text = str(error).strip() or type(error).__name__
  return text.splitlines()[0][:300].rstrip(".")

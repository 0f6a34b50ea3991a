"""Checkpoints of a training stage, through Orbax v1. The only module that knows Orbax.

A stage's folder holds one folder per saved step with two checkpointables: `params`, which
evaluation and export load alone, and `training`, the optimiser and the step.
"""

import pathlib

import jax
import optax
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from lhrm_jax import parallel, policy
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.training import state as train_state
from lhrm_jax.training.state import TrainState

_PARAMS, _TRAINING = "params", "training"


class Checkpoints:
  """Saves train states of one stage; a save is atomic, and runs beside the training."""

  def __init__(self, folder: pathlib.Path, *, every: int, keep: int):
    """Args:
    folder: of the stage; created where missing.
    every: steps between saves.
    keep: how many of the newest to keep.
    """
    policies = ocp.training
    self._every = every
    self._checkpointer = policies.Checkpointer(
      folder.resolve(),
      # When to save is decided here, so that the last step is saved whatever the interval.
      save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),
      preservation_policy=policies.preservation_policies.LatestN(keep),
      cleanup_tmp_directories=True,
    )

  def save(self, state: TrainState, step: int, *, last: bool = False) -> bool:
    """Starts saving when `step` is due or `last`; returns whether it did."""
    if not (last or (step and step % self._every == 0)):
      return False
    latest = self._checkpointer.latest
    if latest is not None and latest.step == step:
      return False
    self._checkpointer.save_checkpointables_async(
      step,
      {_PARAMS: state.params, _TRAINING: {"step": state.step, "opt_state": state.opt_state}},
    )
    return True

  def close(self) -> None:
    """Waits for saves under way."""
    self._checkpointer.close()


def restore(
  folder: pathlib.Path, config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Loads the newest train state of a stage onto `mesh`.

  Raises:
    FileNotFoundError: the folder holds no checkpoint.
  """
  shardings = train_state.shardings(config, optimizer, mesh)
  shapes = jax.eval_shape(
    lambda key: train_state.from_params(policy.init(config, key), optimizer), jax.random.key(0)
  )
  target = _with_shardings(shapes, shardings)
  loaded = ocp.load_checkpointables(
    newest(folder),
    {_PARAMS: target.params, _TRAINING: {"step": target.step, "opt_state": target.opt_state}},
  )
  training = loaded[_TRAINING]
  return TrainState(training["step"], loaded[_PARAMS], training["opt_state"])


def restore_params(folder: pathlib.Path, config: PolicyConfig, mesh: Mesh) -> policy.Params:
  """Loads the parameters alone of a stage's newest checkpoint onto `mesh`.

  Raises:
    FileNotFoundError: the folder holds no checkpoint.
  """
  shapes = jax.eval_shape(lambda: policy.init(config, jax.random.key(0)))
  shardings = parallel.param_shardings(mesh, policy.logical_axes(config))
  return ocp.load_checkpointables(newest(folder), {_PARAMS: _with_shardings(shapes, shardings)})[
    _PARAMS
  ]


def newest(folder: pathlib.Path) -> pathlib.Path:
  """The folder of a stage's newest whole checkpoint.

  Raises:
    FileNotFoundError: there is none.
  """
  steps = [p for p in folder.glob("*") if p.name.isdigit()] if folder.is_dir() else []
  if not steps:
    raise FileNotFoundError(f"{folder} holds no checkpoint.")
  return max(steps, key=lambda p: int(p.name)).resolve()


def _with_shardings(shapes, shardings):
  return jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
  )

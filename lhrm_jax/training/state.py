"""Train state: parameters, optimiser state and counters, created with their shardings."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.config import knob, real
from lhrm_jax.policy import PolicyConfig


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Knobs of AdamW and of gradient clipping."""

  learning_rate: float = knob(1e-6, real(0), "Peak learning rate.")
  weight_decay: float = knob(0.0, real(0), "Decoupled weight decay on matrices.")
  clip_norm: float = knob(1.0, real(0, above=True), "Largest global norm of the gradient.")
  b2: float = knob(0.95, real(0, 0.9999), "Decay rate of AdamW's second moment.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that an update changes.

  Attributes:
    step: int32 scalar, number of updates made or skipped.
    params: float32 master parameters.
    opt_state: state of the Optax optimiser.
    skipped: int32 scalar, number of updates skipped because loss or gradient was not finite.
    skipped_in_a_row: int32 scalar, number of updates skipped since the last one made.
  """

  step: Array
  params: policy.Params
  opt_state: Any
  skipped: Array
  skipped_in_a_row: Array


def make_optimizer(
  schedule: optax.Schedule, *, weight_decay: float, clip_norm: float, b2: float = 0.95
) -> optax.GradientTransformation:
  """Returns AdamW after clipping by global norm; only matrices decay, not norms and biases."""

  def matrices(params: policy.Params) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: path[-1].key not in ("scale", "bias"), params
    )

  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.adamw(schedule, b2=b2, weight_decay=weight_decay, mask=matrices),
  )


def create(
  config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh, key: Array
) -> TrainState:
  """Returns a fresh state, initialised sharded: no device ever holds another's part."""
  return _sharded(
    lambda key: from_params(policy.init(config, key), optimizer), config, optimizer, mesh
  )(key)


def restart(
  config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh, params: policy.Params
) -> TrainState:
  """Returns a state at step 0 with a copy of `params` and a fresh optimiser."""
  return _sharded(lambda params: from_params(params, optimizer), config, optimizer, mesh)(params)


def from_params(params: policy.Params, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns a state at step 0; traceable."""
  return TrainState(jnp.int32(0), params, optimizer.init(params), jnp.int32(0), jnp.int32(0))


def shardings(
  config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Returns a `TrainState` of shardings; the moments are sharded as their parameters are."""
  by_param = parallel.param_shardings(mesh, policy.logical_axes(config))
  shapes = jax.eval_shape(lambda: policy.init(config, jax.random.key(0)))
  opt_shapes = jax.eval_shape(optimizer.init, shapes)
  opt_state = optax.tree.map_params(
    optimizer,
    lambda _, sharding: sharding,
    opt_shapes,
    by_param,
    transform_non_params=lambda _: parallel.replicated(mesh),
  )
  scalar = parallel.replicated(mesh)
  return TrainState(scalar, by_param, opt_state, scalar, scalar)


def abstract(
  config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Returns a `TrainState` of sharded `jax.ShapeDtypeStruct`s, to load or compile for."""
  shapes = jax.eval_shape(
    lambda key: from_params(policy.init(config, key), optimizer), jax.random.key(0)
  )
  return parallel.with_shardings(shapes, shardings(config, optimizer, mesh))


def _sharded(build, config, optimizer, mesh):
  return jax.jit(build, out_shardings=shardings(config, optimizer, mesh))

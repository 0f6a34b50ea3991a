"""Train state: parameters, optimiser state and counters, created with their shardings."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.config import SHARE, knob, real, whole
from lhrm_jax.policy import PolicyConfig, lora


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Knobs of AdamW, of its learning rate and of gradient clipping."""

  learning_rate: float = knob(1e-6, real(0), "Peak learning rate.")
  learning_rate_end: float = knob(
    1.0, SHARE, "Learning rate of the last step as a share of the peak, which a cosine falls from."
  )
  warmup_steps: int = knob(0, whole(0), "Steps of linear warm-up to the peak learning rate.")
  weight_decay: float = knob(0.0, real(0), "Decoupled weight decay on matrices.")
  clip_norm: float = knob(1.0, real(0, above=True), "Largest global norm of the gradient.")
  b2: float = knob(0.95, real(0, 0.9999), "Decay rate of AdamW's second moment.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that an update changes.

  Attributes:
    step: int32 scalar, number of updates made or skipped.
    params: float32 master parameters. With adapters, those of the frozen policy are among them:
      no update copies or donates them, so that policies share them.
    opt_state: state of the Optax optimiser, of the trained parameters (`lora.split`).
    skipped: int32 scalar, number of updates skipped because loss or gradient was not finite.
    skipped_in_a_row: int32 scalar, number of updates skipped since the last one made.
  """

  step: Array
  params: policy.Params
  opt_state: Any
  skipped: Array
  skipped_in_a_row: Array


def make_schedule(c: OptimizerConfig, steps: int, updates: int = 1) -> optax.Schedule:
  """Returns the learning rate of each update: constant with the default knobs.

  Args:
    c: knobs; its warm-up is in steps.
    steps: training steps.
    updates: updates of a step.
  """
  if not c.warmup_steps and c.learning_rate_end == 1:
    return optax.constant_schedule(c.learning_rate)
  warmup = c.warmup_steps * updates
  last = max(steps * updates, warmup + 1)
  return optax.warmup_cosine_decay_schedule(
    0.0, c.learning_rate, warmup, last, c.learning_rate_end * c.learning_rate
  )


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
  return jax.jit(
    lambda key: from_params(policy.init(config, key), optimizer),
    out_shardings=shardings(config, optimizer, mesh),
  )(key)


def restart(
  config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh, params: policy.Params
) -> TrainState:
  """Returns a state at step 0 with a copy of what is trained and a fresh optimiser."""
  trained, frozen = lora.split(params)
  build = jax.jit(
    lambda trained: from_params(trained, optimizer),
    out_shardings=of_trained(shardings(config, optimizer, mesh)),
  )
  state = build(trained)
  return dataclasses.replace(state, params=lora.join(state.params, frozen))


def of_trained(state: TrainState) -> TrainState:
  """The state without the frozen parameters, or a tree like it."""
  return dataclasses.replace(state, params=lora.split(state.params)[0])


def copy_of(params: policy.Params) -> policy.Params:
  """A copy of what updates change, to keep: an update donates its state."""
  trained, frozen = lora.split(params)
  return lora.join(jax.tree.map(jnp.copy, trained), frozen)


def from_params(params: policy.Params, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns a state at step 0; traceable."""
  opt_state = optimizer.init(lora.split(params)[0])
  return TrainState(jnp.int32(0), params, opt_state, jnp.int32(0), jnp.int32(0))


def shardings(
  config: PolicyConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Returns a `TrainState` of shardings; the moments are sharded as their parameters are."""
  by_param = parallel.param_shardings(mesh, policy.logical_axes(config))
  shapes = jax.eval_shape(lambda: policy.init(config, jax.random.key(0)))
  opt_shapes = jax.eval_shape(optimizer.init, lora.split(shapes)[0])
  opt_state = optax.tree.map_params(
    optimizer,
    lambda _, sharding: sharding,
    opt_shapes,
    lora.split(by_param)[0],
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

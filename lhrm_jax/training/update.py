"""Gradients summed over micro-batches and devices, divided once, and the optimiser's update."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from lhrm_jax import parallel, policy
from lhrm_jax.objectives.masked import Maximum, SumCount
from lhrm_jax.policy import PolicyConfig, lora
from lhrm_jax.training import state as train_state
from lhrm_jax.training.state import TrainState

Metrics = dict[str, SumCount | Maximum]
LossFn = Callable[[policy.Params, Any], tuple[SumCount, Metrics]]


def gradients(
  loss_fn: LossFn, params: policy.Params, batch: Any
) -> tuple[SumCount, policy.Params, Metrics]:
  """Returns loss, gradient of the *summed* loss, and metrics of one micro-batch.

  The gradient is that of the trained parameters (`lora.split`).
  """
  trained, frozen = lora.split(params)

  def total(trained: policy.Params):
    loss, metrics = loss_fn(lora.join(trained, frozen), batch)
    return loss.total, (loss, metrics)

  grads, (loss, metrics) = jax.grad(total, has_aux=True)(trained)
  return loss, grads, metrics


def accumulate(
  loss_fn: LossFn, params: policy.Params, batches: Sequence[Any]
) -> tuple[SumCount, policy.Params, Metrics]:
  """Sums `gradients` over micro-batches of any shapes, unrolled."""
  total = None
  for batch in batches:
    part = gradients(loss_fn, params, batch)
    total = part if total is None else add_sums(total, part)
  return total


def accumulate_scan(
  gradients_of: Callable[[Any], tuple[SumCount, policy.Params, Metrics]], batches: Any
) -> tuple[SumCount, policy.Params, Metrics]:
  """Sums `gradients_of` over micro-batches stacked on axis 0, in the memory of one."""
  first = jax.tree.map(lambda x: x[0], batches)
  shapes = jax.eval_shape(gradients_of, first)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(total, batch):
    return add_sums(total, gradients_of(batch)), None

  return jax.lax.scan(add, zeros, batches)[0]


def summed_over_devices(
  gradients_of: Callable[[policy.Params, Any], tuple[SumCount, policy.Params, Metrics]], mesh: Mesh
) -> Callable[[policy.Params, Any], tuple[SumCount, policy.Params, Metrics]]:
  """Returns `gradients_of` computed on each device's own rows and summed over devices once.

  For meshes on which every device holds all parameters; on others, `gradients_of` itself. XLA would
  sum the devices' gradients inside every loop that accumulates them.
  """
  axes = parallel.LOGICAL_RULES["batch"]
  if mesh.size == 1 or mesh.size > mesh.shape["data"]:
    return gradients_of

  def add(x: Any) -> Any:
    if isinstance(x, Maximum):
      return Maximum(jax.lax.pmax(x.value, axes))
    return jax.lax.psum(x, axes)

  def of_device(params: policy.Params, batch: Any) -> tuple[SumCount, policy.Params, Metrics]:
    parts = gradients_of(params, batch)
    return jax.tree.map(add, parts, is_leaf=lambda x: isinstance(x, Maximum))

  def over_devices(params: policy.Params, batch: Any) -> Any:
    everywhere, rows = PartitionSpec(), parallel.partition_spec(("batch",))
    specs = jax.tree.map(lambda x: rows if x.ndim else everywhere, batch)
    # Unchecked: the check would insert a sum over devices into every derivative.
    return jax.shard_map(
      of_device, mesh=mesh, in_specs=(everywhere, specs), out_specs=everywhere, check_vma=False
    )(params, batch)

  return over_devices


def add_sums(a: Any, b: Any) -> Any:
  """Adds two trees of arrays, `SumCount` and `Maximum`, each by its own rule."""
  return jax.tree.map(lambda x, y: x + y, a, b, is_leaf=lambda x: isinstance(x, SumCount | Maximum))


def apply_gradients(
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  state: TrainState,
  loss: SumCount,
  grads: policy.Params,
  metrics: Metrics,
) -> tuple[TrainState, dict[str, Array]]:
  """Divides sums by counts, updates the state, and returns it with the metrics as scalars.

  If loss or gradient is not finite, parameters and optimiser stay unchanged and the step counts as
  skipped.
  """
  grads = jax.tree.map(lambda g: SumCount(g, loss.count).mean(), grads)
  norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss.mean()) & jnp.isfinite(norm)
  trained, frozen = lora.split(state.params)
  updates, opt_state = optimizer.update(grads, state.opt_state, trained)
  params = optax.apply_updates(trained, updates)

  def made_or_kept(new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

  new = TrainState(
    step=state.step + 1,
    params=lora.join(made_or_kept(params, trained), frozen),
    opt_state=made_or_kept(opt_state, state.opt_state),
    skipped=state.skipped + ~finite,
    skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
  )
  scalars = {
    "loss": loss.mean(),
    "grad_norm": norm,
    # Skipped steps do not advance the schedule.
    "learning_rate": schedule(state.step - state.skipped),
    "skipped": new.skipped,
    "skipped_in_a_row": new.skipped_in_a_row,
    **{name: value.mean() for name, value in metrics.items()},
  }
  return new, scalars


def jit_step(
  step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]],
  config: PolicyConfig,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
) -> "JittedStep":
  """Returns the jitted `step(state, batch) -> (state, metrics)`; the state is donated.

  The new state keeps the shardings of the old one. Left to XLA they could change, and the next step
  would be compiled again. Frozen parameters are not donated.
  """
  shardings = train_state.of_trained(train_state.shardings(config, optimizer, mesh))

  def step_over_mesh(state: TrainState, frozen: policy.Params, batch: Any):
    with parallel.over(mesh):
      state = dataclasses.replace(state, params=lora.join(state.params, frozen))
      state, metrics = step(state, batch)
      return train_state.of_trained(state), metrics

  return JittedStep(
    jax.jit(step_over_mesh, donate_argnums=0, out_shardings=(shardings, parallel.replicated(mesh)))
  )


@dataclasses.dataclass(frozen=True)
class JittedStep:
  """The jitted `step(state, batch) -> (state, metrics)`, which takes frozen parameters apart."""

  _step: Any

  def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
    frozen = lora.split(state.params)[1]
    new, metrics = self._step(train_state.of_trained(state), frozen, batch)
    return dataclasses.replace(new, params=lora.join(new.params, frozen)), metrics

  def trace(self, state: TrainState, batch: Any) -> Any:
    """Traces the step for these shapes, as the `trace` of a jitted function."""
    return self._step.trace(train_state.of_trained(state), lora.split(state.params)[1], batch)

  def lower(self, state: TrainState, batch: Any) -> Any:
    """Lowers the step; what is compiled from it takes the frozen parameters as second argument."""
    return self.trace(state, batch).lower()

  def _cache_size(self) -> int:
    """Number of compiled programs, as of a jitted function."""
    return self._step._cache_size()


def run_updates(
  update: Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]],
  state: TrainState,
  batches: Sequence[Any],
  check: Callable[[dict[str, float], policy.Params, Any], None],
) -> tuple[TrainState, dict[str, float]]:
  """Makes one update per batch; returns the state and the merged metrics.

  Args:
    update: result of `jit_step`.
    state: train state, donated.
    batches: inputs of the updates.
    check: called with each update's metrics, the parameters after it, and its input.
  """
  of_updates = []
  for batch in batches:
    state, metrics = update(state, batch)
    of_updates.append({name: float(value) for name, value in metrics.items()})
    check(of_updates[-1], state.params, batch)
  return state, merge_metrics(of_updates)


def merge_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Merges the metrics of a step's updates: means, maxima and last counts."""
  merged = {name: float(np.mean([of[name] for of in metrics])) for name in metrics[0]}
  merged |= {name: max(of[name] for of in metrics) for name in merged if name.endswith("/max")}
  return merged | {name: metrics[-1][name] for name in ("skipped", "skipped_in_a_row")}

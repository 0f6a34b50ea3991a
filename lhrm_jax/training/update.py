"""Gradients summed over blocks of rows and devices, divided once, and the optimiser's update."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

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


class Rows(Protocol):
  """A batch of rows, a tree of arrays `[N, ...]`; `filled` `[N]` says which hold a token."""

  @property
  def filled(self) -> Array: ...


def gradients(
  loss_fn: LossFn, params: policy.Params, batch: Any
) -> tuple[SumCount, policy.Params, Metrics]:
  """Returns loss, gradient of the *summed* loss, and metrics of one block of rows.

  The gradient is that of the trained parameters (`lora.split`).
  """
  trained, frozen = lora.split(params)

  def total(trained: policy.Params):
    loss, metrics = loss_fn(lora.join(trained, frozen), batch)
    return loss.total, (loss, metrics)

  grads, (loss, metrics) = jax.grad(total, has_aux=True)(trained)
  return loss, grads, metrics


def accumulate_rows(
  loss_fn: LossFn, params: policy.Params, batch: Rows, at_a_time: int = 0
) -> tuple[SumCount, policy.Params, Metrics]:
  """Sums `gradients` over blocks of a batch's rows, in the memory of one block.

  The loop stops after the last block that holds a token, so that one program serves any number of
  rows and empty ones cost nothing. It is not differentiated: each block's gradient is.

  Args:
    loss_fn: see `gradients`.
    params: parameters.
    batch: tree of arrays `[N, ...]`, and scalars for all. The rows of a block lie `N / rows of a
      block` apart, see `data.packing.in_lanes`.
    at_a_time: rows of a block on each device; 0 for all.
  """
  blocks, used = row_blocks(batch, at_a_time)
  # Inlined, but traced once for both the shapes and the loop.
  of_block = jax.jit(functools.partial(gradients, loss_fn), inline=True)

  def gradients_of(i: Array) -> tuple[SumCount, policy.Params, Metrics]:
    return of_block(params, block_of(blocks, i))

  shapes = jax.eval_shape(gradients_of, used)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  with jax.named_scope("rows"):
    return jax.lax.fori_loop(0, used, lambda i, total: add_sums(total, gradients_of(i)), zeros)


def map_rows(fn: Callable[[Any], Any], batch: Rows, at_a_time: int = 0) -> Any:
  """`fn` of a batch's rows, block by block as in `accumulate_rows`; 0 where blocks are empty.

  Args:
    fn: maps a block of rows to a tree of arrays with as many rows.
    batch: see `accumulate_rows`.
    at_a_time: likewise.
  """
  blocks, used = row_blocks(batch, at_a_time)
  fn = jax.jit(fn, inline=True)  # traced once, see `accumulate_rows`
  shapes = jax.eval_shape(lambda i: fn(block_of(blocks, i)), used)
  lanes, count = jax.tree.leaves(blocks)[0].shape[:2]

  def put(i: Array, out: Any) -> Any:
    return jax.tree.map(
      lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, i, axis=1),
      out, fn(block_of(blocks, i)),
    )  # fmt: skip

  start = jax.tree.map(lambda s: jnp.zeros((lanes, count, *s.shape[1:]), s.dtype), shapes)
  with jax.named_scope("rows"):
    out = jax.lax.fori_loop(0, used, put, start)
  return jax.tree.map(lambda x: x.reshape(lanes * count, *x.shape[2:]), out)


def row_blocks(batch: Rows, at_a_time: int) -> tuple[Any, Array]:
  """The batch as `[rows of a block, blocks, ...]`, and the number of blocks that hold tokens."""
  n = batch.filled.shape[0]
  lanes = min(n, (at_a_time or n) * parallel.batch_parts(n))
  blocks = jax.tree.map(lambda x: x.reshape(lanes, -1, *x.shape[1:]) if x.ndim else x, batch)
  filled = jnp.any(batch.filled.reshape(lanes, -1), axis=0)
  return blocks, jnp.max(jnp.where(filled, jnp.arange(1, len(filled) + 1), 0))


def block_of(blocks: Any, i: Array) -> Any:
  """The `i`-th block of `row_blocks`."""

  def taken(x: Array) -> Array:
    if not x.ndim:
      return x
    x = jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False)
    return parallel.constrain(x, ("batch",) + (None,) * (x.ndim - 1))

  return jax.tree.map(taken, blocks)


def summed_over_devices(
  gradients_of: Callable[[policy.Params, Any], tuple[SumCount, policy.Params, Metrics]], mesh: Mesh
) -> Callable[[policy.Params, Any], tuple[SumCount, policy.Params, Metrics]]:
  """Returns `gradients_of` computed on each device's own rows and summed over devices once.

  For meshes on which every device holds all parameters, and rows that divide over them; on others,
  `gradients_of` itself. XLA would sum the devices' gradients inside every loop that accumulates
  them.
  """
  axes = parallel.LOGICAL_RULES["batch"]
  if not parallel.is_copied(mesh):
    return gradients_of

  def add(x: Any) -> Any:
    if isinstance(x, Maximum):
      return Maximum(jax.lax.pmax(x.value, axes))
    return jax.lax.psum(x, axes)

  def of_device(params: policy.Params, batch: Any) -> tuple[SumCount, policy.Params, Metrics]:
    parts = gradients_of(params, batch)
    return jax.tree.map(add, parts, is_leaf=lambda x: isinstance(x, Maximum))

  def over_devices(params: policy.Params, batch: Any) -> Any:
    if any(x.ndim and len(x) % mesh.size for x in jax.tree.leaves(batch)):
      return gradients_of(params, batch)
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

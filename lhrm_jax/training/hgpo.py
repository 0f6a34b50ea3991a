"""The HGPO update (https://arxiv.org/abs/2505.14631, stage II).

Gradients over packed rows and devices, for any objective (`objectives.objective`). A row holds
whole responses after their prompts, so each block of rows has a loss and a gradient of its own.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.objectives import losses, objective
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.objectives.masked import Maximum, SumCount, masked, masked_sum_count
from lhrm_jax.objectives.objective import Objective, ObjectivePrompts, ObjectiveRows, RowLogprobs
from lhrm_jax.objectives.policy_losses import count_per_sequence
from lhrm_jax.objectives.policy_objective import loss_weights
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import LENGTH, Rollouts
from lhrm_jax.sampling.sampler import forced_modes
from lhrm_jax.training.hgpo_config import HGPOConfig
from lhrm_jax.training.packed import padding_share
from lhrm_jax.training.packed_rollouts import PackedRows
from lhrm_jax.training.rollout_logprobs import RolloutLogprobs, pack, score_rows
from lhrm_jax.training.state import TrainState
from lhrm_jax.training.update import (
  JittedStep,
  Metrics,
  accumulate_rows,
  apply_gradients,
  jit_step,
  summed_over_devices,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HGPOBatch:
  """One update's input, whole on every process.

  Attributes:
    rollouts: `[B, M, G, T]`.
    advantages: `[B, M, G]`.
    ref: log-probabilities of the rollouts under the reference policy.
    old: under the policy that sampled, by the trainer; `None` on the only update from these
      rollouts, where the learning policy is that policy.
  """

  rollouts: Rollouts
  advantages: Advantages
  ref: RolloutLogprobs
  old: RolloutLogprobs | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HGPORows:
  """Packed rows with what the objective takes; letters as in `packed_rollouts`.

  Attributes:
    packed: prompts and responses.
    starts: `[N, Q]` int32, first target of each response.
    lengths: `[N, Q]` int32, tokens of each response, 0 for none.
    owner: `[N, Q]` int32, place of its prompt among the row's.
    mode: `[N, Q]` int32, see `ObjectiveRows`.
    tag: `[N, Q]` float32, see `ObjectiveRows`.
    body: likewise.
    sampler_logprobs: `[N, L]` float32, of the targets.
    ref: of the packed rows.
    old: likewise.
    of_prompt: `[N, Q, M * G]` int32, lengths that the loss counts of all of a prompt's responses,
      where the prompt stands for the first time; 0 elsewhere.
    first: `[N, Q]` bool, where it does.
    repeated: `[N]` int32, slots of prompts that other rows hold too.
    per_sequence: see `ObjectiveRows`; set by the update.
  """

  packed: PackedRows
  starts: Array
  lengths: Array
  owner: Array
  mode: Array | None
  tag: Array
  body: Array
  sampler_logprobs: Array
  ref: RolloutLogprobs
  old: RolloutLogprobs | None
  of_prompt: Array
  first: Array
  repeated: Array
  per_sequence: Array | None = None

  @property
  def filled(self) -> Array:
    return self.packed.filled


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedHGPO:
  """An `HGPOBatch` as the device takes it.

  Attributes:
    rows: rows, split over the devices.
    counted: `[B * M * G]` int32, lengths of all responses that the loss counts.
    left_out: `[B * M * G]` int32, of those that are not computed.
    max_tokens: longest response that the rollouts allow.
    at_a_time: rows that a device computes at a time.
  """

  rows: HGPORows
  counted: Array
  left_out: Array
  max_tokens: int = dataclasses.field(metadata={"static": True})
  at_a_time: int = dataclasses.field(metadata={"static": True})


def pack_hgpo(config: PolicyConfig, c: HGPOConfig, mesh: Mesh, batch: HGPOBatch) -> PackedHGPO:
  """Packs a batch on the host and lays it out over a mesh; one shape, whatever the lengths.

  Raises:
    ValueError: a response does not fit into a row.
  """
  batch = jax.device_get(batch)
  rollouts, (_, m, g, t) = batch.rollouts, batch.rollouts.responses.shape
  counted = np.asarray(rollouts.lengths)
  if c.mask_truncated:
    counted = np.where(rollouts.finish_reason == LENGTH, 0, counted)
  computed = counted
  if c.skip_zero_advantages:
    moves = (batch.advantages.tag != 0) | (batch.advantages.body != 0)
    computed = np.where(moves, counted, 0)
  places = pack(config, c, mesh, rollouts, computed)

  def of_policy(scored: RolloutLogprobs) -> RolloutLogprobs:
    per_token = (places.of_tokens(x) for x in (scored.logprobs, scored.entropy))
    return RolloutLogprobs(*per_token, places.of_prompts(scored.mode_logprobs))

  forced = np.array(forced_modes(m, g, c.forced(m * g)), np.int32)
  modes = np.broadcast_to(forced.reshape(m, g), counted.shape)
  of_prompt = places.of_prompts(counted.reshape(-1, m * g))
  rows = HGPORows(
    packed=places.rows,
    starts=places.starts,
    lengths=places.of_responses(computed),
    owner=places.owner,
    mode=places.of_responses(modes) if forced.max() >= 0 else None,
    tag=places.of_responses(batch.advantages.tag),
    body=places.of_responses(batch.advantages.body),
    sampler_logprobs=places.of_tokens(rollouts.logprobs),
    ref=of_policy(batch.ref),
    old=None if batch.old is None else of_policy(batch.old),
    of_prompt=np.where(places.first[..., None], of_prompt, 0),
    first=places.first,
    repeated=places.repeated,
  )
  return PackedHGPO(
    parallel.shard_rows(mesh, rows),
    *parallel.replicate(mesh, (counted.reshape(-1), (counted - computed).reshape(-1))),
    max_tokens=t,
    at_a_time=places.shape.at_a_time,
  )


def hgpo_gradients(
  config: PolicyConfig, c: HGPOConfig, opening: tuple[int, int], params: policy.Params,
  batch: HGPOBatch, objective_fn: Objective | None = None,
) -> tuple[SumCount, policy.Params, Metrics]:  # fmt: skip
  """The loss over a batch, the gradient of its sum, and metrics; not for use inside `jax.jit`.

  Args:
    config: of the policy.
    c: temperature, rows, and what the objective reads.
    opening: ids of the two opening tags.
    params: of the policy.
    batch: `B` prompts with their responses.
    objective_fn: what to minimise; HGPO's by default.
  """
  mesh = parallel.mesh_of(params)
  packed = pack_hgpo(config, c, mesh, batch)
  return _jitted_gradients(config, c, opening, objective_fn, mesh, params, packed)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _jitted_gradients(
  config: PolicyConfig, c: HGPOConfig, opening: tuple[int, int], objective_fn: Objective | None,
  mesh: Mesh, params: policy.Params, packed: PackedHGPO,
) -> tuple[SumCount, policy.Params, Metrics]:  # fmt: skip
  with parallel.over(mesh):
    return packed_gradients(config, c, opening, objective_fn, mesh, params, packed)


def packed_gradients(
  config: PolicyConfig, c: HGPOConfig, opening: tuple[int, int], objective_fn: Objective | None,
  mesh: Mesh, params: policy.Params, packed: PackedHGPO,
) -> tuple[SumCount, policy.Params, Metrics]:  # fmt: skip
  """`hgpo_gradients` of packed rows; pure."""
  objective_fn = objective_fn or objective.get("hgpo")
  t, rows = packed.max_tokens, packed.rows
  if c.separate_tag:
    mask = jnp.arange(t) < packed.counted[:, None]
    rows = dataclasses.replace(rows, per_sequence=count_per_sequence(mask, c.aggregation, t))

  def block_loss(params: policy.Params, block: HGPORows) -> tuple[SumCount, Metrics]:
    return _block_loss(config, c, opening, objective_fn, t, params, block)

  def gradients_of(params: policy.Params, rows: HGPORows):
    return accumulate_rows(block_loss, params, rows, packed.at_a_time)

  loss, grads, metrics = summed_over_devices(gradients_of, mesh)(params, rows)
  if c.skip_zero_advantages:  # what is left out still counts in the divisor
    left_out = jnp.arange(t) < packed.left_out[:, None]
    _, count = loss_weights(c, left_out, t, rows.per_sequence)
    loss += SumCount(jnp.float32(0), count)
  return loss, grads, metrics


def _block_loss(
  config: PolicyConfig, c: HGPOConfig, opening: tuple[int, int], objective_fn: Objective,
  max_tokens: int, params: policy.Params, block: HGPORows,
) -> tuple[SumCount, Metrics]:  # fmt: skip
  """The loss over a block of rows, and metrics: what responses and prompts say."""
  scored = score_rows(config, opening, c.temperature, params, block.packed)
  seen = _objective_rows(block, scored, max_tokens)
  loss, metrics = objective_fn.of_rows(c, seen)
  metrics |= _row_metrics(seen)
  modes, ref_modes = (x.mode_logprobs.reshape(-1, 3) for x in (scored, block.ref))
  if objective_fn.of_prompts is not None:
    of_prompt = block.of_prompt.reshape(len(modes), -1)
    share = c.forced(of_prompt.shape[1]) / of_prompt.shape[1]
    mask = jnp.arange(max_tokens) < of_prompt[..., None]
    prompts = ObjectivePrompts(modes, ref_modes, mask, share, block.per_sequence)
    more, more_metrics = objective_fn.of_prompts(c, prompts)
    loss, metrics = loss + more, metrics | more_metrics
  metrics |= _mode_metrics(modes, ref_modes, block.first.reshape(-1))
  repeated = jnp.sum(block.repeated)
  return loss, metrics | {"perf/padding_share": padding_share(block.packed.segment_ids, repeated)}


def _objective_rows(block: HGPORows, scored: RolloutLogprobs, max_tokens: int) -> ObjectiveRows:
  """The responses of a block as rows of their own, `[rows * Q, T]`."""

  def each(of_target: Array) -> Array:
    """`[rows, L]` of the targets as `[rows * Q, T]` of the responses."""
    padded = jnp.pad(of_target, ((0, 0), (0, max_tokens)))
    cut = jax.vmap(lambda x, start: jax.lax.dynamic_slice(x, (start,), (max_tokens,)), (None, 0))
    return jax.vmap(cut)(padded, block.starts).reshape(-1, max_tokens)

  def of_prompts(x: Array) -> Array:
    """`[rows, Q, n]` of the prompts as `[rows * Q, n]` of the responses."""
    taken = jnp.take_along_axis(x, block.owner[..., None], axis=1)
    return taken.reshape(-1, x.shape[-1])

  lengths = block.lengths.reshape(-1)
  mode = None if block.mode is None else block.mode.reshape(-1)

  def of_policy(scored: RolloutLogprobs) -> RowLogprobs:
    modes, tags = of_prompts(scored.mode_logprobs), None
    if mode is not None:
      both = losses.tag_logprobs(modes)
      tags = jnp.take_along_axis(both, jnp.maximum(mode, 0)[:, None], axis=1)[:, 0]
    return RowLogprobs(each(scored.logprobs), each(scored.entropy), modes, tags)

  new = of_policy(scored)
  return ObjectiveRows(
    new=new,
    old=jax.lax.stop_gradient(new) if block.old is None else of_policy(block.old),
    ref=of_policy(block.ref),
    sampler_logprobs=each(block.sampler_logprobs),
    tag=block.tag.reshape(-1),
    body=block.body.reshape(-1),
    mask=jnp.arange(max_tokens) < lengths[:, None],
    lengths=lengths,
    mode=mode,
    max_tokens=max_tokens,
    per_sequence=block.per_sequence,
  )


def mini_batches(batch: HGPOBatch, count: int) -> tuple[HGPOBatch, ...]:
  """Cuts a batch of `B` queries into `count` equal parts of whole queries; `count` divides `B`."""
  size = len(batch.advantages.tag) // count
  return tuple(
    # The policy's version is one scalar; every part carries it.
    jax.tree.map(lambda x, at=at: x[at : at + size] if np.ndim(x) else x, batch)
    for at in range(0, count * size, size)
  )


@dataclasses.dataclass(frozen=True)
class HGPOStep:
  """The update `step(state, batch) -> (state, metrics)`: packs a batch and runs `program` on it.

  Attributes:
    config: of the policy.
    c: knobs of the update.
    mesh: over these devices.
    program: see `make_hgpo_program`; the state is donated.
  """

  config: PolicyConfig
  c: HGPOConfig
  mesh: Mesh
  program: JittedStep

  def __call__(self, state: TrainState, batch: HGPOBatch) -> tuple[TrainState, dict[str, Array]]:
    return self.program(state, pack_hgpo(self.config, self.c, self.mesh, batch))

  def trace(self, state: TrainState, batch: HGPOBatch) -> jax.stages.Traced:
    """Traces the program for these shapes."""
    return self.program.trace(state, pack_hgpo(self.config, self.c, self.mesh, batch))


def make_hgpo_step(
  config: PolicyConfig,
  c: HGPOConfig,
  opening: tuple[int, int],
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
  objective_fn: Objective | None = None,
) -> HGPOStep:
  """Builds the update; arguments and errors as of `make_hgpo_program`."""
  program = make_hgpo_program(config, c, opening, optimizer, schedule, mesh, objective_fn)
  return HGPOStep(config, c, mesh, program)


def make_hgpo_program(
  config: PolicyConfig,
  c: HGPOConfig,
  opening: tuple[int, int],
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  mesh: Mesh,
  objective_fn: Objective | None = None,
) -> JittedStep:
  """Builds the jitted update over packed rows; the state is donated.

  Sums and counts are added over blocks of rows, so how responses lie in them changes memory and
  nothing else.

  Args:
    config: of the policy.
    c: knobs of the update and of the objective.
    opening: ids of the two opening tags.
    optimizer: of the parameters.
    schedule: its learning rate, for metrics.
    mesh: over these devices.
    objective_fn: what to minimise; HGPO's by default.

  Raises:
    ValueError: rows without advantage are to be left out, and have a gradient.
  """
  if c.skip_zero_advantages and (c.beta or c.entropy_bonus):
    raise ValueError(
      f"skip_zero_advantages with beta={c.beta} and entropy_bonus={c.entropy_bonus}: these give "
      "every response a gradient, advantage or not. Set both to 0, or skip none."
    )

  def step(state: TrainState, packed: PackedHGPO) -> tuple[TrainState, dict[str, Array]]:
    total = packed_gradients(config, c, opening, objective_fn, mesh, state.params, packed)
    return apply_gradients(optimizer, schedule, state, *total)

  return jit_step(step, config, optimizer, mesh)


def _row_metrics(rows: ObjectiveRows) -> Metrics:
  """Metrics of rows under any objective, under TRL's names."""
  mismatch = jnp.abs(rows.new.logprobs - rows.sampler_logprobs)
  body = rows.mask & (jnp.arange(rows.mask.shape[1]) > 0)
  return {
    "entropy": masked_sum_count(rows.new.entropy, body),
    "sampling/sampling_logp_difference/mean": masked_sum_count(mismatch, rows.mask),
    "sampling/sampling_logp_difference/max": Maximum(jnp.max(masked(mismatch, rows.mask))),
  }


def _mode_metrics(logprobs: Array, ref: Array, queries: Array) -> Metrics:
  """The choice of a mode, from log-probabilities `[B, 3]` of the first token, where `queries`."""
  probs = jnp.exp(logprobs)
  # p log p is 0 at p = 0, where log p may be -inf.
  terms = jnp.where(probs > 0, probs * logprobs, 0.0)
  kl = losses.categorical_kl(logprobs, ref)
  return {
    "mode/tag_kl": masked_sum_count(kl, queries),
    "mode/tag_entropy": masked_sum_count(-jnp.sum(terms, axis=-1), queries),
    "mode/think_prob": masked_sum_count(probs[:, 0], queries),
    "mode/neither_prob": masked_sum_count(probs[:, 2], queries),
    "mode/neither_prob/max": Maximum(jnp.max(masked(probs[:, 2], queries))),
  }

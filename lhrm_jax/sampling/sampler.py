"""Paired rollouts: both modes of every prompt from one prefill."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lhrm_jax import parallel, policy
from lhrm_jax.config import MOST_ROWS, SHARE, TEMPERATURE, knob, one_of, real, whole
from lhrm_jax.policy import KVCache, PolicyConfig
from lhrm_jax.sampling import dials as inference
from lhrm_jax.sampling.decoding import Responses, Rules, decode, decode_slots
from lhrm_jax.sampling.dials import Dials
from lhrm_jax.sampling.rollouts import LENGTH, STOPPED, Prompts, Rollouts
from lhrm_jax.sampling.tokens import sample_tokens
from lhrm_jax.text import TagIds, Tokenizer, tags

# Index of free sampling, beside the modes THINK and NO_THINK, in a row's random key.
_FREE = 2

# A setting of all replies, or one of those that open `<think>`, `<no_think>` and neither.
ByMode = float | tuple[float, float, float]


class Clock(Protocol):
  """A stopwatch for `sample`, e.g. `runs.instruments.Stopwatch`."""

  def time(self, name: str) -> contextlib.AbstractContextManager: ...


PAIRINGS = ("paired", "free", "mixed")


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
  """Knobs of the rollouts of a training step."""

  samples_per_mode: int = knob(2, whole(1, 2**16), "Responses per prompt and mode, G.")
  pairing: str = knob(
    "paired",
    one_of(*PAIRINGS),
    '"paired" forces each mode on G responses; with "free" the policy chooses on 2 G responses, '
    'with "mixed" on those of them that are not forced.',
  )
  forced_share: float = knob(
    0.5, SHARE, 'Share of the 2 G responses that "mixed" forces, half into each mode.'
  )
  temperature: float = knob(1.0, TEMPERATURE, "Sampling temperature, which the update follows.")
  top_p: float = knob(1.0, real(0, 1, above=True), "Nucleus sampling; an update needs 1.")
  top_k: int = knob(0, whole(0), "Top-k sampling, 0 for none; an update needs 0.")
  sampling_chunks: int = knob(
    1,
    whole(1, MOST_ROWS),
    "Chunks that a step's prompts are sampled in; one is scored while the next is sampled.",
  )
  decode_slots: int = decode_slots()

  def forced(self, responses: int) -> int:
    """How many of a prompt's responses begin with a forced tag."""
    share = {"paired": 1.0, "free": 0.0}.get(self.pairing, self.forced_share)
    return 2 * round(share * responses / 2)


def forced_modes(modes: int, samples: int, forced: int) -> tuple[int, ...]:
  """The mode that each of a prompt's responses is forced into, -1 where the policy chooses.

  Args:
    modes: 2 for paired rollouts, whose first half thinks; else 1, with think and no_think in turn.
    samples: per place on the mode axis.
    forced: number of the forced, which come first.
  """
  if modes == 2:
    return (0,) * samples + (1,) * samples
  return tuple(i % 2 if i < forced else -1 for i in range(samples))


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["temperature", "top_p", "top_k"],
  meta_fields=[
    "samples",
    "max_tokens",
    "paired",
    "opening",
    "eos_ids",
    "pad_id",
    "forced",
    "slots",
  ],
)
@dataclasses.dataclass(frozen=True)
class SamplerSpec:
  """How to sample; temperature, top-p and top-k are traced, the rest is static.

  Attributes:
    samples: responses per mode, `G`.
    max_tokens: longest response `T`, tag and end of sequence included.
    paired: whether to force each mode on `G` responses; otherwise the policy chooses.
    opening: ids of the two opening tags.
    eos_ids: ids that end a response.
    pad_id: id that fills the slots after a response.
    temperature: sampling temperature; 0 is greedy. A scalar, or `[3]` by the mode of the reply:
      think, no_think and neither, of which the last draws the first token too.
    top_p: see `sample_tokens`; by mode as the temperature.
    top_k: see `sample_tokens`; by mode as the temperature.
    forced: of the responses that are not paired, how many begin with a forced tag.
    slots: rows that each copy of the policy decodes at a time; 0 for all. Changes no response but
      by the rounding of other shapes, which in bfloat16 turns some tokens.
  """

  samples: int
  max_tokens: int
  paired: bool
  opening: tuple[int, int]
  eos_ids: tuple[int, ...]
  pad_id: int
  temperature: Array | float = 1.0
  top_p: Array | float = 1.0
  top_k: Array | int = 0
  forced: int = 0
  slots: int = 0

  @classmethod
  def of(
    cls, tokenizer: Tokenizer, *, samples: int, max_tokens: int, paired: bool, **drawing: ByMode
  ) -> "SamplerSpec":
    """The spec for a tokenizer's tags and end of sequence; `drawing` are the other fields."""
    tag_ids: TagIds = tokenizer.tag_ids
    ids = (tag_ids.opening, tokenizer.eos_ids, tokenizer.pad_id)
    return cls(samples, max_tokens, paired, *ids, **drawing)

  @property
  def modes(self) -> int:
    return 2 if self.paired else 1


def sample(
  config: PolicyConfig,
  spec: SamplerSpec,
  params: policy.Params,
  prompts: Prompts,
  key: Array,
  *,
  limits: Array | None = None,
  dials: Dials | None = None,
  mesh: Mesh | None = None,
  clock: Clock | None = None,
) -> Rollouts:
  """Samples `G` responses per prompt and mode.

  A prompt runs through the policy once; its keys and values are stored once and read by all of its
  `M * G` rows. On a mesh, the prompts are sharded over the data axes, and each copy of the policy
  decodes its own rows: at its own pace if one device holds it, else in lockstep with the others.

  Args:
    config: static part of the policy.
    spec: how to sample.
    params: parameters of the policy, best as `policy.for_sampling` gives them.
    prompts: `B` prompts.
    key: random key of (seed, step). A row's own key derives from it by prompt id, mode and sample,
      so a row's tokens depend neither on its place in the batch nor on the other rows.
    limits: `[B, M, G]` int32, longest response of each row, from 1 to `T`; `None` means `T`.
    dials: of the choice of mode and the length of thoughts. Log-probabilities stay the policy's.
    mesh: mesh of the parameters, needed only while they are traced.
    clock: stopwatch for "prefill" and "decode"; without it, the call returns before they finish.

  Returns:
    `Rollouts`, `[B, M, G, T]`, of policy version 0.
  """
  b, mesh = prompts.tokens.shape[0], mesh or _mesh_of(params)
  config = policy.as_laid_out(config, params)
  spec = dataclasses.replace(
    spec,
    temperature=jnp.float32(spec.temperature),
    top_p=jnp.float32(spec.top_p),
    top_k=jnp.int32(spec.top_k),
  )
  if limits is None:
    limits = np.full((b, spec.modes, spec.samples), spec.max_tokens, np.int32)
  # Devices take equal shares: prompts are repeated to fill the last, and their responses dropped.
  fill = np.arange(-(-b // _shards(mesh)) * _shards(mesh)) % b
  dials = dials and dials.by_row((b, spec.modes, spec.samples))
  batch, limits, dials = jax.tree.map(
    lambda x: x if len(fill) == b else x[fill], (prompts, limits, dials)
  )

  def timed(name: str, run: Callable[[], Any]) -> Any:
    if clock is None:
      return run()
    with clock.time(name):
      return jax.block_until_ready(run())

  last, prefix = timed("prefill", lambda: prefill_over(config, mesh, params, batch))
  rows = _PromptRows(last, prefix, batch.ids, limits, dials)
  decoded = timed("decode", lambda: _decode(config, mesh, spec, params, rows, key))
  return Rollouts(
    prompts=prompts,
    policy_version=jnp.int32(0),
    **{name: x if len(fill) == b else x[:b] for name, x in decoded.items()},
  )


class _PromptRows(NamedTuple):
  """Prompts after prefill, with the limits of their responses.

  Attributes:
    last: `[B, d]` hidden state of each prompt's last token.
    prefix: the prompts' cache.
    ids: `[B]` int32, see `Prompts`.
    limits: `[B, M, G]` int32, longest response of each row.
    dials: see `Dials.by_row`.
  """

  last: Any
  prefix: Any
  ids: Any
  limits: Any
  dials: Any = None


@functools.partial(jax.jit, static_argnums=(0, 1))
def prefill_over(
  config: PolicyConfig, mesh: Mesh | None, params: policy.Params, prompts: Prompts
) -> tuple[Array, KVCache]:
  """Runs `prefill` on prompts sharded over the data axes of a mesh; jitted."""
  run = functools.partial(prefill, config)
  batch = _batch_axes(mesh)
  return _on_each_device(
    run, mesh, (PartitionSpec(), batch), (batch, _cache_axes(config, mesh))
  )(params, prompts)  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode(
  config: PolicyConfig, mesh: Mesh | None, spec: SamplerSpec, params: policy.Params,
  prompts: _PromptRows, key: Array,
) -> dict[str, Array]:  # fmt: skip
  # A policy split over devices communicates within each step.
  whole = mesh is None or mesh.size == _shards(mesh)
  run = functools.partial(_respond, config, () if whole else parallel.LOGICAL_RULES["batch"])
  everywhere, batch = PartitionSpec(), _batch_axes(mesh)
  rows = _PromptRows(batch, _cache_axes(config, mesh), batch, batch, batch)
  return _on_each_device(run, mesh, (everywhere, everywhere, rows, everywhere), batch)(
    spec, params, prompts, key
  )


def _respond(
  config: PolicyConfig, lockstep_axes: tuple[str, ...], spec: SamplerSpec, params: policy.Params,
  prompts: _PromptRows, key: Array,
) -> dict[str, Array]:  # fmt: skip
  """Decodes responses after prefill; returns the fields of `Rollouts` that decoding fills."""
  shape = (len(prompts.ids), spec.modes, spec.samples)
  t, per_prompt = spec.max_tokens, spec.modes * spec.samples
  n = shape[0] * per_prompt
  uniforms = row_uniforms(spec, prompts.ids, key)  # [T, N]
  limits = prompts.limits.reshape(n)

  settings = (spec.temperature, spec.top_p, spec.top_k)
  of_first = tuple(x[-1] if jnp.ndim(x) else x for x in settings)  # the mode is not known yet
  dials = jax.tree.map(lambda x: x.reshape(n), prompts.dials or Dials())

  def draw_first(logits: Array) -> tuple[Array, Array]:
    return sample_tokens(logits, uniforms[0], *of_first)

  def draw(
    logits: Array, index: Array, rows: Array, thinking: Array | None
  ) -> tuple[Array, Array, Array | None]:
    of_rows = (x[mode[rows]] if jnp.ndim(x) else x for x in settings)
    drawn, logprob = sample_tokens(logits, uniforms[index, rows], *of_rows)
    if thinking is None:
      return drawn, logprob, None
    token, thinking = inference.cut(drawn, index, thinking, dials.budget[rows], dials.closing)
    heat = spec.temperature[tags.THINK] if jnp.ndim(spec.temperature) else spec.temperature
    of_policy = jax.nn.log_softmax(logits / jnp.where(heat > 0, heat, 1.0))
    written = jnp.take_along_axis(of_policy, token[:, None], axis=1)[:, 0]
    return token, jnp.where(token == drawn, logprob, written), thinking

  def is_eos(tokens: Array) -> Array:
    return jnp.isin(tokens, jnp.array(spec.eos_ids, jnp.int32))

  def ends(tokens: Array, index: Array, rows: Array) -> Array:
    return is_eos(tokens) | (index + 1 >= limits[rows])

  logits = policy.next_token_logits(config, params, prompts.last)  # [B, V]
  token, logprob = _first_tokens(spec, shape, logits, of_first[0], dials, draw_first)
  think, no_think = (token == tag for tag in spec.opening)
  mode = jnp.where(think, 0, jnp.where(no_think, 1, 2))  # [N], the place in a setting by mode
  first = Responses(
    tokens=jnp.full((t, n), spec.pad_id, jnp.int32).at[0].set(token),
    logprobs=jnp.zeros((t, n), jnp.float32).at[0].set(logprob),
    steps=jnp.zeros((n,), jnp.int32),
  )
  rules = Rules(draw, ends, spec.pad_id, spec.slots, lockstep_axes)
  thinking = None if dials.budget is None else think
  done = decode(config, params, prompts.prefix, first, rules, thinking, early=think)

  is_end = is_eos(done.tokens)
  stopped = jnp.any(is_end & (jnp.arange(t)[:, None] < limits), axis=0)  # [N]
  lengths = jnp.where(stopped, jnp.argmax(is_end, axis=0).astype(jnp.int32) + 1, limits)
  return {
    "responses": done.tokens.T.reshape(*shape, t),
    "logprobs": done.logprobs.T.reshape(*shape, t),
    "lengths": lengths.reshape(shape),
    "finish_reason": jnp.where(stopped, STOPPED, LENGTH).astype(jnp.int32).reshape(shape),
    "decode_steps": jnp.maximum(done.steps, lengths - 1).reshape(shape),
  }


def _first_tokens(
  spec: SamplerSpec, shape: tuple[int, int, int], logits: Array, temperature: Array, dials: Dials,
  draw: Callable,
) -> tuple[Array, Array]:  # fmt: skip
  """Opening tags `[N]`, forced or chosen, with their log-probabilities under the policy.

  Args:
    spec: how to sample.
    shape: `B`, `M`, `G`.
    logits: `[B, V]` after the prompts.
    temperature: of the first token, a scalar.
    dials: arrays of `[N]`.
    draw: `draw(logits [N, V])` returns first tokens and their log-probabilities, `[N]`.
  """
  per_prompt = shape[1] * shape[2]
  prompt_of = jnp.repeat(jnp.arange(shape[0]), per_prompt)
  modes = np.tile(forced_modes(*shape[1:], spec.forced), shape[0])  # [N]
  token = jnp.array(spec.opening, jnp.int32)[np.maximum(modes, 0)]
  logprobs = jax.nn.log_softmax(logits / jnp.where(temperature > 0, temperature, 1.0))
  logprob = logprobs[prompt_of, token]
  if not (chosen := modes < 0).any():
    return token, logprob
  of_rows = logits[prompt_of]
  drawn, drawn_logprob = draw(inference.biased(of_rows, spec.opening, dials.tag_bias))
  if dials.tag_bias is not None or dials.threshold is not None:
    drawn = inference.decided(drawn, of_rows, spec.opening, dials.threshold)
    drawn_logprob = logprobs[prompt_of, drawn]
  return jnp.where(chosen, drawn, token), jnp.where(chosen, drawn_logprob, logprob)


def prefill(config: PolicyConfig, params: policy.Params, prompts: Prompts) -> tuple[Array, KVCache]:
  """Runs the prompts; returns hidden states `[B, d]` of their last tokens, and their cache."""
  return policy.prefill(config, params, prompts.tokens, prompts.lengths)


def row_uniforms(spec: SamplerSpec, prompt_ids: Array, key: Array) -> Array:
  """Returns one uniform number for every token of every row, `[T, N]`."""
  modes = jnp.arange(2) if spec.paired else jnp.array([_FREE])
  path = jnp.meshgrid(prompt_ids, modes, jnp.arange(spec.samples), indexing="ij")
  path = jnp.stack([x.reshape(-1) for x in path])  # [3, N]
  # A loop, since each copy of the generator takes a CPU half a second to compile.
  keys = jnp.broadcast_to(key, path.shape[1:])
  keys, _ = jax.lax.scan(lambda k, data: (jax.vmap(jax.random.fold_in)(k, data), None), keys, path)
  return jax.vmap(lambda k: jax.random.uniform(k, (spec.max_tokens,)), out_axes=1)(keys)


def _mesh_of(params: policy.Params) -> Mesh | None:
  """Returns the mesh of the parameters if it has several devices."""
  sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
  several = isinstance(sharding, NamedSharding) and sharding.mesh.size > 1
  return sharding.mesh if several else None


def _shards(mesh: Mesh | None) -> int:
  """Returns the number of parts that a batch is sharded into."""
  return math.prod(mesh.shape[axis] for axis in parallel.LOGICAL_RULES["batch"]) if mesh else 1


def _batch_axes(mesh: Mesh | None) -> PartitionSpec:
  return parallel.partition_spec(("batch",)) if mesh else PartitionSpec()


def _cache_axes(config: PolicyConfig, mesh: Mesh | None) -> KVCache:
  """Returns the sharding of the prompts' cache, by rows; stacked layers come before them."""
  batch = _batch_axes(mesh)
  rows = PartitionSpec(None, *batch) if config.scan_layers else batch
  return KVCache(rows, rows, batch)


def _on_each_device(fn: Callable, mesh: Mesh | None, in_axes, out_axes) -> Callable:
  """Returns `fn` applied to each device's share of the batch, without communication between shares.

  XLA partitions the policy over "tensor".
  """
  if mesh is None:
    return fn
  axes = set(parallel.LOGICAL_RULES["batch"])
  return jax.shard_map(
    fn, mesh=mesh, in_specs=in_axes, out_specs=out_axes, axis_names=axes, check_vma=False
  )

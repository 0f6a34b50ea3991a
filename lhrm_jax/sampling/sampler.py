"""Paired rollouts: both modes of every prompt from one prefill, in one compiled program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax import policy
from lhrm_jax.policy import KVCache, PolicyConfig
from lhrm_jax.sampling.rollouts import LENGTH, STOPPED, Prompts, Rollouts
from lhrm_jax.sampling.tokens import sample_tokens
from lhrm_jax.text import TagIds, Tokenizer

# The place of free sampling beside the modes THINK and NO_THINK in a row's random key.
_FREE = 2


@dataclasses.dataclass(frozen=True)
class SamplerSpec:
  """What is compiled into a sampler.

  Attributes:
    samples: responses per mode, `G`.
    max_tokens: longest response `T`, tag and end of sequence included.
    paired: force `<think>` on `G` responses and `<no_think>` on `G` more; else the policy chooses.
    opening: ids of the two opening tags.
    eos_ids: ids that end a response.
    pad_id: written beyond a response's end.
  """

  samples: int
  max_tokens: int
  paired: bool
  opening: tuple[int, int]
  eos_ids: tuple[int, ...]
  pad_id: int

  @classmethod
  def of(
    cls, tokenizer: Tokenizer, *, samples: int, max_tokens: int, paired: bool
  ) -> "SamplerSpec":
    """The spec for a tokenizer's tags and end of sequence."""
    tags: TagIds = tokenizer.tag_ids
    return cls(samples, max_tokens, paired, tags.opening, tokenizer.eos_ids, tokenizer.pad_id)

  @property
  def modes(self) -> int:
    return 2 if self.paired else 1


@functools.partial(jax.jit, static_argnums=(0, 1))
def sample(
  config: PolicyConfig,
  spec: SamplerSpec,
  params: policy.Params,
  prompts: Prompts,
  key: Array,
  *,
  temperature: Array | float = 1.0,
  top_p: Array | float = 1.0,
  top_k: Array | int = 0,
  policy_version: Array | int = 0,
) -> Rollouts:
  """Samples `G` responses per prompt and mode.

  The prompt runs through the policy once; its keys and values are stored once, and all `M * G` rows
  of the prompt read them there.

  Args:
    config: static.
    spec: static.
    params: the policy's.
    prompts: `B` prompts.
    key: of (seed, step). A row's own key comes from it by prompt id, mode and sample, so a row's
      tokens depend neither on its place in the batch nor on the other rows.
    temperature: 0 is greedy.
    top_p: see `sample_tokens`.
    top_k: see `sample_tokens`.
    policy_version: recorded.

  Returns:
    `Rollouts`, `[B, M, G, T]`.
  """
  b = prompts.tokens.shape[0]
  rows_per_prompt = spec.modes * spec.samples
  n, t = b * rows_per_prompt, spec.max_tokens
  uniforms = row_uniforms(spec, prompts.ids, key)  # [T, N]
  draw = functools.partial(
    sample_tokens, temperature=jnp.float32(temperature), top_p=top_p, top_k=top_k
  )

  with jax.named_scope("prefill"):
    hidden, prefix = prefill(config, params, prompts)
    logits = policy.next_token_logits(config, params, hidden)  # [B, V]
    logits = jnp.repeat(logits, rows_per_prompt, axis=0)  # [N, V]
  first, first_logprobs = draw(logits, uniforms[0])
  if spec.paired:
    forced = jnp.tile(jnp.repeat(jnp.array(spec.opening, jnp.int32), spec.samples), b)
    temperature_or_one = jnp.where(jnp.asarray(temperature) > 0, temperature, 1.0)
    logprobs = jax.nn.log_softmax(logits / temperature_or_one)
    first, first_logprobs = forced, jnp.take_along_axis(logprobs, forced[:, None], axis=1)[:, 0]

  start = jnp.repeat(prompts.lengths, rows_per_prompt)  # [N] position of the first response token
  responses = jnp.full((t, n), spec.pad_id, jnp.int32).at[0].set(first)
  logprobs = jnp.zeros((t, n), jnp.float32).at[0].set(first_logprobs)
  done = _is_eos(spec, first)
  cache = policy.cache.empty(config, n, t - 1)

  def unfinished(state) -> Array:
    step, *_, done, _ = state
    return (step < t) & ~jnp.all(done)

  def decode(state):
    step, token, responses, logprobs, lengths, done, cache = state
    hidden, new = policy.apply(
      config, params, token[:, None], start[:, None] + step - 1, context=(prefix, cache)
    )
    cache = policy.cache.append(cache, new, step - 1)
    logits = policy.next_token_logits(config, params, hidden[:, 0])
    token, logprob = draw(logits, jax.lax.dynamic_index_in_dim(uniforms, step, keepdims=False))
    token = jnp.where(done, spec.pad_id, token)
    responses = jax.lax.dynamic_update_index_in_dim(responses, token, step, 0)
    logprobs = jax.lax.dynamic_update_index_in_dim(logprobs, jnp.where(done, 0.0, logprob), step, 0)
    lengths = lengths + ~done
    return step + 1, token, responses, logprobs, lengths, done | _is_eos(spec, token), cache

  state = (jnp.int32(1), first, responses, logprobs, jnp.ones(n, jnp.int32), done, cache)
  with jax.named_scope("decode"):
    _, _, responses, logprobs, lengths, done, _ = jax.lax.while_loop(unfinished, decode, state)

  shape = (b, spec.modes, spec.samples)
  return Rollouts(
    prompts=prompts,
    responses=responses.T.reshape(*shape, t),
    lengths=lengths.reshape(shape),
    logprobs=logprobs.T.reshape(*shape, t),
    finish_reason=jnp.where(done, STOPPED, LENGTH).astype(jnp.int32).reshape(shape),
    policy_version=jnp.int32(policy_version),
  )


def prefill(config: PolicyConfig, params: policy.Params, prompts: Prompts) -> tuple[Array, KVCache]:
  """Runs the prompts: hidden state `[B, d]` of each one's last token, and their cache."""
  b, p = prompts.tokens.shape
  positions = jnp.broadcast_to(jnp.arange(p, dtype=jnp.int32), (b, p))
  segment_ids = (positions < prompts.lengths[:, None]).astype(jnp.int32)
  hidden, prefix = policy.apply(config, params, prompts.tokens, positions, segment_ids)
  last = jnp.take_along_axis(hidden, (prompts.lengths - 1)[:, None, None], axis=1)[:, 0]
  return last, prefix


def row_uniforms(spec: SamplerSpec, prompt_ids: Array, key: Array) -> Array:
  """One uniform number for every token of every row, `[T, N]`."""
  modes = jnp.arange(2) if spec.paired else jnp.array([_FREE])

  def of_row(prompt_id: Array, mode: Array, sample_index: Array) -> Array:
    row_key = jax.random.fold_in(key, prompt_id)
    row_key = jax.random.fold_in(jax.random.fold_in(row_key, mode), sample_index)
    return jax.random.uniform(row_key, (spec.max_tokens,))

  over_samples = jax.vmap(of_row, in_axes=(None, None, 0))
  over_modes = jax.vmap(over_samples, in_axes=(None, 0, None))
  over_prompts = jax.vmap(over_modes, in_axes=(0, None, None))
  uniforms = over_prompts(prompt_ids, modes, jnp.arange(spec.samples))  # [B, M, G, T]
  return uniforms.reshape(-1, spec.max_tokens).T


def _is_eos(spec: SamplerSpec, tokens: Array) -> Array:
  return jnp.isin(tokens, jnp.array(spec.eos_ids, jnp.int32))

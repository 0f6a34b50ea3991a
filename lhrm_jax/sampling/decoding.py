"""The decoding loop: rows that finish leave, and attention reads the filled part of the cache.

All rows start together, so at any step they have as many tokens, and each writes its new key to the
same slot. Two ladders of shapes, known when the program is compiled, make it follow the work that is
left:

- Stages of slots. Once the live rows fit into the next, smaller stage, they move there, in order,
  with their caches; what they hold is all they need, so nothing in their results changes.
- Blocks of cache. A stage runs as one loop per block: the first reads one block of cached keys, the
  second two. A block that is not yet reached is not read.

It is a cascade of loops in one program: no step waits for the host, and each device of a mesh goes
through it by itself. Prompts are never copied. The caches of all rows of a prompt, of both modes, go
on reading the one copy of it (`Readers`).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax import policy
from lhrm_jax.policy import KVCache, PolicyConfig
from lhrm_jax.policy.cache import Readers

# Slots of the stages, in eighths of all rows: fine where many slots could idle, coarse where few can.
_STAGES = (8, 6, 4, 3, 2, 1)
# A stage below this many slots would save less than moving costs.
_LEAST_SLOTS = 8
_BLOCKS = 4
_LEAST_BLOCK = 32

# Logits `[S, V]`, the index of the token in its response, and row indices `[S]`, to tokens and their
# log-probabilities `[S]`.
Draw = Callable[[Array, Array, Array], tuple[Array, Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Responses:
  """Responses of `N` rows, time first, as decoding writes them.

  Attributes:
    tokens: `[T, N]` int32, padding where there is none.
    logprobs: `[T, N]` float32, 0 there.
    steps: `[N]` int32, decoding steps in which the row held a slot.
  """

  tokens: Array
  logprobs: Array
  steps: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
  """Of `S` slots.

  Attributes:
    step: int32 scalar, index in the response of the token to be drawn next.
    rows: `[S]` int32, the row in each slot.
    token: `[S]` int32, drawn last.
    done: `[S]` bool.
    blocks: the rows' caches, in the order of their tokens.
    responses: of all `N` rows.
  """

  step: Array
  rows: Array
  token: Array
  done: Array
  blocks: tuple[KVCache, ...]
  responses: Responses


def stages(rows: int) -> list[int]:
  """Slots of each stage of decoding, from all `rows` downwards."""
  sizes = {-(-rows * eighths // 8) for eighths in _STAGES}
  return sorted((s for s in sizes if s == rows or s >= _LEAST_SLOTS), reverse=True)


def blocks(slots: int) -> list[int]:
  """Sizes of the blocks that a cache of `slots` slots per row is cut into."""
  size = max(_LEAST_BLOCK, -(-slots // _BLOCKS))
  return [min(size, slots - start) for start in range(0, slots, size)]


def decode(
  config: PolicyConfig,
  params: policy.Params,
  prefix: KVCache,
  first: Responses,
  limits: Array,
  draw: Draw,
  is_eos: Callable[[Array], Array],
  pad_id: int,
) -> Responses:
  """Continues every row from its first token until it ends or reaches its limit.

  Args:
    config: static.
    params: the policy's.
    prefix: the `B` prompts' cache; `N / B` consecutive rows answer each.
    first: with token 0 of every row.
    limits: `[N]` int32, longest response of each row, from 1 to `T`.
    draw: the sampler.
    is_eos: which of the tokens `[S]` end a response.
    pad_id: written beyond a response's end.
  """
  t, n = first.tokens.shape
  shared = n // prefix.rows
  sizes = blocks(t - 1)
  ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
  start = jnp.repeat(prefix.lengths, shared)  # [N] position of the first response token
  slots = stages(n)

  def ends_with(token: Array, step: Array, rows: Array) -> Array:
    return is_eos(token) | (step + 1 >= limits[rows])

  def step_in(block: int, context: tuple[KVCache, ...], state: _State) -> _State:
    """One token for every slot; `context` is what lies before the block being filled."""
    filling, responses = state.blocks[block], state.responses
    positions = start[state.rows] + state.step - 1
    hidden, new = policy.apply(
      config, params, state.token[:, None], positions[:, None], context=(*context, filling)
    )
    logits = policy.next_token_logits(config, params, hidden[:, 0])
    token, logprob = draw(logits, state.step, state.rows)
    # No token is negative, but the compiler does not know it: the slot written now depends on what
    # was drawn, so all reading comes before, and the cache is written in place. Else every step
    # copies it.
    slot = state.step - 1 - (ends[block] - sizes[block]) + jnp.any(token < 0)
    filling = policy.cache.append(filling, new, slot)

    token = jnp.where(state.done, pad_id, token)
    logprob = jnp.where(state.done, 0.0, logprob)
    responses = Responses(
      responses.tokens.at[state.step, state.rows].set(token),
      responses.logprobs.at[state.step, state.rows].set(logprob),
      responses.steps,
    )
    return _State(
      state.step + 1,
      state.rows,
      token,
      state.done | ends_with(token, state.step, state.rows),
      (*state.blocks[:block], filling, *state.blocks[block + 1 :]),
      responses,
    )

  def run(stage: int, state: _State) -> Responses:
    """Decodes from a stage on."""
    context = _read_by(prefix, state.rows, n) if stage else prefix
    fits = slots[stage + 1] if stage + 1 < len(slots) else 0
    began = state.step
    for i, end in enumerate(ends):

      def goes_on(state: _State, end: int = end) -> Array:
        return (state.step <= end) & (jnp.sum(~state.done) > fits)

      def step(state: _State, i: int = i) -> _State:
        return step_in(i, (context, *state.blocks[:i]), state)

      state = jax.lax.while_loop(goes_on, step, state)
    responses = state.responses
    steps = responses.steps.at[state.rows].add(state.step - began)
    state = dataclasses.replace(state, responses=dataclasses.replace(responses, steps=steps))
    if stage + 1 == len(slots):
      return state.responses
    return jax.lax.cond(
      (state.step < t) & jnp.any(~state.done),
      lambda state: run(stage + 1, _move(state, slots[stage + 1])),
      lambda state: state.responses,
      state,
    )

  rows = jnp.arange(n, dtype=jnp.int32)
  state = _State(
    jnp.int32(1), rows, first.tokens[0], ends_with(first.tokens[0], jnp.int32(0), rows),
    tuple(policy.cache.empty(config, n, size) for size in sizes), first,
  )  # fmt: skip
  with jax.named_scope("decode"):
    return run(0, state)


def _move(state: _State, slots: int) -> _State:
  """The live rows, in order, into `slots` slots; finished ones fill up."""
  kept = jnp.argsort(state.done, stable=True)[:slots]
  return dataclasses.replace(
    state,
    rows=state.rows[kept],
    token=state.token[kept],
    done=state.done[kept],
    blocks=tuple(policy.cache.take(block, kept) for block in state.blocks),
  )


def _read_by(prefix: KVCache, rows: Array, n: int) -> KVCache:
  """The prompts, read by slots that hold these of the `n` rows."""
  slot_of = jnp.zeros(n, jnp.int32).at[rows].set(jnp.arange(rows.shape[0], dtype=jnp.int32))
  return dataclasses.replace(prefix, readers=Readers(slot_of.reshape(prefix.rows, -1), rows))

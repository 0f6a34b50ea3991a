"""The decoding loop: rows that finish leave, and attention reads the filled part of the cache.

All rows start together, so at any step they have as many tokens, and each writes its new key to the
same slot. Two ladders of shapes, known when the program is compiled, follow the work that is left:

- Stages of slots. As soon as the live rows fit into half the slots, they move there with their
  caches, in order. What they hold is all they need, so nothing in their results changes.
- Blocks of cache. A stage is one loop per block: the first reads one block of cached keys, the
  second two. A block that is not reached yet is not read. The fewer slots, the fewer blocks: there
  is less to save, and every loop is compiled apart.

It is a cascade of loops in one program: no step waits for the host, and each device of a mesh goes
through it by itself. Prompts are never moved: the rows of a prompt, wherever they are, go on
reading the one copy of its cache (`Readers`).
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax import policy
from lhrm_jax.policy import KVCache, PolicyConfig
from lhrm_jax.policy.cache import Readers

_STAGES = 4
# A stage with fewer slots would save less than moving costs; so would a block.
_LEAST_SLOTS = 8
_BLOCKS = 4
_LEAST_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class Rules:
  """What decoding does with each token.

  Attributes:
    draw: `draw(logits [S, V], step, rows [S])` gives tokens and their log-probabilities, `[S]`;
      `step` is the tokens' index in their responses.
    ends: `ends(tokens [S], step, rows [S])`, `[S]` bool, which of them end their response.
    pad_id: written beyond a response's end.
    lockstep_axes: manual mesh axes along which all devices take the same number of steps: that of
      the one with most to do. Needed where a step itself communicates, as a policy in parts does:
      devices that leave such a loop early would be waited for, forever.
  """

  draw: Callable[[Array, Array, Array], tuple[Array, Array]]
  ends: Callable[[Array, Array, Array], Array]
  pad_id: int
  lockstep_axes: tuple[str, ...] = ()

  def live(self, done: Array) -> Array:
    """Live slots; of the device with most, where devices stay in step."""
    count = jnp.sum(~done)
    return jax.lax.pmax(count, self.lockstep_axes) if self.lockstep_axes else count


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
  """Slots of each stage of decoding: all `rows`, then half as many from stage to stage."""
  sizes = [-(-rows // 2**stage) for stage in range(_STAGES)]
  return sizes[:1] + [size for size in sizes[1:] if size >= _LEAST_SLOTS]


def blocks(slots: int, stage: int) -> list[int]:
  """Sizes of the blocks that a row's `slots` slots are cut into at a stage."""
  size = max(_LEAST_BLOCK, -(-slots // _BLOCKS)) * 2**stage
  return [min(size, slots - start) for start in range(0, slots, size)]


def decode(
  config: PolicyConfig, params: policy.Params, prefix: KVCache, first: Responses, rules: Rules
) -> Responses:
  """Continues every row from its first token until it ends.

  Args:
    config: static.
    params: the policy's.
    prefix: the `B` prompts' cache; `N / B` consecutive rows answer each.
    first: with token 0 of every row.
    rules: which tokens are drawn, and which end a row. None goes beyond `T`.
  """
  t, n = first.tokens.shape
  if t == 1:
    return first
  start = jnp.repeat(prefix.lengths, n // prefix.rows)  # [N] position of the first response token
  slots = stages(n)
  one_token = functools.partial(_one_token, config, params, start, rules)

  def run(stage: int, state: _State) -> Responses:
    """Decodes from a stage on."""
    prompts = _read_by(prefix, state.rows, n) if stage else prefix
    fits = slots[stage + 1] if stage + 1 < len(slots) else 0
    began, end = state.step, 0
    for block, size in enumerate(blocks(t - 1, stage)):
      begin, end = end, end + size

      def more(state: _State, end: int = end) -> Array:
        return (state.step <= end) & (rules.live(state.done) > fits)

      step = functools.partial(one_token, prompts, (block, begin))
      state = jax.lax.while_loop(more, step, state)
    responses = state.responses
    steps = responses.steps.at[state.rows].add(state.step - began)
    state = dataclasses.replace(state, responses=dataclasses.replace(responses, steps=steps))
    if stage + 1 == len(slots):
      return state.responses
    # No branch where none is live: what a branch reads stays in memory until it ends, and these
    # are the caches that moving frees. Then nothing is moved, and no loop makes a turn.
    return run(stage + 1, _move(state, slots[stage + 1], blocks(t - 1, stage + 1)))

  rows = jnp.arange(n, dtype=jnp.int32)
  state = _State(
    jnp.int32(1), rows, first.tokens[0], rules.ends(first.tokens[0], jnp.int32(0), rows),
    tuple(policy.cache.empty(config, n, size) for size in blocks(t - 1, 0)), first,
  )  # fmt: skip
  with jax.named_scope("decode"):
    return run(0, state)


def _one_token(
  config: PolicyConfig, params: policy.Params, start: Array, rules: Rules, prompts: KVCache,
  place: tuple[int, int], state: _State,
) -> _State:  # fmt: skip
  """One token for every slot.

  Args:
    config: of the policy.
    params: of the policy.
    start: `[N]` position of each row's first response token.
    rules: see `decode`.
    prompts: read by the rows in the slots.
    place: the block that the new keys go into, and the slot it begins with.
    state: before.
  """
  (block, begin), responses = place, state.responses
  filling = state.blocks[block]
  context = (prompts, *state.blocks[:block], filling)
  positions = start[state.rows] + state.step - 1
  hidden, new = policy.apply(
    config, params, state.token[:, None], positions[:, None], context=context
  )
  logits = policy.next_token_logits(config, params, hidden[:, 0])
  token, logprob = rules.draw(logits, state.step, state.rows)
  # No token is negative, but the compiler does not know it: the slot written now depends on what
  # was drawn, so all reading comes before, and the cache is written in place. Else every step
  # copies it.
  slot = state.step - 1 - begin + jnp.any(token < 0)
  filling = policy.cache.append(filling, new, slot)

  token = jnp.where(state.done, rules.pad_id, token)
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
    state.done | rules.ends(token, state.step, state.rows),
    (*state.blocks[:block], filling, *state.blocks[block + 1 :]),
    responses,
  )


def _move(state: _State, slots: int, sizes: list[int]) -> _State:
  """The live rows, in order, in `slots` slots and blocks of these sizes; finished ones fill up."""
  kept = jnp.argsort(state.done, stable=True)[:slots]
  count = jnp.sum(~state.done)
  per_block = -(-len(state.blocks) // len(sizes))
  return dataclasses.replace(
    state,
    rows=state.rows[kept],
    token=state.token[kept],
    done=state.done[kept],
    blocks=tuple(
      policy.cache.pack(state.blocks[i : i + per_block], kept, count)
      for i in range(0, len(state.blocks), per_block)
    ),
  )


def _read_by(prefix: KVCache, rows: Array, n: int) -> KVCache:
  """The prompts, read by slots that hold these of the `n` rows."""
  slot_of = jnp.zeros(n, jnp.int32).at[rows].set(jnp.arange(rows.shape[0], dtype=jnp.int32))
  return dataclasses.replace(prefix, readers=Readers(slot_of.reshape(prefix.rows, -1), rows))

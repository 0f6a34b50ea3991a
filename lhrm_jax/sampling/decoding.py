"""The decoding loop: finished rows leave, and attention reads only the filled part of the cache.

All rows start together, so at any step they have equally many tokens, and all write their new keys
to the same slot. Two static ladders of shapes follow the remaining work:

- Stages of slots. As soon as the live rows fit into half the slots, they move there with their
  caches, in order. Their results do not change.
- Blocks of cache. A stage is one loop per block: the first reads one block of cached keys, the
  second two, so that unfilled blocks are never read. Fewer slots have fewer blocks: there is less
  to save, and every loop is compiled separately.

It is a cascade of loops in one program: no step waits for the host, and each device of a mesh runs
through it independently. Prompts never move: all rows of a prompt, wherever they are, read the one
copy of its cache (`Readers`).
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
# With fewer slots, a stage or a block would save less than it costs.
_LEAST_SLOTS = 8
_BLOCKS = 4
_LEAST_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class Rules:
  """What decoding does with each token.

  Attributes:
    draw: `draw(logits [S, V], step, rows [S], thinking [S])` returns tokens, their
      log-probabilities, and which rows are still thinking, `[S]`; `step` is the tokens' index in
      their responses, and `thinking` is `None` where `decode` was given none.
    ends: `ends(tokens [S], step, rows [S])` returns `[S]` bool, which tokens end their response.
    pad_id: id that fills the slots after a response.
    lockstep_axes: manual mesh axes along which all devices take as many steps as the one with the
      most to do. Needed where a step communicates, as it does for a policy split over devices: the
      others would wait forever for a device that leaves the loop early.
  """

  draw: Callable[[Array, Array, Array, Array | None], tuple[Array, Array, Array | None]]
  ends: Callable[[Array, Array, Array], Array]
  pad_id: int
  lockstep_axes: tuple[str, ...] = ()

  def live(self, done: Array) -> Array:
    """Returns the number of live slots; with lockstep, that of the device with the most."""
    count = jnp.sum(~done)
    return jax.lax.pmax(count, self.lockstep_axes) if self.lockstep_axes else count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Responses:
  """Responses of `N` rows, time first, as decoding writes them.

  Attributes:
    tokens: `[T, N]` int32, padded.
    logprobs: `[T, N]` float32, 0 at padding.
    steps: `[N]` int32, decoding steps in which the row held a slot.
  """

  tokens: Array
  logprobs: Array
  steps: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
  """State of `S` slots.

  Attributes:
    step: int32 scalar, index in the response of the next token.
    rows: `[S]` int32, row in each slot.
    token: `[S]` int32, last token drawn.
    done: `[S]` bool, whether the row has finished.
    blocks: caches of the rows, in the order of their tokens.
    responses: responses of all `N` rows.
    thinking: `[S]` bool, whether the row's thought is open; `None` where thoughts have no budget.
  """

  step: Array
  rows: Array
  token: Array
  done: Array
  blocks: tuple[KVCache, ...]
  responses: Responses
  thinking: Array | None


def stages(rows: int) -> list[int]:
  """Returns the slots of each stage of decoding: all `rows`, halved from stage to stage."""
  sizes = [-(-rows // 2**stage) for stage in range(_STAGES)]
  return sizes[:1] + [size for size in sizes[1:] if size >= _LEAST_SLOTS]


def blocks(slots: int, stage: int) -> list[int]:
  """Returns the sizes of the blocks that a row's `slots` slots are split into at a stage."""
  size = max(_LEAST_BLOCK, -(-slots // _BLOCKS)) * 2**stage
  return [min(size, slots - start) for start in range(0, slots, size)]


def decode(
  config: PolicyConfig, params: policy.Params, prefix: KVCache, first: Responses, rules: Rules,
  thinking: Array | None = None,
) -> Responses:  # fmt: skip
  """Continues every row from its first token until it ends.

  Args:
    config: static part of the policy.
    params: parameters of the policy.
    prefix: cache of the `B` prompts; `N / B` consecutive rows answer each.
    first: responses that hold token 0 of every row.
    rules: how tokens are drawn, and which end a row; no row exceeds `T` tokens.
    thinking: `[N]` bool, rows whose thought is open; `None` where thoughts have no budget.
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
    # No branch for the case that no row is live: a branch keeps its operands in memory to its end,
    # and these are the caches that moving frees. Without live rows nothing moves and no loop
    # iterates.
    return run(stage + 1, _move(state, slots[stage + 1], blocks(t - 1, stage + 1)))

  rows = jnp.arange(n, dtype=jnp.int32)
  state = _State(
    jnp.int32(1), rows, first.tokens[0], rules.ends(first.tokens[0], jnp.int32(0), rows),
    tuple(policy.cache.empty(config, n, size) for size in blocks(t - 1, 0)), first,
    thinking,
  )  # fmt: skip
  with jax.named_scope("decode"):
    return run(0, state)


def _one_token(
  config: PolicyConfig, params: policy.Params, start: Array, rules: Rules, prompts: KVCache,
  place: tuple[int, int], state: _State,
) -> _State:  # fmt: skip
  """Draws one token for every slot.

  Args:
    config: static part of the policy.
    params: parameters of the policy.
    start: `[N]` position of each row's first response token.
    rules: see `decode`.
    prompts: cache of the prompts, as read by the rows in the slots.
    place: block that the new keys are written to, and its first slot.
    state: state before the token.
  """
  (block, begin), responses = place, state.responses
  filling = state.blocks[block]
  context = (prompts, *state.blocks[:block], filling)
  positions = start[state.rows] + state.step - 1
  hidden, new = policy.apply(
    config, params, state.token[:, None], positions[:, None], context=context
  )
  logits = policy.next_token_logits(config, params, hidden[:, 0])
  token, logprob, thinking = rules.draw(logits, state.step, state.rows, state.thinking)
  # Tokens are never negative, but the compiler cannot know it: the slot to write depends on the
  # token drawn, so all reads come before the write and the cache is updated in place. Otherwise
  # every step would copy it.
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
    thinking,
  )


def _move(state: _State, slots: int, sizes: list[int]) -> _State:
  """Moves the live rows, in order, to `slots` slots and blocks of `sizes`, padded with others."""
  kept = jnp.argsort(state.done, stable=True)[:slots]
  count = jnp.sum(~state.done)
  per_block = -(-len(state.blocks) // len(sizes))
  return dataclasses.replace(
    state,
    rows=state.rows[kept],
    token=state.token[kept],
    done=state.done[kept],
    thinking=None if state.thinking is None else state.thinking[kept],
    blocks=tuple(
      policy.cache.pack(state.blocks[i : i + per_block], kept, count)
      for i in range(0, len(state.blocks), per_block)
    ),
  )


def _read_by(prefix: KVCache, rows: Array, n: int) -> KVCache:
  """Returns the prompts' cache as read by slots that hold `rows` of the `n` rows."""
  slot_of = jnp.zeros(n, jnp.int32).at[rows].set(jnp.arange(rows.shape[0], dtype=jnp.int32))
  return dataclasses.replace(prefix, readers=Readers(slot_of.reshape(prefix.rows, -1), rows))

"""The decoding loop: ended rows leave, waiting rows take their slots, and little else moves.

Every step draws a token for each of `S` slots. The rows of a prompt, in whichever slots, read the
one copy of its cache (`Readers`). Two static ladders of shapes follow the remaining work:

- Stages of slots. As soon as no row waits and the live rows fit into half the slots, they move
  there with their caches, in order. Their results change by rounding at most.
- Blocks of cache. A stage is one loop per block: the first reads one block of cached keys, the
  second two, so that unfilled blocks are never read. Fewer slots have fewer blocks: there is less
  to save, and every loop is compiled separately.

It is a cascade of loops in one program: no step waits for the host, and each device of a mesh runs
through it independently.

With fewer slots than rows, the first stage refills: a slot whose row has ended takes the next one
in the same step. Nothing moves, because a step writes the new keys of all slots to one column of
the cache, whatever the lengths of their rows, and a slot attends to the columns written since it
took its row. The column written longest ago is the next one to write, unless a live row attends to
it: then one more block is needed.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax import policy
from lhrm_jax.config import MOST_ROWS, knob, whole
from lhrm_jax.policy import KVCache, PolicyConfig
from lhrm_jax.policy.cache import Readers

_STAGES = 4
# With fewer slots, a stage or a block would save less than it costs.
_LEAST_SLOTS = 8
_BLOCKS = 4
_LEAST_BLOCK = 64
_NEVER = -1


@dataclasses.dataclass(frozen=True)
class Rules:
  """What decoding does with each token.

  Attributes:
    draw: `draw(logits [S, V], index [S], rows [S], thinking [S])` returns tokens, their
      log-probabilities, and which rows are still thinking, `[S]`; `index` is the tokens' index in
      their responses, and `thinking` is `None` where `decode` was given none.
    ends: `ends(tokens [S], index [S], rows [S])` returns `[S]` bool, which tokens end their
      response.
    pad_id: id that fills the slots after a response.
    slots: rows decoded at a time; 0 for all.
    lockstep_axes: manual mesh axes along which all devices take as many steps as the one with the
      most to do. Needed where a step communicates, as it does for a policy split over devices: the
      others would wait forever for a device that leaves the loop early.
  """

  draw: Callable[[Array, Array, Array, Array | None], tuple[Array, Array, Array | None]]
  ends: Callable[[Array, Array, Array], Array]
  pad_id: int
  slots: int = 0
  lockstep_axes: tuple[str, ...] = ()

  def most(self, *counts: Array) -> Array:
    """Stacks the counts; with lockstep, those of the device with the most of each."""
    stacked = jnp.stack(counts)
    return jax.lax.pmax(stacked, self.lockstep_axes) if self.lockstep_axes else stacked


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Responses:
  """Responses of `N` rows, time first, as decoding writes them.

  Attributes:
    tokens: `[T, N]` int32, padded.
    logprobs: `[T, N]` float32, 0 at padding.
    steps: `[N]` int32, decoding steps in which the row held a slot; rows that another one replaced
      held it for as many as they have tokens after the first, and may have 0 here.
  """

  tokens: Array
  logprobs: Array
  steps: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Rows:
  """The `N` rows as they enter decoding.

  Attributes:
    start: `[N]` int32, position of the first token.
    token: `[N]` int32, first token.
    thinking: `[N]` bool, whether it opens a thought; `None` where thoughts have no budget.
    done: `[N]` bool, rows that end with it.
    queue: `[N]` int32, rows in the order in which they take slots; rows that are done come last.
    waiting: int32 scalar, length of the queue without those.
  """

  start: Array
  token: Array
  thinking: Array | None
  done: Array
  queue: Array
  waiting: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
  """State of `S` slots.

  Attributes:
    step: int32 scalar, decoding steps taken.
    rows: `[S]` int32, row in each slot.
    since: `[S]` int32, step in which the row took the slot.
    token: `[S]` int32, last token drawn.
    done: `[S]` bool, whether the row has ended.
    thinking: `[S]` bool, whether the row's thought is open; `None` where thoughts have no budget.
    taken: int32 scalar, rows taken from the queue.
    written: `[T - 1]` int32, step in which each column of the cache was written, or `_NEVER`.
    blocks: the columns, in order.
    responses: responses of all `N` rows.
  """

  step: Array
  rows: Array
  since: Array
  token: Array
  done: Array
  thinking: Array | None
  taken: Array
  written: Array
  blocks: tuple[KVCache, ...]
  responses: Responses

  @property
  def needed(self) -> Array:
    """Int32 scalar, the first step whose column a live row attends to."""
    return jnp.min(jnp.where(self.done, jnp.iinfo(jnp.int32).max, self.since))


def decode_slots() -> int:
  """The knob that bounds the slots."""
  return knob(
    0,
    whole(0, MOST_ROWS),
    "Responses that each copy of the policy decodes at a time, others taking over as they end; 0 "
    "for all at once. Bounds the memory of their keys and values.",
  )


def stages(slots: int) -> list[int]:
  """Returns the slots of each stage of decoding: `slots`, halved from stage to stage."""
  sizes = [-(-slots // 2**stage) for stage in range(_STAGES)]
  return sizes[:1] + [size for size in sizes[1:] if size >= _LEAST_SLOTS]


def blocks(columns: int, stage: int) -> list[int]:
  """Returns the sizes of the blocks that a cache's columns are split into at a stage."""
  size = max(_LEAST_BLOCK, -(-columns // _BLOCKS)) * 2**stage
  return [min(size, columns - start) for start in range(0, columns, size)]


def decode(
  config: PolicyConfig, params: policy.Params, prefix: KVCache, first: Responses, rules: Rules,
  thinking: Array | None = None, early: Array | bool = True,
) -> Responses:  # fmt: skip
  """Continues every row from its first token until it ends.

  Args:
    config: static part of the policy.
    params: parameters of the policy.
    prefix: cache of the `B` prompts; `N / B` consecutive rows answer each.
    first: responses that hold token 0 of every row.
    rules: how tokens are drawn, and which end a row; no row exceeds `T` tokens.
    thinking: `[N]` bool, rows whose thought is open; `None` where thoughts have no budget.
    early: `[N]` bool, rows that take slots before the others, best those that take longest.
  """
  t, n = first.tokens.shape
  if t == 1:
    return first
  slots = min(rules.slots or n, n)
  rows = _line_up(prefix, first, rules, thinking, early, slots)
  one_token = functools.partial(_one_token, config, params, rules, rows)
  ladder = stages(slots)

  def run(stage: int, state: _State) -> Responses:
    """Decodes from a stage on."""
    refills = slots < n and not stage
    prompts = _read_by(prefix, state.rows, n) if stage else prefix
    fits, end = (ladder[stage + 1] if stage + 1 < len(ladder) else 0), 0
    for block, size in enumerate(blocks(t - 1, stage)):
      end += size
      more = functools.partial(_suffice, rules, fits, end)
      # All rows begin together where none waits, and fill one block after the other.
      filling = range(block + 1) if slots < n else (block,)
      step = functools.partial(one_token, prompts, block, filling, refills)
      with jax.named_scope(f"stage_{stage}_block_{block}"):
        state = jax.lax.while_loop(more, step, state)
    responses = state.responses
    steps = responses.steps.at[state.rows].set(state.step - state.since)
    state = dataclasses.replace(state, responses=dataclasses.replace(responses, steps=steps))
    if stage + 1 == len(ladder):
      return state.responses
    # No branch for the case that no row is live: a branch keeps its operands in memory to its end,
    # and these are the caches that moving frees. Without live rows nothing moves and no loop
    # iterates.
    return run(stage + 1, _move(state, ladder[stage + 1], blocks(t - 1, stage + 1)))

  taken = rows.queue[:slots]
  state = _State(
    jnp.int32(0), taken, jnp.zeros((slots,), jnp.int32), rows.token[taken], rows.done[taken],
    None if thinking is None else thinking[taken], jnp.int32(slots),
    jnp.full((t - 1,), _NEVER, jnp.int32),
    tuple(policy.cache.empty(config, slots, size) for size in blocks(t - 1, 0)), first,
  )  # fmt: skip
  with jax.named_scope("decode"):
    return run(0, state)


def _line_up(
  prefix: KVCache, first: Responses, rules: Rules, thinking: Array | None, early: Array,
  slots: int,
) -> _Rows:  # fmt: skip
  """The rows and their queue, in order where all get slots at once."""
  token, n = first.tokens[0], first.tokens.shape[1]
  every = jnp.arange(n, dtype=jnp.int32)
  done = rules.ends(token, jnp.zeros((n,), jnp.int32), every)
  queue = jnp.argsort(jnp.where(done, 2, ~early)).astype(jnp.int32) if slots < n else every
  start = jnp.repeat(prefix.lengths, n // prefix.rows)
  return _Rows(start, token, thinking, done, queue, jnp.sum(~done))


def _suffice(rules: Rules, fits: int, end: int, state: _State) -> Array:
  """Whether more rows are live than fit into the next stage, and `end` columns suffice for them.

  They do if no live row attends to columns beyond, nor to all of these.
  """
  needed = state.written >= state.needed
  short = jnp.all(needed[:end]) | jnp.any(needed[end:])
  live, short = rules.most(jnp.sum(~state.done), short.astype(jnp.int32))
  return (live > fits) & (short == 0)


def _one_token(
  config: PolicyConfig, params: policy.Params, rules: Rules, rows: _Rows, prompts: KVCache,
  last: int, filling: Sequence[int], refills: bool, state: _State,
) -> _State:  # fmt: skip
  """Draws one token for every slot.

  Args:
    config: static part of the policy.
    params: parameters of the policy.
    rules: see `decode`.
    rows: all rows.
    prompts: cache of the prompts, as read by the rows in the slots, unless they may change.
    last: last block that is read.
    filling: blocks that the new keys may be written to.
    refills: whether waiting rows take the slots of those that end.
    state: state before the token.
  """
  sizes = [block.slots for block in state.blocks[: last + 1]]
  begins = [sum(sizes[:i]) for i in range(last + 1)]
  if refills:
    prompts = _read_by(prompts, state.rows, rows.start.shape[0])
  visible = state.written >= state.since[:, None]  # [S, T - 1]
  read = [
    dataclasses.replace(block, visible=visible[:, begin : begin + size])
    for block, begin, size in zip(state.blocks, begins, sizes, strict=False)
  ]
  index = state.step - state.since + 1
  positions = rows.start[state.rows] + index - 1
  hidden, new = policy.apply(
    config, params, state.token[:, None], positions[:, None], context=(prompts, *read)
  )
  logits = policy.next_token_logits(config, params, hidden[:, 0])
  token, logprob, thinking = rules.draw(logits, index, state.rows, state.thinking)
  # Tokens are never negative, but the compiler cannot know it: the column to write depends on the
  # token drawn, so all reads come before the write and the cache is updated in place. Otherwise
  # every step would copy it.
  column = jnp.argmin(state.written[: sum(sizes)]) + jnp.any(token < 0)
  blocks = list(state.blocks)
  for i in filling:
    at = column - begins[i]
    wanted = (at >= 0) & (at < sizes[i]) if len(filling) > 1 else None
    blocks[i] = policy.cache.append(blocks[i], new, at, wanted)

  token = jnp.where(state.done, rules.pad_id, token)
  logprob = jnp.where(state.done, 0.0, logprob)
  responses = Responses(
    state.responses.tokens.at[index, state.rows].set(token),
    state.responses.logprobs.at[index, state.rows].set(logprob),
    state.responses.steps,
  )
  state = dataclasses.replace(
    state,
    step=state.step + 1,
    token=token,
    done=state.done | rules.ends(token, index, state.rows),
    thinking=thinking,
    written=state.written.at[column].set(state.step),
    blocks=tuple(blocks),
    responses=responses,
  )
  return _refill(rows, state) if refills else state


def _refill(rows: _Rows, state: _State) -> _State:
  """Gives the slots of rows that have ended to those waiting."""
  turn = state.taken + jnp.cumsum(state.done) - 1  # place in the queue
  takes = state.done & (turn < rows.waiting)
  row = jnp.where(takes, rows.queue[turn], state.rows)
  thinking = state.thinking
  return dataclasses.replace(
    state,
    rows=row,
    since=jnp.where(takes, state.step, state.since),
    token=jnp.where(takes, rows.token[row], state.token),
    done=state.done & ~takes,
    thinking=None if thinking is None else jnp.where(takes, rows.thinking[row], thinking),
    taken=state.taken + jnp.sum(takes),
  )


def _move(state: _State, slots: int, sizes: list[int]) -> _State:
  """Moves the live rows, in order, to `slots` slots and blocks of `sizes`, padded with others."""
  kept = jnp.argsort(state.done, stable=True)[:slots]
  count = jnp.sum(~state.done)
  per_block = -(-len(state.blocks) // len(sizes))
  return dataclasses.replace(
    state,
    rows=state.rows[kept],
    since=state.since[kept],
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

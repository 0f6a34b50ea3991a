"""The engine's compiled programs: a page of prefill, a first token, steps of decoding, a swap.

Shapes are fixed: every step decodes all slots, and reads one of a few numbers of pages. A row's
tokens depend on nothing but its own request:

- Its random number is a function of its seed, its choice and the token's index.
- Attention runs over blocks of pages that are merged under one softmax. A block without tokens adds
  exact zeros, so it doesn't matter how many blocks are read for the sake of longer rows.
- Prompts run page by page, at fixed boundaries, whether or not their first pages were shared.

Speculation (https://arxiv.org/abs/2211.17192) changes none of this. A draft proposes tokens, and
one pass of the policy over them draws its own token at each place, with the random number that this
place has anyway; the draft has used the same. Proposals count as long as they are what the policy
draws, so a reply is the one that it would be without a draft, at any temperature and top-p
(https://arxiv.org/abs/2408.07978 calls this drafter-invariant).

`N` denotes rows, `C` tokens per page, `V` the vocabulary, `k` proposals.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax import policy
from lhrm_jax.policy import KVCache, PolicyConfig, pages
from lhrm_jax.policy.pages import PagePool
from lhrm_jax.sampling import mode_logprobs, sample_tokens
from lhrm_jax.sampling.dials import biased, cut, decided

MOST_TOPS = 20  # alternatives of a token whose log-probabilities a request may ask for
BLOCK_PAGES = 4  # pages of one block of attention
_LADDER = 2  # ratio of the numbers of blocks that programs are compiled for


@dataclasses.dataclass(frozen=True)
class Static:
  """What the programs are compiled for.

  Attributes:
    config: static part of the policy.
    opening: ids of the two opening tags.
    closing: ids written where a thought is cut, `</think>` last.
    page_tokens: tokens per page, `C`.
  """

  config: PolicyConfig
  opening: tuple[int, int]
  closing: tuple[int, ...]
  page_tokens: int


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["seeds", "steps", "temperature", "top_p", "top_k", "thinking", "budget", "tops"],
  meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Draws:
  """How the next token of each row is drawn.

  Attributes:
    seeds: `[N, 3]` uint32, low and high half of a request's seed, and the choice.
    steps: `[N]` int32, the token's index in its reply.
    temperature: `[N]` float32; 0 is greedy.
    top_p: `[N]` float32.
    top_k: `[N]` int32; 0 for none.
    thinking: `[N]` bool, whether the thought is open.
    budget: `[N]` int32, longest thought in tokens; 0 for none.
    tops: `[N]` bool, rows whose alternatives are wanted.
  """

  seeds: Array
  steps: Array
  temperature: Array
  top_p: Array
  top_k: Array
  thinking: Array
  budget: Array
  tops: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn:
  """The drawn tokens.

  Attributes:
    tokens: `[N]` int32.
    logprobs: `[N]` float32, of the policy at temperature 1.
    top_ids: `[N, MOST_TOPS]` int32, the most likely tokens; zeros where no row wants them.
    top_logprobs: `[N, MOST_TOPS]` float32.
  """

  tokens: Array
  logprobs: Array
  top_ids: Array
  top_logprobs: Array


def page_counts(most: int) -> list[int]:
  """The numbers of pages that programs read, the largest of them `most` rounded up to a block."""
  most = -(-most // BLOCK_PAGES) * BLOCK_PAGES
  found = [BLOCK_PAGES]
  while found[-1] < most:
    found.append(min(found[-1] * _LADDER, most))
  return found


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def prefill(
  static: Static, params: policy.Params, pool: PagePool, tokens: Array, place: Array, table: Array
) -> tuple[PagePool, Array]:
  """Runs one page of a prompt and writes its keys and values.

  Args:
    static: see `Static`.
    params: parameters of the policy.
    pool: the pool; donated.
    tokens: `[1, C]` int32, padded on the right.
    place: `[3]` int32: position of the first token, number of tokens, and page to write.
    table: `[1, n]` int32 pages of the tokens before.

  Returns:
    The pool, and the last token's hidden state `[1, d]`.
  """
  start, count, page = place
  index = jnp.arange(static.page_tokens, dtype=jnp.int32)[None]
  hidden, new = policy.apply(
    static.config, params, tokens, start + index, (index < count).astype(jnp.int32),
    _context(static, pool, table, start[None]),
  )  # fmt: skip
  last = jnp.take_along_axis(hidden, (count - 1)[None, None, None], axis=1)[:, 0]
  # Never true, but the compiler cannot know it: all reads come before the write, which is then in
  # place.
  page += jnp.any(last > jnp.inf)
  return pages.write_pages(static.config, pool, new, page[None]), last


@functools.partial(jax.jit, static_argnums=0)
def first_token(
  static: Static, params: policy.Params, hidden: Array, draws: Draws, forced: Array,
  tag_bias: Array, log_odds: Array,
) -> tuple[Drawn, Array]:  # fmt: skip
  """Draws or decides the first token of a reply, the choice of mode.

  Args:
    static: see `Static`.
    params: parameters of the policy.
    hidden: `[1, d]` hidden state of the prompt's last token.
    draws: of one row.
    forced: `[1]` int32 mode that the request forces, -1 for none.
    tag_bias: `[1]` float32, added to the logit of `<think>`.
    log_odds: `[1]` float32 threshold on p(think) as log-odds, NaN for none.

  Returns:
    The token, and log-probabilities `[1, 3]` of `<think>`, `<no_think>` and neither.
  """
  logits = policy.next_token_logits(static.config, params, hidden)
  turned = biased(logits, static.opening, tag_bias)
  tokens = sample_tokens(turned, _uniforms(draws), draws.temperature, draws.top_p, draws.top_k)[0]
  tokens = decided(tokens, logits, static.opening, log_odds)
  opening = jnp.array(static.opening, jnp.int32)[jnp.maximum(forced, 0)]
  tokens = jnp.where(forced >= 0, opening, tokens)
  return _drawn(logits, tokens, draws), mode_logprobs(logits, static.opening)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode(
  static: Static, params: policy.Params, pool: PagePool, tokens: Array, positions: Array,
  table: Array, draws: Draws,
) -> tuple[PagePool, Drawn]:  # fmt: skip
  """Draws the next token of every row.

  Args:
    static: see `Static`.
    params: parameters of the policy.
    pool: the pool; donated.
    tokens: `[N]` int32, last token of each reply; any for rows without one.
    positions: `[N]` int32, its position; 0 for rows without a reply.
    table: `[N, n]` int32 pages of each row, the one that the token goes to among them; `NOWHERE`
      for rows without a reply.
    draws: how to draw.
  """
  pool, drawn, (logits,) = _pass(static, params, pool, tokens[:, None], positions, table, draws)
  return pool, _drawn(logits, drawn[:, 0], draws)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def propose(
  static: Static, count: int, params: policy.Params, pool: PagePool, tokens: Array,
  positions: Array, table: Array, draws: Draws,
) -> tuple[PagePool, Array]:  # fmt: skip
  """Continues every row with a draft; arguments like those of `decode`.

  Returns:
    The pool, and `[N, count]` proposals. The last of them has been run too, so that the draft has
    seen all tokens of a row whose proposals all count.
  """

  def step(carry, index: Array):
    pool, tokens, thinking = carry
    at = dataclasses.replace(draws, steps=draws.steps + index, thinking=thinking)
    pool, drawn, _ = _pass(static, params, pool, tokens[:, None], positions + index, table, at)
    thinking &= drawn[:, 0] != static.closing[-1]
    return (pool, drawn[:, 0], thinking), drawn[:, 0]

  start = pool, tokens, draws.thinking
  (pool, *_), proposals = jax.lax.scan(step, start, jnp.arange(count + 1, dtype=jnp.int32))
  return pool, proposals[:count].T


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def verify(
  static: Static, params: policy.Params, pool: PagePool, tokens: Array, positions: Array,
  table: Array, draws: Draws,
) -> tuple[PagePool, tuple[Drawn, ...]]:  # fmt: skip
  """Draws `k + 1` tokens of every row, each as if the proposals before it counted.

  Args:
    static: see `Static`.
    params: parameters of the policy.
    pool: the pool; donated.
    tokens: `[N, k + 1]` int32, last token of each reply and the proposals.
    positions: see `decode`.
    table: see `decode`; tokens beyond its pages are written nowhere.
    draws: how to draw the first of the tokens.

  Returns:
    The pool, and the tokens drawn after each of `tokens`.
  """
  pool, drawn, logits = _pass(static, params, pool, tokens, positions, table, draws)
  return pool, tuple(_drawn(each, drawn[:, i], draws) for i, each in enumerate(logits))


def _pass(
  static: Static, params: policy.Params, pool: PagePool, tokens: Array, positions: Array,
  table: Array, draws: Draws,
) -> tuple[PagePool, Array, list[Array]]:  # fmt: skip
  """Runs `tokens [N, T]`, writes their keys and values, and draws the token after each of them.

  Returns:
    The pool, tokens `[N, T]`, and `T` times logits `[N, V]`.
  """
  count, size = tokens.shape[1], static.page_tokens
  places = positions[:, None] + jnp.arange(count, dtype=jnp.int32)
  hidden, new = policy.apply(
    static.config, params, tokens, places, context=_context(static, pool, table, positions)
  )
  every = policy.next_token_logits(static.config, params, hidden)
  logits = [every[:, i] for i in range(count)]
  drawn, thinking = [], draws.thinking
  for i in range(count):
    at = dataclasses.replace(draws, steps=draws.steps + i)
    ids, _ = sample_tokens(logits[i], _uniforms(at), at.temperature, at.top_p, at.top_k)
    ids, thinking = cut(ids, at.steps, thinking, at.budget, static.closing)
    drawn.append(ids)
  drawn = jnp.stack(drawn, axis=1)
  column = jnp.minimum(places // size, table.shape[1] - 1)
  page = jnp.take_along_axis(table, column, axis=1)
  page = jnp.where(places // size < table.shape[1], page, pages.NOWHERE)
  page += jnp.any(drawn < 0)  # never true, see `prefill`
  return pages.write_tokens(static.config, pool, new, page, places % size), drawn, logits


@functools.partial(jax.jit, static_argnums=0)
def read_pages(static: Static, pool: PagePool, table: Array) -> PagePool:
  """Copies the pages `[n]` of one sequence, to keep them elsewhere."""
  return pages.copied(static.config, pool, table)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def write_pages(static: Static, pool: PagePool, kept: PagePool, table: Array) -> PagePool:
  """Writes what `read_pages` read to the pages `[n]`."""
  return pages.restored(static.config, pool, kept, table)


def _context(static: Static, pool: PagePool, table: Array, lengths: Array) -> list[KVCache]:
  """Caches of the first `lengths [N]` tokens of each row, a block of pages each."""
  size = BLOCK_PAGES * static.page_tokens
  return [
    pages.gather(
      static.config, pool, table[:, at : at + BLOCK_PAGES],
      jnp.clip(lengths - at * static.page_tokens, 0, size),
    )
    for at in range(0, table.shape[1], BLOCK_PAGES)
  ]  # fmt: skip


def _uniforms(draws: Draws) -> Array:
  """One number in [0, 1) per row, `[N]`."""

  def one(seed: Array, step: Array) -> Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed[0]), seed[1]), seed[2])
    return jax.random.uniform(jax.random.fold_in(key, step))

  return jax.vmap(one)(draws.seeds, draws.steps)


def _drawn(logits: Array, tokens: Array, draws: Draws) -> Drawn:
  logprobs = jax.nn.log_softmax(logits)
  count = min(MOST_TOPS, logits.shape[1])
  nothing = (jnp.zeros((len(tokens), count)), jnp.zeros((len(tokens), count), jnp.int32))
  top_logprobs, top_ids = jax.lax.cond(
    jnp.any(draws.tops), lambda x: tuple(jax.lax.top_k(x, count)), lambda _: nothing, logprobs
  )
  return Drawn(
    tokens, jnp.take_along_axis(logprobs, tokens[:, None], axis=1)[:, 0], top_ids, top_logprobs
  )

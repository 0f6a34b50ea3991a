"""Draws tokens from logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

# Sums over a vocabulary run in blocks: many times more exact than one float32 sum from end to end,
# and only the block that a draw falls into is summed token by token.
_BLOCK = 128
# Half the spacing of the uniform numbers. Draws are moved to the midpoints of their grid, so that
# the first token gets no more than its share, and the last no less.
_HALF_STEP = 2.0**-24
# Top-p and top-k take up to so many tokens one by one, most likely first: at temperature 0.6 nearly
# always enough for top-p 0.95. Rows that need more are bisected, so many at a time.
_ONE_BY_ONE = 32
_BISECTED = 8


def sample_tokens(
  logits: Array, uniforms: Array, temperature: Array, top_p: Array, top_k: Array
) -> tuple[Array, Array]:
  """Draws one token per row by inverting the cumulative distribution.

  One uniform number per token decides, so that a row's draws depend on its own key only and are
  made before the decoding loop. A token of probability 0 or outside of top-p and top-k is never
  drawn.

  Args:
    logits: `[N, V]` float32.
    uniforms: `[N]` in [0, 1).
    temperature: scalar or `[N]`; 0 takes the most likely token.
    top_p: scalar or `[N]` in (0, 1]: draws from the smallest set of tokens whose probability
      reaches it, by sums in float32. Among equally likely tokens, lower ids come first.
    top_k: scalar or `[N]` int: draws from the `top_k` most likely tokens, with ties as in top-p; 0
      means no limit. All three are traced: changing them compiles nothing.

  Returns:
    Tokens `[N]` int32, and their log-probabilities `[N]` at that temperature (at 1 where it is 0),
    before top-p and top-k. Logits with NaN yield some token of the vocabulary.
  """
  greedy = jnp.asarray(temperature) <= 0
  divisor = jnp.where(greedy, 1.0, temperature)
  logits = logits / (divisor[:, None] if divisor.ndim else divisor)
  logprobs = jax.nn.log_softmax(logits, axis=-1)

  probs = _blocks(jnp.exp(logprobs))
  limited = jnp.broadcast_to(~greedy & ((top_p < 1.0) | (top_k > 0)), len(probs))
  top_p, top_k = (jnp.broadcast_to(x, len(probs)) for x in (top_p, top_k))
  probs = jax.lax.cond(jnp.any(limited), _truncate, lambda p, *_: p, probs, top_p, top_k, limited)
  # Greedy on the logits: rounding may make their log-probabilities equal.
  tokens = jnp.where(greedy, _most_likely(_blocks(logits, -jnp.inf)), _draw(probs, uniforms))
  tokens = jnp.minimum(tokens, logits.shape[1] - 1)  # padding, where logits are NaN
  return tokens, jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]


def _blocks(x: Array, fill: float = 0.0) -> Array:
  """Reshapes `[N, V]` to `[N, blocks, _BLOCK]`, padded with `fill`."""
  n, v = x.shape
  padding = ((0, 0), (0, -v % _BLOCK))
  return jnp.pad(x, padding, constant_values=fill).reshape(n, -1, _BLOCK)


def _most_likely(logits: Array) -> Array:
  """Returns the first tokens `[N]` with the highest of the logits `[N, blocks, _BLOCK]`."""
  block = jnp.argmax(jnp.max(logits, axis=2), axis=1)[:, None]
  inside = jnp.take_along_axis(logits, block[:, :, None], axis=1)[:, 0]
  return (block[:, 0] * _BLOCK + jnp.argmax(inside, axis=1)).astype(jnp.int32)


def _draw(probs: Array, uniforms: Array) -> Array:
  """Draws tokens `[N]` int32 by probabilities `[N, blocks, _BLOCK]`, which need not sum to 1."""
  return _find(probs, lambda total: (uniforms + _HALF_STEP) * total)


def _find(weights: Array, target: Callable[[Array], Array]) -> Array:
  """Returns the first tokens `[N]` at which the running sum of the weights exceeds a target.

  Finds the block, then the token in it. Rounding can make sums fall where nothing was added, so
  blocks and tokens of weight 0 are excluded explicitly. A target beyond the total selects the last
  token with any weight.

  Args:
    weights: `[N, blocks, _BLOCK]`, at least 0.
    target: function from the totals `[N]` to the targets `[N]`.
  """
  mass = jnp.sum(weights, axis=2)  # [N, blocks]
  ends = jax.lax.cummax(jnp.cumsum(mass, axis=1), axis=1)
  targets = target(ends[:, -1])[:, None]
  block = _first(ends > targets, mass > 0)
  begins = jnp.where(block > 0, jnp.take_along_axis(ends, block - 1, axis=1), 0.0)
  inside = jnp.take_along_axis(weights, block[:, :, None], axis=1)[:, 0]  # [N, _BLOCK]
  place = _first(jnp.cumsum(inside, axis=1) > targets - begins, inside > 0)
  return (block * _BLOCK + place)[:, 0].astype(jnp.int32)


def _first(reached: Array, allowed: Array) -> Array:
  """Returns `[N, 1]`: the first allowed index where `reached` holds, else the last allowed one."""
  found = reached & allowed
  last = allowed.shape[1] - 1 - jnp.argmax(allowed[:, ::-1], axis=1)
  return jnp.where(jnp.any(found, axis=1), jnp.argmax(found, axis=1), last)[:, None]


def _truncate(probs: Array, top_p: Array, top_k: Array, limited: Array) -> Array:
  """Zeroes the probability of tokens outside of top-p and top-k; the most likely one stays.

  How a row is truncated depends on that row alone.

  Args:
    probs: `[N, blocks, _BLOCK]` probabilities.
    top_p: `[N]`.
    top_k: `[N]`.
    limited: `[N]` bool; other rows keep all tokens.
  """
  least, last, unfinished = _take_one_by_one(probs, top_p, top_k, limited)
  ids = jnp.arange(probs[0].size).reshape(probs.shape[1:])
  least, last = least[:, None, None], last[:, None, None]
  kept = (probs > least) | ((probs == least) & (ids <= last))
  kept = kept | (unfinished | ~limited)[:, None, None]

  def bisect_some(state: tuple[Array, Array]) -> tuple[Array, Array]:
    probs, unfinished = state
    _, rows = jax.lax.top_k(unfinished.astype(jnp.int32), min(_BISECTED, len(probs)))
    some, wanted = probs[rows], unfinished[rows]
    by_mass = _fewest(some, some, top_p[rows], wanted & (top_p < 1.0)[rows])
    count = top_k[rows].astype(jnp.float32)
    by_count = _fewest(some, None, count, wanted & (top_k > 0)[rows])
    probs = probs.at[rows].set(jnp.where(by_mass & by_count, some, 0.0))
    return probs, unfinished.at[rows].set(False)

  state = (jnp.where(kept, probs, 0.0), unfinished)
  return jax.lax.while_loop(lambda state: jnp.any(state[1]), bisect_some, state)[0]


def _take_one_by_one(
  probs: Array, top_p: Array, top_k: Array, limited: Array
) -> tuple[Array, Array, Array]:
  """Takes tokens, most likely first and lower ids first, until top-p or top-k is reached.

  Returns:
    Probability and id `[N]` of the last token taken, and the rows `[N]` that would have needed more
    than `_ONE_BY_ONE`.
  """
  n, blocks, width = probs.shape
  enough = jnp.where(top_p < 1.0, top_p, jnp.inf)
  most = jnp.where(top_k > 0, top_k, jnp.iinfo(jnp.int32).max)
  places = jnp.arange(width)

  def take(state: tuple[Array, ...]) -> tuple[Array, ...]:
    count, highest, mass, least, last, unfinished = state
    block = jnp.argmax(highest, axis=1)[:, None]
    inside = jnp.take_along_axis(probs, block[:, :, None], axis=1)[:, 0]
    prob, ids = jnp.take_along_axis(highest, block, axis=1), block * width + places
    left = (inside < least[:, None]) | ((inside == least[:, None]) & (ids > last[:, None]))
    place = jnp.argmax(left & (inside == prob), axis=1)[:, None]
    remaining = (inside < prob) | ((inside == prob) & (places > place))
    next_highest = jnp.max(jnp.where(remaining, inside, 0.0), axis=1, keepdims=True)
    highest = jnp.where(jnp.arange(blocks) == block, next_highest, highest)

    prob, token = prob[:, 0], (block * width + place)[:, 0]
    taken = unfinished & (prob > 0)
    mass = jnp.where(taken, mass + prob, mass)
    unfinished = taken & (mass < enough) & (count + 1 < most)
    return (
      count + 1, highest, mass, jnp.where(taken, prob, least), jnp.where(taken, token, last),
      unfinished,
    )  # fmt: skip

  start = (
    jnp.int32(0), jnp.max(probs, axis=2), jnp.zeros(n), jnp.full(n, jnp.inf),
    jnp.full(n, -1, jnp.int32), limited,
  )  # fmt: skip
  state = jax.lax.while_loop(lambda s: jnp.any(s[-1]) & (s[0] < _ONE_BY_ONE), take, start)
  return state[3], state[4], state[5]


def _fewest(probs: Array, weights: Array | None, target: Array, wanted: Array) -> Array:
  """Returns a mask of the fewest most likely tokens whose weights reach `target`.

  Bisects the smallest probability kept, over the bits of a float32: read as integers, they are in
  the order of the values. This needs no sort: each pass is one masked sum. It ends when the bounds
  enclose one token, or several equally likely ones, of which the lower ids are kept.

  Args:
    probs: `[N, blocks, _BLOCK]` probabilities.
    weights: `[N, blocks, _BLOCK]`, the probabilities again; `None` gives every token weight 1.
    target: `[N]` above 0.
    wanted: `[N]` bool; where false, the mask keeps all tokens.
  """

  def least(low: Array) -> Array:
    return jax.lax.bitcast_convert_type(low, jnp.float32)[:, None, None]

  def lightest(low: Array) -> Array:
    """Returns the smallest weight of a token above the bound, `[N]`."""
    return jnp.ones(low.shape) if weights is None else least(low)[:, 0, 0]

  def weight_from(low: Array) -> Array:
    chosen = jnp.where(probs >= least(low), 1.0 if weights is None else weights, 0.0)
    return jnp.sum(chosen, axis=1).sum(axis=1)

  def halve(state: tuple[Array, ...]) -> tuple[Array, ...]:
    low, high, from_low, from_high = state
    middle = low + (high - low) // 2
    weight = weight_from(middle)
    enough = weight >= target
    return (
      jnp.where(enough, middle, low), jnp.where(enough, high, middle),
      jnp.where(enough, weight, from_low), jnp.where(enough, from_high, weight),
    )  # fmt: skip

  def unfinished(state: tuple[Array, ...]) -> Array:
    low, high, from_low, from_high = state
    return jnp.any((high - low > 1) & (from_low - from_high >= 1.5 * lightest(low)))

  low = jnp.zeros(probs.shape[0], jnp.int32)
  top = jax.lax.bitcast_convert_type(jnp.max(probs, axis=(1, 2)), jnp.int32)
  state = (low, jnp.where(wanted, top + 1, 0), jnp.full(low.shape, jnp.inf), jnp.zeros(low.shape))
  low, high, _, from_high = jax.lax.while_loop(unfinished, halve, state)

  certain = probs >= least(high)
  between = (probs >= least(low)) & ~certain
  # Half a token less than the count needed, so that the sum exceeds the target at that count.
  count = jnp.ceil((target - from_high) / lightest(low))
  last = _find(between.astype(jnp.float32), lambda _: count - 0.5)
  ids = jnp.arange(probs[0].size).reshape(probs.shape[1:])
  return certain | (between & (ids <= last[:, None, None]))


def mode_logprobs(logits: Array, opening: tuple[int, int]) -> Array:
  """Returns log-probabilities `[B, 3]` of the first token: `<think>`, `<no_think>`, or neither.

  Args:
    logits: `[B, V]` of the first token, divided by the temperature.
    opening: ids of the two opening tags.
  """
  # The other tokens are summed; 1 minus the tags would be rounding error where it matters.
  is_tag = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(opening))
  other = jax.nn.logsumexp(jnp.where(is_tag, -jnp.inf, logits), axis=-1, keepdims=True)
  modes = jnp.concatenate([logits[:, jnp.array(opening)], other], axis=-1)
  return jax.nn.log_softmax(modes)

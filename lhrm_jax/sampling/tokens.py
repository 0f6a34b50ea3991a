"""One sampling step: from logits to tokens."""

import jax
import jax.numpy as jnp
from jax import Array


def sample_tokens(
  logits: Array, uniforms: Array, temperature: Array, top_p: Array, top_k: Array
) -> tuple[Array, Array]:
  """Draws one token per row by inverting the cumulative distribution.

  One uniform number per token decides, so that a row's draws are a function of its own key only,
  and are made before the decoding loop.

  Args:
    logits: `[N, V]` float32.
    uniforms: `[N]` in [0, 1).
    temperature: scalar; 0 takes the most likely token.
    top_p: scalar in (0, 1]: the smallest set of tokens whose probability reaches it.
    top_k: scalar int; 0 means no limit. All three are traced: changing them compiles nothing.

  Returns:
    Tokens `[N]` int32, and their log-probabilities `[N]` at that temperature (at 1 where it is 0),
    before top-p and top-k.
  """
  greedy = temperature <= 0
  logits = logits / jnp.where(greedy, 1.0, temperature)
  logprobs = jax.nn.log_softmax(logits, axis=-1)
  probs = jax.lax.cond(
    (top_p < 1.0) | (top_k > 0), _truncate, lambda p, *_: p, jnp.exp(logprobs), top_p, top_k
  )
  cumulative = jnp.cumsum(probs, axis=-1)
  # Tokens of probability 0 repeat the sum before them, so the first sum *above* the draw is never
  # theirs.
  drawn = jnp.sum(cumulative <= uniforms[:, None] * cumulative[:, -1:], axis=-1)
  tokens = jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)
  return tokens, jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]


def _truncate(probs: Array, top_p: Array, top_k: Array) -> Array:
  """Sets the tokens outside top-p and top-k to probability 0; the most likely always stays."""
  order = jnp.argsort(-probs, axis=-1)
  ranked = jnp.take_along_axis(probs, order, axis=-1)
  before = jnp.cumsum(ranked, axis=-1) - ranked
  rank = jnp.arange(probs.shape[-1])
  keep = (before < top_p) & ((rank < top_k) | (top_k <= 0)) | (rank == 0)
  rows = jnp.arange(probs.shape[0])[:, None]
  return jnp.zeros_like(probs).at[rows, order].set(jnp.where(keep, ranked, 0.0))

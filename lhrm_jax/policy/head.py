"""Hidden states to log-probabilities, without an array of tokens times vocabulary."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.parallel import constrain
from lhrm_jax.policy.config import PolicyConfig

_NO_TOKEN = -1e30  # finite: zero probability times it is zero in the entropy, where -inf gives NaN


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenLogprobs:
  """Log-probabilities of given tokens.

  Attributes:
    logprobs: `[N, T]` float32, natural logarithm.
    entropy: `[N, T]` float32, entropy of each token's whole distribution, in nats.
  """

  logprobs: Array
  entropy: Array


def next_token_logits(config: PolicyConfig, params, hidden: Array) -> Array:
  """Logits `[..., V]` in float32 of the token that follows each `hidden [..., d]`.

  Rows beyond `config.logit_vocab_size` stand for no token: their logit is -1e30.
  """
  return _logits(config, _table(config, params), _trained_rows(config, params), hidden)


def _trained_rows(config: PolicyConfig, params) -> Array | None:
  """Rows `[tokens, d]` that take the place of those of `config.lora_tokens`; `None` without."""
  name = "embedding_rows" if config.tie_embeddings else "head_rows"
  return params[name].astype(config.dtype) if config.lora_tokens else None


def _table(config: PolicyConfig, params) -> Array:
  """The table `[V, d]` in the compute dtype, its rows sharded and its width whole.

  Laid out once here: inside a loop over chunks it would be gathered for each of them.
  """
  table = params["embedding" if config.tie_embeddings else "head"]
  return constrain(table.astype(config.dtype), ("vocab", None))


def _logits(config: PolicyConfig, table: Array, rows: Array | None, hidden: Array) -> Array:
  def product(x: Array) -> Array:
    return jnp.einsum(
      "...d,vd->...v", hidden, x.astype(hidden.dtype), preferred_element_type=jnp.float32
    )

  logits = product(table)
  if rows is not None:
    # Columns in place of rows of the table, whose gradient would be as large as the table.
    own, tokens = product(rows), jnp.arange(config.vocab_size)
    for i, token in enumerate(config.lora_tokens):
      logits = jnp.where(tokens == token, own[..., i, None], logits)
  if not config.logit_vocab_size:
    return logits
  return jnp.where(jnp.arange(config.vocab_size) < config.logit_vocab_size, logits, _NO_TOKEN)


def token_logprobs(
  config: PolicyConfig, params, hidden: Array, targets: Array, temperature: Array | float = 1.0
) -> TokenLogprobs:
  """Scores `targets` under `softmax(logits / temperature)`.

  Processes time in chunks of at most `config.logprob_chunk` tokens (at least one step of all rows)
  and recomputes each chunk's logits in the backward pass: `[N, T, V]` exists neither forward nor
  backward.

  Args:
    config: config of the policy.
    params: parameters of the policy.
    hidden: `[N, T, d]`; position t predicts `targets[:, t]`.
    targets: `[N, T]` int.
    temperature: above 0.

  Returns:
    `TokenLogprobs`, float32.
  """
  n, t, d = hidden.shape
  steps = min(t, max(1, config.logprob_chunk // n))
  chunks = -(-t // steps)

  table, rows = _table(config, params), _trained_rows(config, params)
  if rows is None:
    # Enters the loop as float32, so that its gradient is summed over the chunks in float32.
    table = table.astype(jnp.float32)
  else:
    rows = rows.astype(jnp.float32)  # likewise; the table has no gradient

  @jax.checkpoint
  def score(hidden_chunk: Array, target_chunk: Array) -> TokenLogprobs:
    logits = _logits(config, table, rows, hidden_chunk) / temperature
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(logprobs, target_chunk[..., None], axis=-1)[..., 0]
    return TokenLogprobs(chosen, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1))

  with jax.named_scope("head"):
    if chunks == 1:
      return score(hidden, targets)
    padding = chunks * steps - t
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)))
    by_chunk = (
      hidden.reshape(n, chunks, steps, d).swapaxes(0, 1),
      targets.reshape(n, chunks, steps).swapaxes(0, 1),
    )
    scored = jax.lax.map(lambda chunk: score(*chunk), by_chunk)  # [chunks, N, steps]
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(n, -1)[:, :t], scored)

"""Hidden states to log-probabilities, without an array of tokens times vocabulary."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.parallel import constrain
from lhrm_jax.policy import int8
from lhrm_jax.policy.config import PolicyConfig

_CHUNKS = 4  # of a row's targets, at least: those that it has none of are skipped
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
  name = "embedding" if config.tie_embeddings else "head"
  if params[name].dtype != jnp.int8:
    return _logits(config, _table(config, params), _trained_rows(config, params), hidden)
  rows = hidden.reshape(-1, hidden.shape[-1])
  logits = int8.product(rows, params[name], params[f"{name}_scale"], transposed=True)
  return _of_tokens(config, logits.reshape(*hidden.shape[:-1], -1))


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
  logits = _product(hidden, table)
  if rows is not None:
    # Columns in place of rows of the table, whose gradient would be as large as the table.
    own, tokens = _product(hidden, rows), jnp.arange(config.vocab_size)
    for i, token in enumerate(config.lora_tokens):
      logits = jnp.where(tokens == token, own[..., i, None], logits)
  return _of_tokens(config, logits)


@jax.custom_vjp
def _product(hidden: Array, table: Array) -> Array:
  """`hidden [..., d]` times `table [V, d]` in the dtype of the former, `[..., V]` in float32.

  Its gradient is rounded to that dtype before it is multiplied, like every other activation's: as
  float32 it would make both products of the backward pass run at half the speed or less.
  """
  return jnp.einsum(
    "...d,vd->...v", hidden, table.astype(hidden.dtype), preferred_element_type=jnp.float32
  )


def _product_forward(hidden: Array, table: Array) -> tuple[Array, tuple[Array, Array]]:
  return _product(hidden, table), (hidden, table)


def _product_backward(saved: tuple[Array, Array], ahead: Array) -> tuple[Array, Array]:
  hidden, table = saved
  ahead = ahead.astype(hidden.dtype)

  def summed(spec: str, *of: Array) -> Array:
    return jnp.einsum(spec, ahead, *of, preferred_element_type=jnp.float32)

  of_hidden = summed("...v,vd->...d", table.astype(hidden.dtype)).astype(hidden.dtype)
  return of_hidden, summed("...v,...d->vd", hidden).astype(table.dtype)


_product.defvjp(_product_forward, _product_backward)


def _of_tokens(config: PolicyConfig, logits: Array) -> Array:
  if not config.logit_vocab_size:
    return logits
  return jnp.where(jnp.arange(config.vocab_size) < config.logit_vocab_size, logits, _NO_TOKEN)


def token_logprobs(
  config: PolicyConfig,
  params,
  hidden: Array,
  targets: Array,
  temperature: Array | float = 1.0,
  sources: Array | None = None,
  count: Array | int | None = None,
) -> TokenLogprobs:
  """Scores `targets` under `softmax(logits / temperature)`.

  Processes targets in chunks of at most `config.logprob_chunk` (at least one of every row) and
  recomputes each chunk's logits in the backward pass: `[N, M, V]` exists neither forward nor
  backward. Chunks beyond `count` are not computed.

  Args:
    config: config of the policy.
    params: parameters of the policy.
    hidden: `[N, T, d]`.
    targets: `[N, M]` int.
    temperature: above 0.
    sources: `[N, M]` int32, place of the hidden state that predicts each target; `None` where the
      t-th predicts the t-th.
    count: leading targets of every row to score, at most; all by default.

  Returns:
    `TokenLogprobs` `[N, M]`, float32, 0 in chunks that are not computed.
  """

  def score(table: Array, rows: Array | None, hidden: Array, targets: Array):
    logits = _logits(config, table, rows, hidden) / temperature
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0]
    return chosen, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)

  with jax.named_scope("head"):
    return TokenLogprobs(*_by_chunk(config, params, score, hidden, sources, targets, count))


def map_logits(
  config: PolicyConfig,
  params,
  fn: Callable[[Array], Array],
  hidden: Array,
  sources: Array,
  count: Array | int | None = None,
) -> Array:
  """Computes `fn` of the logits at some places, chunk by chunk as `token_logprobs` does.

  Args:
    config: config of the policy.
    params: parameters of the policy.
    fn: maps logits `[N, C, V]` to `[N, C, ...]`.
    hidden: `[N, T, d]`.
    sources: `[N, M]` int32, places of the hidden states.
    count: see `token_logprobs`.

  Returns:
    `[N, M, ...]`, 0 in chunks that are not computed.
  """

  def of_chunk(table: Array, rows: Array | None, hidden: Array, _: Array) -> Array:
    return fn(_logits(config, table, rows, hidden))

  with jax.named_scope("map_logits"):
    return _by_chunk(config, params, of_chunk, hidden, sources, sources, count)


def chunks(config: PolicyConfig, rows: int, targets: int) -> tuple[int, int]:
  """Targets of a row that are scored at a time, and the number of such chunks."""
  size = max(1, min(config.logprob_chunk // rows, -(-targets // _CHUNKS)))
  return size, -(-targets // size)


def _by_chunk(
  config: PolicyConfig, params, fn: Callable[..., Any], hidden: Array,
  sources: Array | None, inputs: Array, count: Array | int | None,
) -> Any:  # fmt: skip
  """`fn(table, rows, hidden [N, C, d], inputs [N, C])` over chunks of `inputs [N, M]`, joined."""
  n, m = inputs.shape
  size, total = chunks(config, n, m)
  if sources is None:
    sources = jnp.broadcast_to(jnp.arange(m, dtype=jnp.int32), (n, m))
  pad = ((0, 0), (0, total * size - m))
  chunked = (
    jnp.pad(x, pad).reshape(n, total, size).swapaxes(0, 1) for x in (sources, inputs)
  )  # fmt: skip
  used = total if count is None else jnp.minimum(total, -(-count // size))
  table, rows = _table(config, params), _trained_rows(config, params)
  # What is trained is in float32, and with it the sum of its gradient over the chunks.
  if rows is None:
    table = table.astype(jnp.float32)
    out = _loop(lambda t, _, *x: fn(t, None, *x), table, None, hidden, *chunked, jnp.asarray(used))
  else:
    rows = rows.astype(jnp.float32)
    out = _loop(lambda r, t, *x: fn(t, r, *x), rows, table, hidden, *chunked, jnp.asarray(used))
  return jax.tree.map(lambda x: x[:, :m], out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(
  fn: Callable, trained: Array, frozen: Array | None, hidden: Array, sources: Array,
  inputs: Array, used: Array,
) -> Any:  # fmt: skip
  """`fn` over the first `used` of the chunks `[chunks, N, C]`, concatenated on axis 1.

  Differentiated chunk by chunk in a second loop, which stops as early: nothing is kept in between.
  """
  count, n, size = inputs.shape
  taken = jax.ShapeDtypeStruct((n, size, hidden.shape[2]), hidden.dtype)
  shapes = jax.eval_shape(fn, trained, frozen, taken, inputs[0])

  def put(i: Array, out: Any) -> Any:
    new = fn(trained, frozen, _taken(hidden, sources[i]), inputs[i])
    return jax.tree.map(
      lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, i * size, axis=1), out, new
    )

  start = jax.tree.map(lambda s: _rows(jnp.zeros((n, count * size, *s.shape[2:]), s.dtype)), shapes)
  return jax.lax.fori_loop(0, used, put, start)


def _forward(fn: Callable, *args: Array) -> tuple[Any, tuple[Array, ...]]:
  return _loop(fn, *args), args


def _backward(fn: Callable, saved: tuple[Array, ...], ahead: Any) -> tuple[Array | None, ...]:
  trained, frozen, hidden, sources, inputs, used = saved
  size = inputs.shape[2]

  def add(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
    of_chunk = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=1), ahead
    )
    _, pull = jax.vjp(lambda t, h: fn(t, frozen, h, inputs[i]), trained, _taken(hidden, sources[i]))
    of_trained, of_taken = pull(of_chunk)
    put = jax.vmap(lambda whole, at, more: whole.at[at].add(more.astype(whole.dtype)))
    return sums[0] + of_trained, put(sums[1], sources[i], of_taken)

  zeros = jnp.zeros(hidden.shape, jnp.float32)
  start = jnp.zeros_like(trained)
  if frozen is None:
    start = constrain(start, ("vocab", None))
  of_trained, of_hidden = jax.lax.fori_loop(0, used, add, (start, _rows(zeros)))
  return of_trained, None, of_hidden.astype(hidden.dtype), None, None, None


_loop.defvjp(_forward, _backward)


def _taken(hidden: Array, places: Array) -> Array:
  """Hidden states `[N, C, d]` at `places [N, C]` of each row."""
  return _rows(jnp.take_along_axis(hidden, places[..., None], axis=1))


def _rows(x: Array) -> Array:
  return constrain(x, ("batch",) + (None,) * (x.ndim - 1))

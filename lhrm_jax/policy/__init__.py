"""The policy: a Flax Linen decoder used as pure functions over a plain nested dict of arrays.

`apply` returns hidden states, keys and values; the head (`next_token_logits`, `token_logprobs`) is
separate. The sampler and the trainer call the same `apply`.
"""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.policy import cache, flash, lora
from lhrm_jax.policy.cache import KVCache
from lhrm_jax.policy.config import PolicyConfig, RopeScaling
from lhrm_jax.policy.export import export_adapter, export_pretrained
from lhrm_jax.policy.fingerprint import fingerprint
from lhrm_jax.policy.head import TokenLogprobs, map_logits, next_token_logits, token_logprobs
from lhrm_jax.policy.int8 import quantised
from lhrm_jax.policy.model import Decoder
from lhrm_jax.policy.pretrained import hub_commit, load_pretrained

Params = dict[str, Any]

__all__ = [
  "KVCache",
  "Params",
  "PolicyConfig",
  "RopeScaling",
  "TokenLogprobs",
  "add_lora",
  "apply",
  "as_laid_out",
  "cache",
  "count_params",
  "export_adapter",
  "export_pretrained",
  "fingerprint",
  "for_sampling",
  "hub_commit",
  "in_compute_dtype",
  "init",
  "load_pretrained",
  "logical_axes",
  "logits",
  "lora",
  "map_logits",
  "next_token_logits",
  "prefill",
  "quantised",
  "shares_prefixes",
  "token_logprobs",
]


def init(config: PolicyConfig, key: Array) -> Params:
  """Random float32 parameters as a plain nested dict; a pure function of `key`.

  With adapters, the frozen parameters are in the compute dtype: they need no more precision.
  """
  trained, frozen = lora.split(nn.unbox(_init_boxed(config, key)))
  return lora.join(trained, in_compute_dtype(config, frozen))


def add_lora(config: PolicyConfig, params: Params, key: Array, shardings: Any) -> Params:
  """Parameters with fresh adapters, which do not change what the policy computes.

  Args:
    config: with `lora_rank` and `lora_tokens`.
    params: of a policy without adapters.
    key: random key of the adapters.
    shardings: tree of shardings like `init(config)`.
  """

  def fresh(key: Array, tables: Params) -> Params:
    trained = lora.split(init(config, key))[0]
    ids = jnp.array(config.lora_tokens, jnp.int32)
    rows = {f"{name}_rows": x[ids].astype(jnp.float32) for name, x in tables.items()}
    return {**trained, **{name: x for name, x in rows.items() if name in trained}}

  of_trained, of_frozen = lora.split(shardings)
  tables = {name: params[name] for name in ("embedding", "head") if name in params}
  frozen = jax.jit(functools.partial(in_compute_dtype, config), out_shardings=of_frozen)(params)
  return lora.join(jax.jit(fresh, out_shardings=of_trained)(key, tables), frozen)


def in_compute_dtype(config: PolicyConfig, params: Params) -> Params:
  """The parameters in the dtype that `apply` casts them to; scales, and int8, stay."""

  def cast(path, x: Array) -> Array:
    stays = path[-1].key.endswith("scale") or x.dtype == jnp.int8
    return x if stays else x.astype(config.dtype)

  return jax.tree_util.tree_map_with_path(cast, params)


def for_sampling(config: PolicyConfig, params: Params) -> Params:
  """The parameters `in_compute_dtype`, on a GPU with an entry for each layer.

  Decoding reads all weights for every token, and a GPU would copy those of a scanned layer out of
  their stack each time. `as_laid_out` gives the config that goes with them; `apply` takes either.
  """
  params = in_compute_dtype(config, params)
  if not config.scan_layers or flash.target_platform() != "gpu":
    return params
  unstacked = {name: x for name, x in params.items() if name != "layers"}
  for i in range(config.num_layers):
    unstacked[f"layer_{i}"] = jax.tree.map(operator.itemgetter(i), params["layers"])
  return unstacked


def as_laid_out(config: PolicyConfig, params: Params) -> PolicyConfig:
  """The config with the `scan_layers` that the parameters have."""
  scanned = "layers" in params
  if scanned == config.scan_layers:
    return config
  return dataclasses.replace(config, scan_layers=scanned)


@functools.cache  # traces `init`, and is asked for in every step
def logical_axes(config: PolicyConfig) -> Any:
  """Tuples of logical axis names, in a tree like that of `init`."""
  boxed = jax.eval_shape(lambda: _init_boxed(config, jax.random.key(0)))
  return jax.tree.map(
    lambda leaf: tuple(leaf.names), boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
  )


def _init_boxed(config: PolicyConfig, key: Array) -> Params:
  one = jnp.ones((1, 1), jnp.int32)
  return Decoder(config).init(key, one, one, one, ())["params"]


def apply(
  config: PolicyConfig,
  params: Params,
  tokens: Array,
  positions: Array,
  segment_ids: Array | None = None,
  context: Sequence[KVCache] = (),
  prefix_ids: Array | None = None,
) -> tuple[Array, KVCache]:
  """Runs the decoder over a block of new tokens.

  Args:
    config: static.
    params: from `init`.
    tokens: `[N, T]` int32.
    positions: `[N, T]` int32, each token's position in its own sequence, from 0.
    segment_ids: `[N, T]` int32; tokens attend within their segment, and 0 marks padding. `None`
      means one segment and no padding.
    context: caches that every unpadded token attends to in full, e.g. the prompt's and that of the
      response so far. A cache of `B` rows serves `N / B` consecutive rows of `tokens` each.
    prefix_ids: `[N, T]` int32, earlier segment of the row that each token attends to beside its
      own, as several responses do to one prompt; 0 for none. `shares_prefixes` says whether the
      attention can.

  Returns:
    Final hidden states `[N, T, d]` in the compute dtype, and the keys and values of this block
    (`lengths` counts the unpadded tokens), which the caller may keep or `cache.append`.
  """
  if segment_ids is None:
    segment_ids = jnp.ones_like(tokens)
  return Decoder(as_laid_out(config, params)).apply(
    {"params": params}, tokens, positions, segment_ids, tuple(context), prefix_ids
  )


def shares_prefixes(config: PolicyConfig, tokens: int) -> bool:
  """Whether attention over rows of `tokens` takes `prefix_ids`; splash, on TPUs, does not."""
  return flash.choose(config, tokens) != "splash"


def prefill(
  config: PolicyConfig, params: Params, tokens: Array, lengths: Array
) -> tuple[Array, KVCache]:
  """Runs padded rows: hidden state `[N, d]` of each one's last token, and their cache.

  Args:
    config: static.
    params: as `init` gives them.
    tokens: `[N, T]` int32, padded on the right.
    lengths: `[N]` int32, at least 1. What stands beyond them is never looked at.
  """
  n, t = tokens.shape
  positions = jnp.broadcast_to(jnp.arange(t, dtype=jnp.int32), (n, t))
  segment_ids = (positions < lengths[:, None]).astype(jnp.int32)
  hidden, context = apply(config, params, tokens, positions, segment_ids)
  return jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0], context


def logits(
  config: PolicyConfig, params: Params, tokens: Array, segment_ids: Array | None = None
) -> Array:
  """All logits `[B, T, V]` in float32, for inspection and tests; training never builds them.

  Args:
    config: static.
    params: from `init`.
    tokens: `[B, T]` int32, padded on either side.
    segment_ids: `[B, T]` int32, 0 for padding; positions count within each segment.
  """
  if segment_ids is None:
    segment_ids = jnp.ones_like(tokens)
  hidden, _ = apply(config, params, tokens, segment_positions(segment_ids), segment_ids)
  return next_token_logits(config, params, hidden)


def segment_positions(segment_ids: Array) -> Array:
  """Each token's position in its segment, `[B, T]` int32, for segments of consecutive tokens."""
  index = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)
  starts = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
  return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def count_params(params: Params) -> int:
  """Number of parameters in the tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))

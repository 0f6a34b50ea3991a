"""The Flax Linen decoder. Used only through the pure functions of `lhrm_jax.policy`."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.parallel import constrain
from lhrm_jax.policy import attention, blockwise, flash, int8, rope
from lhrm_jax.policy.cache import KVCache, LayerCache, PerLayer
from lhrm_jax.policy.config import PolicyConfig

ACTIVATIONS = ("batch", None, None)  # [N, T, d]: rows are split, their width is not

_REMAT = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


class RMSNorm(nn.Module):
  """Scales `x [..., d]` to unit mean square, in float32 (https://arxiv.org/abs/1910.07467)."""

  eps: float
  axis: str | None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    init = nn.with_logical_partitioning(nn.initializers.ones, (self.axis,))
    scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
    return (y * scale).astype(x.dtype)


class Projection(nn.Module):
  """A linear map of an input's last axes, with an optional bias.

  Computed as a product of two matrices: with separate leading axes the kernel's gradient would be a
  product over several axes, whose operands XLA transposes first on a CPU, a third of an update.

  Attributes:
    shape: shape of the kernel.
    axes: logical names of the kernel's axes.
    fan_in: number of leading kernel axes, the input's last ones, that are summed over.
    scale: variance of the initial kernel times the summed size.
    use_bias: whether to add a bias over the remaining axes.
    adapter: rank and scale of a low-rank adapter (`lora`); rank 0 for none.
  """

  shape: tuple[int, ...]
  axes: tuple[str, ...]
  fan_in: int = 1
  scale: float = 1.0
  use_bias: bool = False
  adapter: tuple[int, float] = (0, 0.0)

  @nn.compact
  def __call__(self, x: Array) -> Array:
    in_axes, out_axes = range(self.fan_in), range(self.fan_in, len(self.shape))
    init = nn.initializers.variance_scaling(self.scale, "fan_in", "normal", in_axes, out_axes)
    kernel = self.param(
      "kernel", nn.with_logical_partitioning(init, self.axes), self.shape, jnp.float32
    )
    leading, out = x.shape[: x.ndim - self.fan_in], self.shape[self.fan_in :]
    fan = math.prod(self.shape[: self.fan_in])
    flat = x.reshape(-1, fan)
    if kernel.dtype == jnp.int8:
      scales = self.get_variable("params", "kernel_scale").reshape(-1)
      y = int8.product(flat, kernel.reshape(fan, -1), scales).astype(x.dtype)
    else:
      y = flat @ kernel.astype(x.dtype).reshape(fan, -1)
    if self.adapter[0]:
      y += self._adapted(flat)
    y = y.reshape(*leading, *out)
    if self.use_bias:
      bias_init = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[self.fan_in :])
      y += self.param("bias", bias_init, out, jnp.float32).astype(x.dtype)
    return y

  def _adapted(self, flat: Array) -> Array:
    """What the adapter adds to the output for inputs `[N, fan]`: 0 before any training."""
    (rank, scale), n = self.adapter, self.fan_in
    # Bounds 1 / sqrt(fan), as in PEFT.
    a_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", range(n), n)
    b_init = nn.initializers.zeros

    def param(name: str, init: Any, axes: tuple[str, ...], shape: tuple[int, ...]) -> Array:
      boxed = nn.with_logical_partitioning(init, axes)
      return self.param(name, boxed, shape, jnp.float32).astype(flat.dtype)

    a = param("lora_a", a_init, (*self.axes[:n], "lora"), (*self.shape[:n], rank))
    b = param("lora_b", b_init, ("lora", *self.axes[n:]), (rank, *self.shape[n:]))
    return scale * (flat @ a.reshape(-1, rank) @ b.reshape(rank, -1))


class Attention(nn.Module):
  """Grouped-query attention. Back ends other than "plain" take segment and prefix ids as mask."""

  config: PolicyConfig
  back_end: str

  @nn.compact
  def __call__(self, x, cos, sin, mask, cached, cached_masks):
    c = self.config
    d, h, k, w = c.hidden_size, c.num_heads, c.num_kv_heads, c.head_dim

    def project(name: str, heads: int, axis: str) -> Array:
      axes = ("embed", axis, "head_dim")
      return Projection(
        (d, heads, w), axes, use_bias=c.qkv_bias, adapter=c.adapter(name), name=name
      )(x)

    queries = constrain(project("q", h, "heads"), ("batch", None, "heads", None))
    keys = constrain(project("k", k, "kv_heads"), ("batch", None, "kv_heads", None))
    values = constrain(project("v", k, "kv_heads"), ("batch", None, "kv_heads", None))
    if c.qk_norm:
      queries = RMSNorm(c.rms_norm_eps, None, name="q_norm")(queries)
      keys = RMSNorm(c.rms_norm_eps, None, name="k_norm")(keys)
    queries, keys = rope.rotate(queries, cos, sin), rope.rotate(keys, cos, sin)
    keys, values = keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3)  # [N, K, T, D]

    with jax.named_scope("attend"):
      if self.back_end == "plain":
        before = [(layer.keys_by_slot(), layer.values) for layer in cached]
        seen = zip(before, cached_masks, strict=True)
        blocks = [attention.Block(*keys_values, *masks) for keys_values, masks in seen]
        blocks.append(attention.Block(keys, values, mask))
        attend = attention.attend_token if x.shape[1] == 1 else attention.attend
        out = attend(queries, blocks)
      elif self.back_end == "blockwise":
        out = blockwise.attend(queries, keys, values, *mask, c.attention_chunk or blockwise.BLOCK)
      else:
        out = flash.attend(self.back_end, queries, keys, values, *mask)
    out = Projection(
      (h, w, d), ("heads", "head_dim", "embed"),
      fan_in=2, scale=0.5 / c.num_layers, adapter=c.adapter("o"), name="o",
    )(out)  # fmt: skip
    return out, (keys, values)


class SwiGLU(nn.Module):
  """Gated feed-forward layer (https://arxiv.org/abs/2002.05202)."""

  config: PolicyConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    d, f = c.hidden_size, c.intermediate_size

    def project(name: str, *args: Any, **options: Any) -> Projection:
      return Projection(*args, adapter=c.adapter(name), name=name, **options)

    gate = project("gate", (d, f), ("embed", "mlp"))(x)
    up = project("up", (d, f), ("embed", "mlp"))(x)
    hidden = constrain(jax.nn.silu(gate) * up, ("batch", None, "mlp"))
    return project("down", (f, d), ("mlp", "embed"), scale=0.5 / c.num_layers)(hidden)


class DecoderBlock(nn.Module):
  """Pre-norm attention and feed-forward, with the signature `nn.scan` wants: carry first."""

  config: PolicyConfig
  back_end: str

  @nn.compact
  def __call__(self, x, cached, cos, sin, mask, cached_masks):
    eps = self.config.rms_norm_eps
    with jax.named_scope("attention"):
      normed = RMSNorm(eps, "embed", name="attention_norm")(x)
      out, keys_values = Attention(self.config, self.back_end, name="attention")(
        normed, cos, sin, mask, cached, cached_masks
      )
      x = constrain(x + out, ACTIVATIONS)
    with jax.named_scope("mlp"):
      x += SwiGLU(self.config, name="mlp")(RMSNorm(eps, "embed", name="mlp_norm")(x))
    return constrain(x, ACTIVATIONS), keys_values


class Decoder(nn.Module):
  """Maps token ids to final hidden states; the head is separate (see `head`)."""

  config: PolicyConfig

  @nn.compact
  def __call__(
    self, tokens: Array, positions: Array, segment_ids: Array, context: Sequence[KVCache],
    prefix_ids: Array | None = None,
  ) -> tuple[Array, KVCache]:  # fmt: skip
    c = self.config
    # Rows of unit length: much smaller ones are swamped by the output of the first blocks, and a
    # small policy then learns nothing for hundreds of steps.
    init = nn.initializers.normal(c.hidden_size**-0.5)
    table_init = nn.with_logical_partitioning(init, ("vocab", "embed"))
    table = self.param("embedding", table_init, (c.vocab_size, c.hidden_size), jnp.float32)
    if not c.tie_embeddings:
      self.param("head", table_init, (c.vocab_size, c.hidden_size), jnp.float32)

    # Looked up in each device's columns of the table, then exchanged for whole rows: XLA would not
    # find this by itself, and would hold the rows of all devices on each.
    x = table[tokens].astype(jnp.dtype(c.dtype))
    if table.dtype == jnp.int8:
      x *= self.get_variable("params", "embedding_scale")[tokens][..., None].astype(x.dtype)
    x = constrain(x, ("row_groups", None, "embed"))
    if c.lora_tokens:
      rows = self._trained_rows("embedding_rows", init)
      if not c.tie_embeddings:
        self._trained_rows("head_rows", init)
      for token, row in zip(c.lora_tokens, rows, strict=True):
        x = jnp.where((tokens == token)[..., None], row.astype(x.dtype), x)
    x = constrain(x, ACTIVATIONS)
    cos, sin = rope.angles(c, positions)
    # Caches are for decoding, one token at a time.
    back_end = "plain" if context else flash.choose(c, tokens.shape[1], prefix_ids is not None)
    cached_masks = []
    if back_end == "plain":
      mask = attention.segment_mask(segment_ids, prefix_ids)[:, None]  # [N, 1, T, T]
      seen = (segment_ids > 0)[:, None, :, None]  # [N, 1, T, 1]
      cached_masks = [(_context_mask(cache, seen), cache.readers) for cache in context]
    else:
      mask = (segment_ids, jnp.zeros_like(segment_ids) if prefix_ids is None else prefix_ids)
    x, keys, values = self._blocks(back_end, x, context, cos, sin, mask, cached_masks)
    x = RMSNorm(c.rms_norm_eps, "embed", name="final_norm")(x)
    lengths = jnp.sum(segment_ids > 0, axis=1, dtype=jnp.int32)
    return x, KVCache(keys, values, lengths)

  def _trained_rows(self, name: str, init: Any) -> Array:
    """Rows `[tokens, d]` that take the place of those of `lora_tokens` in a frozen table."""
    boxed = nn.with_logical_partitioning(init, (None, "embed"))
    shape = (len(self.config.lora_tokens), self.config.hidden_size)
    return self.param(name, boxed, shape, jnp.float32)

  def _blocks(
    self, back_end: str, x: Array, context: Sequence[KVCache], cos, sin, mask, cached_masks
  ) -> tuple[Array, PerLayer, PerLayer]:
    c = self.config
    block = DecoderBlock
    if c.remat != "none":
      # Within scan, XLA cannot merge the recomputation away, so its guard would only cost speed.
      block = nn.remat(block, policy=_REMAT[c.remat], prevent_cse=not c.scan_layers)
    shared = (cos, sin, mask, cached_masks)
    if c.scan_layers:
      scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
        length=c.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
      )
      cached = [LayerCache(cache.keys, cache.values, cache.slots_last) for cache in context]
      x, (keys, values) = scanned(c, back_end, name="layers")(x, cached, *shared)
      return x, keys, values
    keys_values = []
    for i in range(c.num_layers):
      cached = [LayerCache(cache.keys[i], cache.values[i], cache.slots_last) for cache in context]
      x, new = block(c, back_end, name=f"layer_{i}")(x, cached, *shared)
      keys_values.append(new)
    keys, values = zip(*keys_values, strict=True)
    return x, keys, values


def _context_mask(cache: KVCache, seen: Array) -> Array:
  """Whether a query attends to a cached slot, `[rows, N / rows, T or 1, S]`."""
  valid = cache.visible
  if valid is None:
    valid = attention.length_mask(cache.lengths, cache.slots)
  if cache.readers:
    seen = seen[cache.readers.rows]
  return valid[:, None, None, :] & seen.reshape(cache.rows, -1, seen.shape[2], 1)

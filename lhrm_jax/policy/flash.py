"""Fused attention for training: cuDNN on NVIDIA GPUs, splash on TPUs.

Both take packed rows, and refuse what they can't compute exactly. cuDNN knows nothing of segments,
so the whole mask goes in as an additive bias; splash masks causally and by segment ids, and can't
express shared prefixes. `attention.attend` is what they are tested against.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from lhrm_jax import parallel
from lhrm_jax.policy import blockwise
from lhrm_jax.policy.config import PolicyConfig

_LANES = 128  # TPU kernels take whole multiples
_MAX_BLOCK = 512

# The platform that is compiled for, where it is not this machine's (`compiling_for`).
_target: contextvars.ContextVar[str] = contextvars.ContextVar("target", default="")


def choose(config: PolicyConfig, tokens: int, prefixes: bool = False) -> str:
  """The back end of attention over rows of `tokens`: "plain", "blockwise", "cudnn" or "splash".

  "auto" takes the platform's fused kernel where it is exact and can be partitioned, else XLA, block
  by block where there are several blocks.

  Args:
    config: config of the policy.
    tokens: tokens of a row.
    prefixes: whether tokens attend to shared prefixes, which splash can't express.

  Raises:
    ValueError: the config names a back end that this platform lacks, that does not compute in its
      dtype, or that can't express the mask.
  """
  platform, wanted = target_platform(), config.attention
  if wanted == "auto":
    # cuDNN's kernel takes wider heads from Hopper on only.
    fits = config.head_dim % 8 == 0 and config.head_dim <= 128
    if platform == "gpu" and config.dtype == "bfloat16" and fits:
      wanted = "cudnn"
    elif platform == "tpu" and (jax.device_count() == 1 or _devices_in_force() > 0):
      # Several devices: only where the mesh to split it over is known. Its blocks are whole lanes.
      wanted = "splash" if tokens >= _LANES and not prefixes else "xla"
    else:
      wanted = "xla"
  needs = {"cudnn": "gpu", "splash": "tpu"}.get(wanted, platform)
  if platform != needs:
    raise ValueError(
      f"policy.attention={wanted!r} needs a {needs.upper()}, and this is a {platform.upper()}: "
      "choose 'auto' or 'xla'."
    )
  if wanted == "cudnn" and config.dtype != "bfloat16":
    raise ValueError(
      f"policy.attention='cudnn' with policy.dtype={config.dtype!r}: cuDNN's kernel computes in "
      "bfloat16 only. Choose that, or attention='xla'."
    )
  if wanted == "splash" and prefixes:
    raise ValueError("policy.attention='splash' takes no prefixes: see `policy.shares_prefixes`.")
  if wanted == "xla" or tokens == 1:
    # Through one or two blocks of the default size a loop is not faster.
    return "plain" if tokens <= (config.attention_chunk or 2 * blockwise.BLOCK) else "blockwise"
  return wanted


def attend(
  back_end: str, queries: Array, keys: Array, values: Array, segment_ids: Array, prefix_ids: Array
) -> Array:
  """What `attention.attend` computes under `attention.segment_mask`, in a fused kernel.

  Args:
    back_end: "cudnn" or "splash", which ignores the prefixes (see `choose`).
    queries: `[N, T, H, D]`.
    keys: `[N, K, T, D]`.
    values: like `keys`.
    segment_ids: `[N, T]`, 0 for padding.
    prefix_ids: `[N, T]`.

  Returns:
    `[N, T, H, D]`. Rows of padding hold finite numbers without meaning.
  """
  t = segment_ids.shape[1]
  if back_end == "cudnn":
    return _cudnn(queries, keys, values, segment_ids, prefix_ids)[:, :t]
  return _on_each_device(_splash, queries, keys, values, segment_ids)[:, :t]


def _on_each_device(
  run: Callable[..., Array], queries: Array, keys: Array, values: Array, ids: Array
) -> Array:
  """Runs a Pallas kernel on the rows and heads of each device: XLA cannot split one by itself."""
  mesh = jax.sharding.get_abstract_mesh()
  left = set(mesh.axis_names) - set(mesh.manual_axes)
  if not left:  # an axis of one device that is left to XLA is refused too
    return run(queries, keys, values, ids)
  of_keys = parallel.spec_in_force(("batch", "kv_heads", None, None), keys.shape)
  rows, heads = of_keys[0], of_keys[1]  # whole groups of queries go with their keys
  of_queries, of_ids = PartitionSpec(rows, None, heads, None), PartitionSpec(rows, None)
  return jax.shard_map(
    run, in_specs=(of_queries, of_keys, of_keys, of_ids), out_specs=of_queries,
    axis_names=left, check_vma=False,
  )(queries, keys, values, ids)  # fmt: skip


def _devices_in_force() -> int:
  """Devices of the mesh in force that `jax.shard_map` has not split already; 0 without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return 0
  return math.prod(n for name, n in mesh.shape.items() if name not in mesh.manual_axes)


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """Within it, code is traced for another platform than this machine's: "tpu", "gpu" or "cpu"."""
  token = _target.set(platform)
  try:
    yield
  finally:
    _target.reset(token)


def target_platform() -> str:
  """The platform that is compiled for: "cpu", "gpu" or "tpu"."""
  return _target.get() or jax.default_backend()


def _cudnn(
  queries: Array, keys: Array, values: Array, ids: Array, prefixes: Array,
  implementation: str = "cudnn",
) -> Array:  # fmt: skip
  """cuDNN's flash attention under a mask in full, as a bias; causal blocks are skipped."""
  queries, ids, prefixes = (_pad(x, 1, 2) for x in (queries, ids, prefixes))
  keys, values = _pad(keys, 2, 2), _pad(values, 2, 2)  # an odd length has no gradient there
  place, of_keys = jnp.arange(ids.shape[1]), ids[:, None, :]
  mask = (ids[:, :, None] == of_keys) | (prefixes[:, :, None] == of_keys)
  # Padding sees all before it: cuDNN's gradient of a query that sees nothing is NaN.
  mask = (place <= place[:, None]) & ((mask & (of_keys > 0)) | (ids == 0)[:, :, None])
  return jax.nn.dot_product_attention(
    queries, keys.swapaxes(1, 2), values.swapaxes(1, 2), mask=mask[:, None], is_causal=True,
    implementation=implementation,
  )  # fmt: skip


def _splash(queries: Array, keys: Array, values: Array, ids: Array) -> Array:
  """Splash attention, padded to whole blocks, one kernel per key head and row."""
  n, t, h, d = queries.shape
  k = keys.shape[1]
  queries = queries.transpose(0, 2, 1, 3).reshape(n, k, h // k, t, d) * d**-0.5
  queries = _pad(_pad(queries, 3, _LANES), 4, _LANES)
  keys, values = (_pad(_pad(x, 2, _LANES), 3, _LANES) for x in (keys, values))
  ids = _pad(ids, 1, _LANES)
  kernel = _splash_kernel(h // k, ids.shape[1], interpret=target_platform() != "tpu")
  splash = _splash_module()

  def of_row(q: Array, ks: Array, vs: Array, row_ids: Array) -> Array:
    segments = splash.SegmentIds(q=row_ids, kv=row_ids)
    return jax.vmap(lambda *x: kernel(*x, segment_ids=segments))(q, ks, vs)

  out = jax.vmap(of_row)(queries, keys, values, ids)  # [N, K, H/K, T, D]
  return out[..., :t, :d].reshape(n, h, t, d).transpose(0, 2, 1, 3)


def _splash_module():
  from jax.experimental.pallas.ops.tpu import splash_attention

  return splash_attention


def _splash_kernel(heads: int, tokens: int, *, interpret: bool):
  splash = _splash_module()
  block = _block(tokens)
  sizes = splash.BlockSizes(
    block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
    block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
  )  # fmt: skip
  mask = splash.MultiHeadMask([splash.CausalMask((tokens, tokens))] * heads)
  return splash.make_splash_mqa_single_device(mask, block_sizes=sizes, interpret=interpret)


def _block(size: int) -> int:
  """The largest block of at most `_MAX_BLOCK` that divides `size`, a multiple of `_LANES`."""
  return max(b for b in range(_LANES, _MAX_BLOCK + 1, _LANES) if size % b == 0)


def _pad(x: Array, axis: int, multiple: int) -> Array:
  """Zeros at the end of an axis, up to a multiple."""
  pads = np.zeros((x.ndim, 2), int)
  pads[axis, 1] = -x.shape[axis] % multiple
  return jnp.pad(x, pads) if pads.any() else x

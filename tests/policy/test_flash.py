"""Attention in blocks and in fused kernels against plain attention, for every mask of training."""

import dataclasses
import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax import parallel, policy
from lhrm_jax.policy import attention, blockwise, flash

N, T, H, K, D = 2, 21, 4, 2, 16
# Everything of the cuDNN path but its kernel, which runs on NVIDIA GPUs only.
plain_cudnn = functools.partial(flash._cudnn, implementation="xla")

# What each mask is in segment and prefix ids `[N, T]`.
MASKS = {
  "packed documents": ([[1] * 5 + [2] * 9 + [3] * 7, [1] * 12 + [2] * 3 + [0] * 6], None),
  "padded responses": ([[1] * 17 + [0] * 4, [1] * 3 + [0] * 18], None),
  "responses that share a prompt": (
    [[1] * 4 + [2] * 5 + [3] * 3 + [4] * 2 + [5] * 4 + [0] * 3, [1] * 9 + [2] + [3] * 11],
    [[0] * 4 + [1] * 8 + [0] * 2 + [4] * 4 + [0] * 3, [0] * 9 + [1] * 12],
  ),
}  # fmt: skip


def ids_of(kind):
  ids, prefixes = MASKS[kind]
  ids = jnp.array(ids)
  return ids, jnp.zeros_like(ids) if prefixes is None else jnp.array(prefixes)


@functools.partial(jax.jit, static_argnums=0)
def value_and_grad(attend, *args):
  """Outputs of all tokens that are not padding, and gradients of queries, keys and values."""
  queries, keys, values, ids, prefixes = args
  visible = (ids > 0)[..., None, None]
  ahead = jax.random.normal(jax.random.key(9), queries.shape)

  def total(*heads):
    out = jnp.where(visible, attend(*heads, ids, prefixes), 0.0)
    return jnp.sum(out * ahead), out

  run = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
  (_, out), grads = run(queries, keys, values)
  return out, grads


def plain(queries, keys, values, ids, prefixes):
  mask = attention.segment_mask(ids, prefixes)[:, None]
  return attention.attend(queries, [attention.Block(keys, values, mask)])


def assert_same_as_plain(attend, kind):
  keys = jax.random.split(jax.random.key(0), 3)
  heads = (jax.random.normal(keys[0], (N, T, H, D)),)
  heads += tuple(jax.random.normal(key, (N, K, T, D)) for key in keys[1:])
  expected, actual = (value_and_grad(f, *heads, *ids_of(kind)) for f in (plain, attend))
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("block", [4, 21])
def test_attention_block_by_block_is_exact(kind, block):
  assert_same_as_plain(functools.partial(blockwise.attend, block=block), kind)


@pytest.mark.parametrize("kind", MASKS)
def test_cudnn_is_given_the_exact_mask(kind):
  assert_same_as_plain(lambda *args: plain_cudnn(*args)[:, :T], kind)


@pytest.mark.parametrize("kind", list(MASKS)[:2])
def test_splash_is_exact(kind):
  assert_same_as_plain(lambda *args: flash._splash(*args[:4])[:, :T], kind)


def test_blocks_that_the_mask_empties_are_skipped():
  """NaN in the keys of another document's blocks, which a product would spread."""
  ids = jnp.array([[1] * 8 + [2] * 8 + [3] * 8])
  heads = jnp.ones((1, 24, H, D)), *(jnp.ones((1, K, 24, D)).at[:, :, :8].set(jnp.nan),) * 2
  out = blockwise.attend(*heads, ids, jnp.zeros_like(ids).at[:, 16:].set(2), 4)
  assert np.isnan(out[:, :8]).all() and not np.isnan(out[:, 8:]).any()


def test_no_scores_of_all_pairs_are_stored():
  """Forward and backward, in 64 blocks: no array is as large as a quarter of `T x T`."""
  t, block = 512, 8
  shapes = [(1, t, 1, 8), (1, 1, t, 8), (1, 1, t, 8)]
  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  args += [jax.ShapeDtypeStruct((1, t), jnp.int32)] * 2
  attend = functools.partial(blockwise.attend, block=block)
  text = value_and_grad.lower(attend, *args).compile().as_text()
  sizes = [np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"\[([\d,]+)\]", text)]
  assert max(sizes) < t * t / 4


def test_no_query_of_cudnn_is_left_without_a_key(monkeypatch):
  """Not even padding, whose gradient there would be NaN."""
  masks = []
  monkeypatch.setattr(
    jax.nn, "dot_product_attention", lambda q, *_, mask, **__: masks.append(mask) or q
  )
  ids, prefixes = ids_of("padded responses")
  heads = jnp.zeros((N, T, H, D)), *(jnp.zeros((N, K, T, D)) for _ in range(2))
  flash.attend("cudnn", *heads, ids, prefixes)
  assert jnp.all(jnp.any(masks[0], axis=-1))


def test_the_policy_hands_segments_and_prefixes_on(monkeypatch, config, params):
  """Packed tokens through the whole decoder, with every back end that takes prefixes."""
  tokens = jax.random.randint(jax.random.key(0), (N, T), 5, config.vocab_size)
  ids, prefixes = ids_of("responses that share a prompt")

  def run(config):
    positions = policy.segment_positions(ids)
    apply = functools.partial(policy.apply, config)
    hidden, _ = jax.jit(apply)(params, tokens, positions, ids, prefix_ids=prefixes)
    return hidden * (ids > 0)[..., None]

  expected = run(config)
  in_blocks = dataclasses.replace(config, attention_chunk=4)
  assert flash.choose(in_blocks, T) == "blockwise" and flash.choose(config, T) == "plain"
  np.testing.assert_allclose(run(in_blocks), expected, atol=2e-5)
  monkeypatch.setattr(flash, "_cudnn", plain_cudnn)
  monkeypatch.setattr(flash, "choose", lambda *_: "cudnn")
  np.testing.assert_allclose(run(config), expected, atol=2e-5)


def test_back_ends_are_refused_where_they_are_not_exact(config, monkeypatch):
  for name in ("cudnn", "splash"):
    with pytest.raises(ValueError, match="this is a CPU"):
      flash.choose(dataclasses.replace(config, attention=name), 8)
  assert flash.choose(config, 128) == "plain" and flash.choose(config, 129) == "blockwise"

  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  bfloat16 = dataclasses.replace(config, dtype="bfloat16")
  assert flash.choose(config, 8) == "plain", "cuDNN does not compute in float32"
  assert flash.choose(bfloat16, 8) == "cudnn"
  assert flash.choose(bfloat16, 1) == "plain"
  with pytest.raises(ValueError, match="bfloat16 only"):
    flash.choose(dataclasses.replace(config, attention="cudnn"), 8)


def test_a_tpu_gets_splash_where_its_kernel_can_be_split(config):
  with flash.compiling_for("tpu"):
    assert flash.choose(config, 128) == ("splash" if jax.device_count() == 1 else "plain")
    assert flash.choose(config, 127) == "plain", "its blocks are 128 wide"
    with parallel.over(parallel.make_mesh()):
      assert flash.choose(config, 128) == "splash"
      assert flash.choose(config, 128, True) == "plain", "it takes no prefixes"
      assert not policy.shares_prefixes(config, 128) and policy.shares_prefixes(config, 127)
    with pytest.raises(ValueError, match="needs a GPU, and this is a TPU"):
      flash.choose(dataclasses.replace(config, attention="cudnn"), 128)


ON_DEVICES = """
import dataclasses, jax, jax.numpy as jnp, numpy as np
from lhrm_jax import parallel, policy
from lhrm_jax.policy import flash

config = policy.PolicyConfig(vocab_size=32, hidden_size=32, intermediate_size=64, num_layers=1,
                             num_heads=4, num_kv_heads=2, attention_chunk=0)
params = policy.init(config, jax.random.key(0))
tokens = jax.random.randint(jax.random.key(1), (8, 20), 0, 32)
packed, padded = [1] * 9 + [2] * 11, [1] * 3 + [2] * 4 + [0] * 13
ids = jnp.array([[1] * 20, [1] * 7 + [0] * 13, packed, padded] * 2)
mesh = parallel.make_mesh(2, 2, 2)

def loss(params):
  with parallel.over(mesh):
    hidden, _ = policy.apply(config, params, tokens, policy.segment_positions(ids), ids)
  return jnp.sum(jnp.sin(hidden) * (ids > 0)[..., None])

plain = jax.jit(jax.value_and_grad(loss))(params)
flash.choose = lambda *_: "splash"
shardings = parallel.param_shardings(mesh, policy.logical_axes(config))
fused = jax.jit(jax.value_and_grad(lambda p: loss(p)))
placed = jax.device_put(params, shardings)
text = str(jax.make_jaxpr(fused)(placed))
assert "shard_map" in text and "pallas_call" in text
for actual, expected in zip(jax.tree.leaves(fused(placed)), jax.tree.leaves(plain), strict=True):
  np.testing.assert_allclose(actual, expected, atol=2e-4, rtol=1e-4)
"""


@pytest.mark.slow
def test_splash_runs_on_the_rows_and_heads_of_each_device():
  """Packed and padded rows over 2 x 2 devices, heads over 2: values and all gradients."""
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
  done = subprocess.run(
    [sys.executable, "-c", ON_DEVICES], env=environment, capture_output=True, text=True,
    timeout=300, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]

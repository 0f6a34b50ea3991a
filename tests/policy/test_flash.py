"""Fused attention against plain attention, for every mask that training uses."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax import parallel, policy
from lhrm_jax.policy import attention, flash

N, T, H, K, D = 2, 21, 4, 2, 16
# Everything of the cuDNN path but its kernel, which runs on NVIDIA GPUs only.
plain_cudnn = functools.partial(flash._cudnn, implementation="xla")

KERNELS = {"cudnn": plain_cudnn, "splash": flash._splash}


def case(kind):
  """Segment ids `[N, T]`, and lengths of a cached block of 6 slots or none."""
  if kind == "packed documents":
    return jnp.array([[1] * 5 + [2] * 9 + [3] * 7, [1] * 12 + [2] * 3 + [0] * 6]), None
  if kind == "padded responses":
    return (jnp.arange(T) < jnp.array([[17], [3]])).astype(jnp.int32), None
  rows = N if kind == "prompt of each response" else 1
  return (jnp.arange(T) < jnp.array([[T], [9]])).astype(jnp.int32), jnp.array([4, 6])[:rows]


@pytest.mark.parametrize("back_end", KERNELS)
@pytest.mark.parametrize(
  "kind",
  ["packed documents", "padded responses", "prompt of each response", "one prompt for all"],
)
def test_fused_attention_is_exact(monkeypatch, back_end, kind):
  """Outputs of all tokens, and gradients of queries, keys, values and the cache."""
  monkeypatch.setattr(flash, f"_{back_end}", KERNELS[back_end])
  ids, lengths = case(kind)
  rows = 0 if lengths is None else len(lengths)
  keys = jax.random.split(jax.random.key(0), 6)
  queries = jax.random.normal(keys[0], (N, T, H, D))
  own = tuple(jax.random.normal(key, (N, K, T, D)) for key in keys[1:3])
  cached = tuple(jax.random.normal(key, (rows, K, 6, D)) for key in keys[3:5])
  ahead = jax.random.normal(keys[5], (N, T, H, D)) * (ids > 0)[..., None, None]

  def plain(queries, own, cached):
    blocks = [attention.Block(*own, attention.causal_mask(ids)[:, None])]
    if rows:
      mask = attention.length_mask(lengths, 6)[:, None, None] & (ids > 0).reshape(rows, -1, T, 1)
      blocks.append(attention.Block(*cached, mask))
    return attention.attend(queries, blocks)

  def fused(queries, own, cached):
    blocks = ([cached], [lengths]) if rows else ([], [])
    return flash.attend(back_end, queries, *own, ids, *blocks)

  def value_and_grad(attend):
    def total(*args):
      out = attend(*args)
      return jnp.sum(out * ahead), out

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (_, out), grads = run(queries, own, cached)
    return out * (ids > 0)[..., None, None], grads

  for actual, expected in zip(
    jax.tree.leaves(value_and_grad(fused)), jax.tree.leaves(value_and_grad(plain)), strict=True
  ):
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("cached", [0, 6])
def test_no_query_of_cudnn_is_left_without_a_key(monkeypatch, cached):
  """Not even padding, whose gradient there would be NaN."""
  masks = []
  monkeypatch.setattr(
    jax.nn, "dot_product_attention", lambda q, *_, mask, **__: masks.append(mask) or q
  )
  ids, _ = case("padded responses")
  before = ([(jnp.zeros((1, K, 6, D)),) * 2], [jnp.array([0])]) if cached else ((), ())
  own = ids if cached else ids * 2
  heads = jnp.zeros((N, T, H, D)), *(jnp.zeros((N, K, T, D)) for _ in range(2))
  flash.attend("cudnn", *heads, own, *before)
  assert jnp.all(jnp.any(masks[0], axis=-1))


def test_the_policy_hands_segments_and_lengths_on(monkeypatch, config, params):
  """Packed tokens, and responses to one cached prompt, through the whole decoder."""
  tokens = jax.random.randint(jax.random.key(0), (2, 12), 5, config.vocab_size)
  ids = jnp.array([[1] * 5 + [2] * 7, [1] * 9 + [0] * 3])
  prompt = dataclasses.replace(
    policy.apply(config, params, tokens[:1, :6], jnp.arange(6)[None])[1], lengths=jnp.array([4])
  )

  def run(params):
    packed = policy.apply(config, params, tokens, policy.segment_positions(ids), ids)[0]
    positions = jnp.broadcast_to(4 + jnp.arange(12), (2, 12))
    response = (ids == 1).astype(jnp.int32)
    answered = policy.apply(config, params, tokens, positions, response, (prompt,))[0]
    return packed * (ids > 0)[..., None], answered * response[..., None]

  expected = jax.jit(run)(params)
  monkeypatch.setattr(flash, "_cudnn", plain_cudnn)
  monkeypatch.setattr(flash, "choose", lambda *_: "cudnn")
  for actual, plain in zip(jax.jit(lambda p: run(p))(params), expected, strict=True):
    np.testing.assert_allclose(actual, plain, atol=2e-5)


def test_back_ends_are_refused_where_they_are_not_exact(config, monkeypatch):
  for name in ("cudnn", "splash"):
    with pytest.raises(ValueError, match="this is a CPU"):
      flash.choose(dataclasses.replace(config, attention=name), 8)
  assert flash.choose(config, 8) == "xla"

  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  bfloat16 = dataclasses.replace(config, dtype="bfloat16")
  assert flash.choose(config, 8) == "xla", "cuDNN does not compute in float32"
  assert flash.choose(bfloat16, 8) == "cudnn"
  assert flash.choose(bfloat16, 1) == "xla"
  with pytest.raises(ValueError, match="bfloat16 only"):
    flash.choose(dataclasses.replace(config, attention="cudnn"), 8)


def test_a_tpu_gets_splash_where_its_kernel_can_be_split(config):
  with flash.compiling_for("tpu"):
    assert flash.choose(config, 128) == ("splash" if jax.device_count() == 1 else "xla")
    assert flash.choose(config, 127) == "xla", "its blocks are 128 wide"
    with parallel.over(parallel.make_mesh()):
      assert flash.choose(config, 128) == "splash"
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
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
  done = subprocess.run(
    [sys.executable, "-c", ON_DEVICES], env=environment, capture_output=True, text=True,
    timeout=300, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]

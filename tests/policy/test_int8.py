"""Weights as int8: rounded per output channel, and multiplied as integers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax import policy
from lhrm_jax.policy import int8
from tests.conftest import policy_logits, sharpened


def test_a_product_by_hand():
  weight, scales = int8.rounded(jnp.array([[127.0, 0.5], [-63.5, 0.25]]), 0)
  np.testing.assert_array_equal(weight, [[127, 127], [-64, 64]])  # 63.5 is rounded to even
  np.testing.assert_allclose(scales, [[1.0, 0.5 / 127]])
  rows = jnp.array([[127.0, 0.0], [0.0, -2.0], [0.0, 0.0], [127.0, 100 / 254]])
  got = int8.product(rows, weight, scales[0])
  np.testing.assert_allclose(
    got,
    [[127 * 127, 127 * 0.5], [128, -2 * 64 / 254], [0, 0],
     [127 * 127 - 64 * 100 / 254, 127 / 2 + 64 / 254 * 100 / 254]],
    rtol=1e-6,
  )  # fmt: skip
  np.testing.assert_array_equal(int8.product(rows, weight.T, scales[0], transposed=True), got)


def test_a_rows_product_depends_on_no_other_row():
  x, weight = jax.random.normal(jax.random.key(0), (20, 33)), jnp.arange(33 * 7).reshape(33, 7)
  weight, scales = int8.rounded(weight - 100, 0)
  together = int8.product(x.at[5].mul(1e6), weight, scales[0])
  for i in (0, 19):
    np.testing.assert_array_equal(together[i], int8.product(x[i : i + 1], weight, scales[0])[0])


@pytest.mark.parametrize(("scan", "tied"), [(False, True), (True, False)])
def test_every_output_channel_has_a_scale_and_logits_stay_close(config, scan, tied):
  config = dataclasses.replace(config, scan_layers=scan, tie_embeddings=tied)
  params = sharpened(jax.jit(policy.init, static_argnums=0)(config, jax.random.key(3)))
  small, layer = policy.quantised(params), "layers" if scan else "layer_0"
  shapes = {"q": (4, 8), "o": (32,)}  # of outputs: heads and their width, or the hidden state's
  for name, shape in shapes.items():
    held = small[layer]["attention"][name]
    assert held["kernel"].dtype == jnp.int8 and held["kernel_scale"].shape[-len(shape) :] == shape
    axes = tuple(range(-3, -len(shape)))
    # Each channel uses the whole range of int8.
    np.testing.assert_array_equal(np.abs(held["kernel"].astype(int)).max(axes), 127)
  assert small["embedding_scale"].shape == (config.vocab_size,)
  kept = policy.in_compute_dtype(dataclasses.replace(config, dtype="bfloat16"), small)
  assert kept["embedding_scale"].dtype == jnp.float32 and kept["embedding"].dtype == jnp.int8
  tokens = np.arange(48, dtype=np.int32).reshape(3, 16) % 20 + 3
  exact, got = policy_logits(config, params, tokens), policy_logits(config, small, tokens)
  error = np.abs(got - exact).mean() / np.abs(exact - exact.mean(-1, keepdims=True)).mean()
  assert 0.001 < error < 0.05, error

"""The decoder: caches, packing, padding, layouts, chunked log-probabilities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax import policy
from lhrm_jax.policy import PolicyConfig, RopeScaling, head, rope
from tests.conftest import policy_apply, policy_logits, sharpened

append = jax.jit(policy.cache.append)
policy_init = jax.jit(policy.init, static_argnums=0)

VARIANTS = {
  "qwen2": {"qkv_bias": True, "qk_norm": False},
  "qwen3": {"qkv_bias": False, "qk_norm": True},
  "llama": {"qkv_bias": False, "qk_norm": False, "tie_embeddings": False,
            "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 16)},
  "wide_heads": {"head_dim": 16, "num_kv_heads": 1},
}  # fmt: skip


@pytest.fixture(params=VARIANTS, scope="module")
def variant(request, config):
  return dataclasses.replace(config, **VARIANTS[request.param])


@pytest.fixture(scope="module")
def variant_params(variant):
  return perturbed(policy_init(variant, jax.random.key(0)))


def perturbed(params):
  """Moves biases and scales off their initial values, where errors in them would not show."""
  leaves, tree = jax.tree.flatten(sharpened(params))
  keys = jax.random.split(jax.random.key(5), len(leaves))
  return tree.unflatten(
    [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  )


def random_tokens(config, shape, seed=1):
  return jax.random.randint(jax.random.key(seed), shape, 0, config.vocab_size)


def test_decoding_with_a_cache_equals_the_full_forward(variant, variant_params):
  """Token by token, over a prompt cache shared by three rows each and a growing own cache."""
  prompts, shared, steps = 2, 3, 4
  prompt = random_tokens(variant, (prompts, 5))
  response = random_tokens(variant, (prompts * shared, steps), seed=2)
  whole = jnp.concatenate([jnp.repeat(prompt, shared, axis=0), response], axis=1)
  expected = policy_logits(variant, variant_params, whole)[:, 5:]

  positions = jnp.broadcast_to(jnp.arange(5), prompt.shape)
  _, prefix = policy_apply(variant, variant_params, prompt, positions)
  cache = policy.cache.empty(variant, prompts * shared, steps + 2)
  for t in range(steps):
    at = jnp.full((prompts * shared, 1), 5 + t)
    hidden, new = policy_apply(
      variant, variant_params, response[:, t : t + 1], at, context=(prefix, cache)
    )
    cache = append(cache, new, t)
    logits = policy.next_token_logits(variant, variant_params, hidden[:, 0])
    np.testing.assert_allclose(logits, expected[:, t], atol=2e-5)


def test_scanned_layers_equal_unrolled_ones(variant, variant_params):
  scanned = dataclasses.replace(variant, scan_layers=True)
  layers = [variant_params[f"layer_{i}"] for i in range(variant.num_layers)]
  rest = {k: v for k, v in variant_params.items() if not k.startswith("layer_")}
  stacked = {**rest, "layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}
  shapes = jax.eval_shape(lambda: policy_init(scanned, jax.random.key(0)))
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(lambda s: s.shape, shapes)
  tokens = random_tokens(variant, (2, 6))
  np.testing.assert_allclose(
    policy_logits(scanned, stacked, tokens),
    policy_logits(variant, variant_params, tokens),
    atol=1e-5,
  )


@pytest.mark.parametrize("remat", ["dots", "full"])
@pytest.mark.parametrize("scan", [False, True])
def test_remat_changes_no_gradient(config, remat, scan):
  plain = dataclasses.replace(config, scan_layers=scan)
  params = policy_init(plain, jax.random.key(0))
  tokens = random_tokens(config, (2, 6))

  def loss(config):
    return lambda params: jnp.sum(policy_logits(config, params, tokens) ** 2)

  expected = jax.jit(jax.grad(loss(plain)))(params)
  grads = jax.jit(jax.grad(loss(dataclasses.replace(plain, remat=remat))))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), grads, expected)


def test_packed_documents_do_not_see_each_other(config, params):
  first, second = random_tokens(config, (1, 4), 1), random_tokens(config, (1, 5), 2)
  packed = jnp.concatenate([first, second, jnp.zeros((1, 2), jnp.int32)], axis=1)
  segments = jnp.array([[1] * 4 + [2] * 5 + [0] * 2])
  together = policy_logits(config, params, packed, segments)
  np.testing.assert_allclose(together[:, :4], policy_logits(config, params, first), atol=1e-5)
  np.testing.assert_allclose(together[:, 4:9], policy_logits(config, params, second), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(config, params, side):
  tokens = random_tokens(config, (2, 5))
  widths = ((0, 0), (3, 0)) if side == "left" else ((0, 0), (0, 3))
  padded = jnp.pad(tokens, widths, constant_values=9)
  segments = jnp.pad(jnp.ones_like(tokens), widths)
  logits = policy_logits(config, params, padded, segments)
  kept = logits[:, 3:] if side == "left" else logits[:, :5]
  np.testing.assert_allclose(kept, policy_logits(config, params, tokens), atol=1e-5)


def test_later_tokens_never_change_earlier_ones(config, params):
  tokens = random_tokens(config, (1, 8))
  changed = tokens.at[0, 5].add(1)
  before, after = (policy_logits(config, params, x) for x in (tokens, changed % config.vocab_size))
  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert not np.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunked_logprobs_equal_log_softmax(config, params, chunk, temperature):
  config = dataclasses.replace(config, logprob_chunk=chunk)
  tokens = random_tokens(config, (3, 9))
  targets = random_tokens(config, (3, 9), seed=4)
  hidden, _ = policy_apply(config, params, tokens, jnp.broadcast_to(jnp.arange(9), (3, 9)))

  def chunked(hidden):
    scored = policy.token_logprobs(config, params, hidden, targets, temperature)
    return jnp.sum(jnp.sin(scored.logprobs)) + jnp.sum(scored.entropy), scored

  def direct(hidden):
    logp = jax.nn.log_softmax(policy.next_token_logits(config, params, hidden) / temperature)
    chosen = jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    return jnp.sum(jnp.sin(chosen)) + jnp.sum(entropy), (chosen, entropy)

  (_, scored), grad = jax.jit(jax.value_and_grad(chunked, has_aux=True))(hidden)
  (_, expected), expected_grad = jax.jit(jax.value_and_grad(direct, has_aux=True))(hidden)
  np.testing.assert_allclose(scored.logprobs, expected[0], atol=1e-5)
  np.testing.assert_allclose(scored.entropy, expected[1], atol=1e-5)
  np.testing.assert_allclose(grad, expected_grad, atol=1e-5)


def test_the_head_is_computed_where_a_target_is_and_no_further(config, params):
  """Two targets of one hidden state, and chunks beyond the last target left at 0, also backward."""
  config = dataclasses.replace(config, logprob_chunk=4)  # two targets of each row at a time
  hidden = jax.random.normal(jax.random.key(0), (2, 5, config.hidden_size))
  sources = jnp.array([[3, 3, 0, 1, 2, 4], [4, 1, 1, 0, 0, 0]])
  targets = random_tokens(config, (2, 6))

  @jax.jit
  def some(hidden, params):
    scored = policy.token_logprobs(config, params, hidden, targets, 1.0, sources, 3)
    return jnp.sum(jnp.sin(scored.logprobs)), scored.logprobs

  @jax.jit
  def direct(hidden, params):
    taken = jnp.take_along_axis(hidden, sources[:, :4, None], axis=1)
    logprobs = jax.nn.log_softmax(policy.next_token_logits(config, params, taken))
    logprobs = jnp.take_along_axis(logprobs, targets[:, :4, None], axis=-1)[..., 0]
    return jnp.sum(jnp.sin(logprobs)), jnp.pad(logprobs, ((0, 0), (0, 2)))

  (_, found), grads = jax.value_and_grad(some, argnums=(0, 1), has_aux=True)(hidden, params)
  (_, expected), exact = jax.value_and_grad(direct, argnums=(0, 1), has_aux=True)(hidden, params)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, exact)


def test_the_head_has_the_gradient_that_jax_derives(config, params):
  """Of the states and of the table, at places that repeat and whose cotangents differ."""
  keys = jax.random.split(jax.random.key(3), 3)
  hidden = jax.random.normal(keys[0], (2, 5, config.hidden_size))
  table = jax.random.normal(keys[1], (config.vocab_size, config.hidden_size))
  ahead = jax.random.normal(keys[2], (2, 5, config.vocab_size))

  def grads(product):
    return jax.grad(lambda *x: jnp.sum(product(*x) * ahead), argnums=(0, 1))(hidden, table)

  expected = grads(lambda h, x: jnp.einsum("btd,vd->btv", h, x))
  for actual, exact in zip(grads(head._product), expected, strict=True):
    np.testing.assert_allclose(actual, exact, rtol=1e-5, atol=1e-5)

  # In bfloat16 what comes from above is rounded first; the table's sum is float32.
  short = hidden.astype(jnp.bfloat16)
  of_table = jax.grad(lambda x: jnp.sum(head._product(short, x) * ahead))(table)
  assert of_table.dtype == jnp.float32
  exact = jnp.einsum("btv,btd->vd", ahead, short.astype(jnp.float32))
  rounded = ahead.astype(jnp.bfloat16).astype(jnp.float32)
  expected = jnp.einsum("btv,btd->vd", rounded, short.astype(jnp.float32))
  np.testing.assert_allclose(of_table, expected, rtol=1e-5, atol=1e-5)
  assert jnp.abs(of_table - exact).max() > 1e-3


def test_bfloat16_computes_near_float32_and_keeps_float32_masters(config, params):
  half = dataclasses.replace(config, dtype="bfloat16")
  tokens = random_tokens(config, (2, 6))
  hidden, _ = policy_apply(half, params, tokens, jnp.broadcast_to(jnp.arange(6), (2, 6)))
  assert hidden.dtype == jnp.bfloat16
  exact, rounded = policy_logits(config, params, tokens), policy_logits(half, params, tokens)
  assert rounded.dtype == jnp.float32
  assert float(jnp.abs(exact - rounded).mean()) < 0.03 * float(jnp.abs(exact).mean())
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(policy_init(half, jax.random.key(0))))


def test_rope_depends_on_distance_alone(config):
  """q at p and k at p - 3 have the same product wherever p is."""
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, config.head_dim))

  def product(at):
    cos, sin = rope.angles(config, jnp.array([[at]]))
    earlier = rope.angles(config, jnp.array([[at - 3]]))
    return jnp.sum(rope.rotate(q, cos, sin) * rope.rotate(k, *earlier))

  np.testing.assert_allclose(product(3), product(47), rtol=1e-4)
  cos, sin = rope.angles(config, jnp.array([[0]]))
  np.testing.assert_array_equal(rope.rotate(q, cos, sin), q)


def test_llama3_scaling_by_hand():
  """Wavelengths 2 pi, 20 pi, ... at base 100: the short is kept, the long divided by the factor."""
  scaling = RopeScaling("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                        original_positions=64)  # fmt: skip
  config = PolicyConfig(8, 8, 8, 1, 1, 1, head_dim=8, rope_theta=10_000.0, rope_scaling=scaling)
  plain = np.array([1.0, 0.1, 0.01, 0.001])
  # Kept below a wavelength of 64 / 4, divided above 64 / 1; 2 pi / 0.1 = 62.8 lies between.
  blend = (64 * 0.1 / (2 * np.pi) - 1) / 3
  middle = 0.1 * ((1 - blend) / 8 + blend)
  np.testing.assert_allclose(
    rope.frequencies(config), [1.0, middle, plain[2] / 8, plain[3] / 8], rtol=1e-5
  )


def test_logical_axes_match_the_parameters(config):
  for scan in (False, True):
    c = dataclasses.replace(config, scan_layers=scan, tie_embeddings=False)
    shapes = jax.eval_shape(lambda c=c: policy_init(c, jax.random.key(0)))
    axes = policy.logical_axes(c)
    jax.tree.map(
      lambda s, a: np.testing.assert_equal(len(s.shape), len(a)), shapes, axes,
      is_leaf=lambda x: isinstance(x, tuple),
    )  # fmt: skip


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads"),
    ({"remat": "some"}, "policy.remat='some'"),
    ({"dtype": "float8"}, "policy.dtype"),
    ({"head_dim": 7}, "head_dim=7 is odd"),
  ],
)
def test_impossible_configs_are_refused(config, fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(config, **fields)


def test_config_survives_a_round_trip(config):
  scaled = dataclasses.replace(config, rope_scaling=RopeScaling("llama3", 8.0))
  assert PolicyConfig.from_dict(scaled.to_dict()) == scaled

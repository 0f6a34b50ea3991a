"""Draws and truncations against their definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.sampling import sample_tokens

ALL = 2**23  # values that a float32 uniform number takes
V = 151_936


def logits_like(name, size=V):
  rng = np.random.default_rng(0)
  normal = rng.normal(size=size)
  return {
    "normal": normal,
    "zipf": np.log(np.arange(1, size + 1) ** -1.5)[rng.permutation(size)],
    "sharp": 10 * normal,
    "flat": np.zeros(size),
    "ties": np.round(2 * normal) / 2,
    # Rows that fill up a vocabulary, at its end and within it.
    "padded": np.where((np.arange(size) % 7 == 3) | (np.arange(size) > size - 300), -1e30, normal),
  }[name].astype(np.float32)


def smallest_set(probs, top_p, top_k):
  """The kept tokens, by a stable sort, and how close the sums come to `top_p`."""
  order = np.argsort(-probs, kind="stable")
  before = np.cumsum(probs[order], dtype=np.float64) - probs[order]
  keep = (before < top_p) | (top_p >= 1)
  keep &= np.arange(len(probs)) < (top_k or len(probs))
  keep[0] = True
  mask = np.zeros(len(probs), bool)
  mask[order[keep]] = True
  return mask & (probs > 0), np.abs(before - top_p).min()


@jax.jit
def draws(logits, uniforms, top_p, top_k):
  """One distribution, many numbers: tokens `[U]`."""

  def one(uniform):
    return sample_tokens(logits[None], uniform[None], jnp.float32(1), top_p, top_k)[0][0]

  return jax.vmap(one)(uniforms)


def check_draws(name, top_p, top_k, numbers):
  """No number draws a token outside the kept set; returns how often each was drawn, and should."""
  logits = jnp.asarray(logits_like(name))
  probs = np.asarray(jax.nn.softmax(logits))
  kept, _ = smallest_set(probs, np.float32(top_p), top_k)
  found = [
    np.asarray(draws(logits, part.astype(np.float32) / ALL, jnp.float32(top_p), jnp.int32(top_k)))
    for part in np.array_split(numbers, -(-len(numbers) // 2**17))
  ]
  counts = np.bincount(np.concatenate(found), minlength=V)
  assert not counts[~kept].sum(), "a token was drawn that is not kept"
  expected = np.where(kept, probs.astype(np.float64), 0)
  return counts, expected / expected.sum()


DISTRIBUTIONS = [
  ("zipf", 1.0, 1000), ("zipf", 0.95, 0), ("normal", 1.0, 0), ("padded", 1.0, 0),
  ("padded", 0.9, 0), ("sharp", 0.99, 0), ("ties", 1.0, 5000),
]  # fmt: skip


@pytest.mark.parametrize("name, top_p, top_k", DISTRIBUTIONS)
def test_no_draw_leaves_the_kept_tokens(name, top_p, top_k):
  """Around the sums of the 1,187 blocks of 128 tokens, where rounding shows, and at both ends."""
  probs = np.asarray(jax.nn.softmax(jnp.asarray(logits_like(name))))
  probs = np.where(smallest_set(probs, np.float32(top_p), top_k)[0], probs, 0).astype(np.float64)
  edges = np.round(np.cumsum(probs / probs.sum())[127::128] * ALL).astype(int)
  near = (edges[:, None] + np.arange(-4, 5)).ravel()
  ends = np.r_[:500, ALL - 500 : ALL]
  check_draws(name, top_p, top_k, np.unique(np.clip(np.r_[near, ends], 0, ALL - 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name, top_p, top_k", DISTRIBUTIONS)
def test_all_uniform_numbers_draw_kept_tokens_as_often_as_they_should(name, top_p, top_k):
  counts, expected = check_draws(name, top_p, top_k, np.arange(ALL))
  # In steps of the grid: one for the grid itself, the rest for rounding in the sums.
  assert np.abs(counts - expected * ALL).max() <= 4


@pytest.mark.parametrize("size", [5, 1000, 40_000])
@pytest.mark.parametrize("name", ["normal", "zipf", "sharp", "flat", "ties", "padded"])
def test_top_p_and_top_k_keep_the_smallest_set(name, size):
  from lhrm_jax.sampling import tokens

  @jax.jit
  def truncate(probs, top_p, top_k):
    limits = (jnp.full(1, top_p), jnp.full(1, top_k), jnp.array([True]))
    return tokens._truncate(tokens._blocks(probs), *limits) > 0

  logits = logits_like(name, max(size, 1000))[:size]
  probs = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
  for top_p, top_k in [
    (0.95, 0), (0.5, 0), (0.999, 0), (1e-9, 0), (1.0, 1), (1.0, 7), (0.9, 50), (1.0, 10**6),
  ]:  # fmt: skip
    kept = np.asarray(truncate(probs[None], jnp.float32(top_p), jnp.int32(top_k)))
    kept = kept.ravel()[:size]
    expected, gap = smallest_set(probs, np.float32(top_p), top_k)
    if gap > 1e-7:  # else float32 sums may fall on either side
      np.testing.assert_array_equal(kept, expected, err_msg=f"{top_p} {top_k}")
    else:
      assert abs(int(kept.sum()) - int(expected.sum())) <= 1 + 1e-7 / probs[expected].min()


def test_rows_are_truncated_as_they_are_alone():
  """Flat ones, more than are bisected at a time, sharp ones, greedy ones and some without limit."""
  flat, sharp = (logits_like(name, 1000) for name in ("flat", "sharp"))
  logits = jnp.array([np.roll(flat if i % 2 else sharp, i) for i in range(40)], jnp.float32)
  uniforms = (jnp.arange(40) + 0.5) / 40
  temperature = jnp.where(jnp.arange(40) % 5 == 0, 0.0, 1.0)
  top_p = jnp.where(jnp.arange(40) % 3 == 0, 1.0, 0.9)
  top_k = jnp.where(jnp.arange(40) % 7 == 0, 100, 0)
  draw = jax.jit(sample_tokens)
  together, _ = draw(logits, uniforms, temperature, top_p, top_k)
  for i in range(40):
    row = slice(i, i + 1)
    alone, _ = draw(logits[row], uniforms[row], temperature[row], top_p[row], top_k[row])
    assert together[i] == alone[0]


def test_of_equal_tokens_the_lower_ids_are_kept():
  logits = jnp.broadcast_to(jnp.log(jnp.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.1])), (64, 6))
  uniforms = (jnp.arange(64) + 0.5) / 64
  for top_p, top_k in ((0.5, 0), (1.0, 3), (0.9, 3)):
    drawn, _ = sample_tokens(logits, uniforms, 1.0, jnp.float32(top_p), jnp.int32(top_k))
    assert set(np.asarray(drawn)) == {1, 2, 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_give_a_token_of_the_vocabulary(temperature):
  logits = jnp.array([[jnp.nan, 2, 2], [jnp.nan] * 3, [jnp.inf, 2, 2], [-jnp.inf] * 3])
  for top_p in (1.0, 0.5):
    drawn, _ = sample_tokens(
      logits, jnp.full(4, 0.9), jnp.float32(temperature), jnp.float32(top_p), jnp.int32(0)
    )
    assert np.asarray(drawn).max() < 3 and np.asarray(drawn).min() >= 0


def test_settings_of_each_row_draw_as_the_same_settings_of_all_rows():
  """Greedy, truncated by mass, by count, and not at all, side by side in one batch."""
  logits = jnp.asarray(np.stack([logits_like("normal", 500)] * 8))
  uniforms = jnp.linspace(0.05, 0.95, 8)
  settings = [(0.0, 1.0, 0), (0.6, 0.8, 0), (1.3, 1.0, 5), (0.9, 1.0, 0)]
  draw = jax.jit(sample_tokens)
  alone = [draw(logits, uniforms, *map(jnp.asarray, of_all)) for of_all in settings]
  row = np.arange(8) % len(settings)
  columns = (jnp.asarray([of[i] for of in settings])[row] for i in range(3))
  tokens, logprobs = draw(logits, uniforms, *columns)
  for i, of_all in enumerate(row):
    assert tokens[i] == alone[of_all][0][i]
    np.testing.assert_allclose(logprobs[i], alone[of_all][1][i], rtol=1e-6)

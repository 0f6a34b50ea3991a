"""Sorting rows into buckets: everything once, little padding, one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lhrm_jax.parallel import take_rows
from lhrm_jax.training.length_buckets import Buckets, add_over, bucket_widths, map_over

T = 40
WIDTHS = bucket_widths(T)


@given(st.lists(st.integers(0, T), min_size=1, max_size=30), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_every_token_is_visited_once(lengths, count):
  """Whatever the lengths and the number of buckets, each row fits and comes up once."""
  buckets = Buckets.of(jnp.array(lengths, jnp.int32), count, WIDTHS)
  seen = np.zeros(len(lengths), int)
  for rows, of_rows, width in zip(*map(np.asarray, jax.tree.leaves(buckets)), strict=True):
    assert width >= 0 or not of_rows.any()
    assert width < 0 or of_rows.max() <= WIDTHS[width]
    np.add.at(seen, rows[0], of_rows[0])
  np.testing.assert_array_equal(seen, lengths)


@pytest.mark.parametrize("parts", [1, 2, 6])
def test_folding_and_mapping_give_what_whole_arrays_give(parts):
  """However many devices share the rows out."""
  lengths = jnp.array([40, 3, 0, 17, 5, 5, 33, 1, 9, 12, 2, 8], jnp.int32)
  x = jax.random.normal(jax.random.key(0), (12, T))

  @jax.jit
  def run(lengths):
    buckets = Buckets.of(lengths, 4, WIDTHS, parts)

    def visible(rows, of_rows, width):
      return jnp.where(jnp.arange(width) < of_rows[:, None], take_rows(x[:, :width], rows), 0.0)

    total = add_over(
      buckets, WIDTHS, lambda sum_, *bucket: sum_ + visible(*bucket).sum(), jnp.float32(0)
    )
    return total, map_over(buckets, WIDTHS, visible, 12)

  for of in (lengths, lengths[::-1], jnp.zeros_like(lengths)):
    total, mapped = run(of)
    whole = np.where(np.arange(T) < of[:, None], x, 0.0)
    np.testing.assert_allclose(total, whole.sum(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mapped, whole)
  assert run._cache_size() == 1


@pytest.mark.parametrize("ragged", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("longest", [128, 1024])
def test_a_hybrid_mix_is_hardly_padded(ragged, longest):
  """Half of the rows an eighth as long as the others, each up to `ragged` shorter yet."""
  random = np.random.default_rng(0)
  rows = np.repeat([longest, longest // 8], 128) * (1 - random.uniform(0, ragged, 256))
  widths = bucket_widths(longest)
  padding = Buckets.of(jnp.array(rows, jnp.int32), 8, widths).padding(widths)
  assert padding.mean() <= 0.15
  assert padding.count >= rows.astype(int).sum()

"""Direct Preference Optimization, worked by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.objectives.preference import dpo_loss

LOGPS = jnp.array([[-2.0, -3.0], [-8.0, -1.0], [jnp.nan, jnp.inf]])
REF = jnp.array([[-4.0, -2.0], [-6.0, -5.0], [jnp.nan, -1.0]])
MASK = jnp.array([True, True, False])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_the_loss_by_hand(wrap):
  """Rewards at beta .5: 1 over -.5, a margin of 1.5; and -1 over 2, a margin of -3."""
  found = wrap(lambda x: dpo_loss(x, REF, MASK, beta=0.5))(LOGPS)
  expected = (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(3.0))) / 2
  assert float(found.loss.mean()) == pytest.approx(expected, rel=1e-6)
  assert float(found.loss.count) == 2
  values = (found.chosen, found.rejected, found.accuracy, found.margin)
  np.testing.assert_allclose([float(x.mean()) for x in values], [0.0, 0.75, 0.5, -0.75], atol=1e-6)


def test_the_gradient_is_that_of_eq_7():
  """`-beta sigmoid(-margin)` on the chosen log-probability, and the opposite on the other."""
  grads = jax.grad(lambda x: dpo_loss(x, REF, MASK, beta=0.5).loss.total)(LOGPS)
  weights = [0.5 / (1 + math.exp(1.5)), 0.5 / (1 + math.exp(-3.0))]
  np.testing.assert_allclose(grads, [[-w, w] for w in weights] + [[0, 0]], rtol=1e-5)


def test_at_the_reference_every_pair_costs_log_2():
  found = dpo_loss(REF, REF, MASK, beta=0.1)
  assert float(found.loss.mean()) == pytest.approx(math.log(2))
  assert float(found.accuracy.mean()) == 0


def test_length_normalised_log_ratios_are_per_token():
  """Of 4 and 2 tokens: .5 * (2 / 4) and .5 * (-1 / 2); of 1 and 8: .5 * -2 and .5 * 4 / 8."""
  lengths = jnp.array([[4, 2], [1, 8], [0, 0]])
  found = dpo_loss(LOGPS, REF, MASK, beta=0.5, lengths=lengths)
  assert float(found.chosen.mean()) == pytest.approx((0.25 - 1.0) / 2)
  assert float(found.rejected.mean()) == pytest.approx((-0.25 + 0.25) / 2)

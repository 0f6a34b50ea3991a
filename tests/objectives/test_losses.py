"""Losses against hand-worked numbers, and what must never change them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.objectives import losses
from lhrm_jax.objectives.masked import SumCount, masked_sum_count
from lhrm_jax.objectives.policy_objective import (
  PolicyBatch,
  PolicyObjectiveConfig,
  policy_objective,
)

OPTIONS = {"clip_low": 0.2, "clip_high": 0.2, "beta": 0.1}


def policy_loss(*arrays, constant_length=1, **fields):
  config = PolicyObjectiveConfig(**{**OPTIONS, **fields})
  return policy_objective(config, PolicyBatch(*arrays), constant_length=constant_length)


def arrays(n=4, t=6, seed=0):
  keys = jax.random.split(jax.random.key(seed), 4)
  logprobs, old, ref = (-jax.random.uniform(k, (n, t)) for k in keys[:3])
  lengths = np.arange(n) % t + 1
  advantages = losses.token_advantages(*jax.random.normal(keys[3], (2, n)), t)
  return logprobs, old, ref, advantages, np.arange(t) < lengths[:, None]


def test_one_token_by_hand():
  """rho = 1.5 clipped to 1.2, A = 2: 2.4; k3 at pi_ref/pi = 0.5: 0.5 + log 2 - 1."""
  new, old, ref = (jnp.log(jnp.array([[p]])) for p in (0.6, 0.4, 0.3))
  loss, _ = policy_loss(new, old, ref, jnp.array([[2.0]]), jnp.array([[True]]))
  k3 = 0.5 + np.log(2) - 1
  np.testing.assert_allclose(loss.mean(), -(2.4 - 0.1 * k3), rtol=1e-6)


@pytest.mark.parametrize(
  "ratio, advantage, expected", [(1.5, -1, -1.5), (0.5, 1, 0.5), (0.5, -1, -0.8), (1.1, 1, 1.1)]
)
def test_clipping_is_pessimistic(ratio, advantage, expected):
  new, old = jnp.log(jnp.array([[ratio * 0.3]])), jnp.log(jnp.array([[0.3]]))
  mask = jnp.array([[True]])
  loss, _ = policy_loss(new, old, new, jnp.array([[float(advantage)]]), mask, beta=0.0)
  np.testing.assert_allclose(-loss.mean(), expected, rtol=1e-5)


@pytest.mark.parametrize(
  "how, expected",
  [
    ("sequence_sum", (1 + 1 + 2) / 2),  # over two sequences that have tokens
    ("token_mean", (1 + 1 + 2) / 3),
    ("sequence_mean", (1 + 2) / 2),
    ("constant_length", (1 + 1 + 2) / (2 * 10)),
  ],
)
def test_aggregations_by_hand(how, expected):
  mask = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
  zeros = jnp.zeros((3, 3))
  advantages = -jnp.array([[1.0] * 3, [2.0] * 3, [9.0] * 3])
  loss, _ = policy_loss(
    zeros, zeros, zeros, advantages, mask, beta=0.0,
    aggregation=how, constant_length=10,
  )  # fmt: skip
  np.testing.assert_allclose(loss.mean(), expected, rtol=1e-6)


def test_tag_weight_acts_on_the_first_token_alone():
  mask = np.ones((1, 3), bool)
  zeros = jnp.zeros((1, 3))
  loss, _ = policy_loss(zeros, zeros, zeros, jnp.array([[-1.0, -1.0, -1.0]]), mask, tag_weight=5.0)
  np.testing.assert_allclose(loss.mean(), 7.0)


def test_token_advantages_put_the_tag_first():
  spread = losses.token_advantages(jnp.array([3.0]), jnp.array([1.0]), 4)
  np.testing.assert_array_equal(spread, [[3, 1, 1, 1]])


def test_discounted_body_by_hand():
  spread = losses.token_advantages(
    jnp.array([3.0]), jnp.array([1.0]), 4, gamma=0.5, lengths=jnp.array([3])
  )
  # The reward is at the third token; the tag adds its 2 undiscounted.
  np.testing.assert_allclose(spread[0, :3], [0.25 + 2, 0.5, 1.0])


def test_a_reward_at_every_token_by_hand():
  """Three tokens at gamma 0.5: 1 + .5 + .25, 1 + .5, 1; the tag adds its 2."""
  spread = losses.token_advantages(
    jnp.array([3.0]), jnp.array([1.0]), 4, gamma=0.5, lengths=jnp.array([3]), every_token=True
  )
  np.testing.assert_allclose(spread[0, :3], [1.75 + 2, 1.5, 1.0])
  plain = losses.token_advantages(
    jnp.array([1.0]), jnp.array([1.0]), 3, lengths=jnp.array([3]), every_token=True
  )
  np.testing.assert_allclose(plain[0], [3, 2, 1])


def test_the_tag_among_tags_by_hand():
  modes = jnp.log(jnp.array([[0.3, 0.1, 0.6]]))
  np.testing.assert_allclose(jnp.exp(losses.tag_logprobs(modes)), [[0.75, 0.25]], rtol=1e-6)


def test_the_tag_regulariser_by_hand():
  modes, ref = jnp.log(jnp.array([[0.3, 0.1, 0.6]])), jnp.log(jnp.array([[0.5, 0.4, 0.1]]))
  kl = 0.3 * np.log(0.6) + 0.1 * np.log(0.25) + 0.6 * np.log(6)
  value = losses.tag_regulariser(modes, ref, beta=0.1, neither_penalty=2.0)
  np.testing.assert_allclose(value, [0.1 * kl - 2 * np.log(0.4)], rtol=1e-5)


def test_only_the_regulariser_moves_first_tokens_that_are_neither():
  """Forced tags with advantages that do not cancel: literally, other tokens are lifted along."""

  def modes(logits):  # of a vocabulary of two tags and three other tokens
    other = jax.nn.logsumexp(logits[2:])
    return jax.nn.log_softmax(jnp.array([logits[0], logits[1], other]))[None]

  def surrogate(logits, among_tags):
    logprobs = losses.tag_logprobs(modes(logits)) if among_tags else modes(logits)
    return logprobs[0, 0] * 1.0 + logprobs[0, 1] * -2.0  # to be maximised

  logits = jnp.array([1.0, 2.0, 0.5, 0.0, -1.0])
  literal, among = (jax.grad(surrogate)(logits, among_tags) for among_tags in (False, True))
  assert (literal[2:] > 0).all()
  np.testing.assert_allclose(among[2:], 0, atol=1e-7)
  held = jax.grad(
    lambda x: losses.tag_regulariser(modes(x), modes(x), beta=0.0, neither_penalty=1.0)[0]
  )(logits)
  assert (held[2:] > 0).all() and (held[:2] < 0).all()  # a cost: descent lowers what is neither


@pytest.mark.parametrize("how", losses.AGGREGATIONS)
def test_nothing_behind_the_mask_matters(how):
  """NaN and infinity in hidden slots change neither the loss nor any gradient."""
  logprobs, old, ref, advantages, mask = arrays()

  def total(logprobs, old, ref, advantages):
    loss, metrics = policy_loss(
      logprobs, old, ref, advantages, mask, aggregation=how, constant_length=6
    )
    return loss.mean() + metrics["kl"].mean() + metrics["importance_ratio/mean"].mean()

  clean, clean_grad = jax.value_and_grad(total)(logprobs, old, ref, advantages)
  for poison in (np.nan, np.inf, -np.inf):
    planted = [jnp.where(mask, x, poison) for x in (logprobs, old, ref, advantages)]
    value, grad = jax.value_and_grad(total)(*planted)
    np.testing.assert_array_equal(value, clean)
    np.testing.assert_array_equal(grad, clean_grad)


@pytest.mark.parametrize("how", losses.AGGREGATIONS)
def test_padding_changes_nothing(how):
  plain = arrays()
  padded = [np.pad(x, ((0, 3), (0, 5)), constant_values=False) for x in plain]
  results = [policy_loss(*a, aggregation=how, constant_length=6)[0].mean() for a in (plain, padded)]
  np.testing.assert_allclose(*results, rtol=1e-6)


@pytest.mark.parametrize("how", losses.AGGREGATIONS)
def test_sums_over_micro_batches_equal_the_whole(how):
  whole = arrays(n=6)

  def loss(parts):
    return policy_loss(*parts, aggregation=how, constant_length=6)[0]

  # Uneven cuts: a mean of means would give something else.
  cut = loss([x[:1] for x in whole]) + loss([x[1:] for x in whole])
  np.testing.assert_allclose(cut.mean(), loss(whole).mean(), rtol=1e-6)


def test_an_all_masked_batch_gives_zero():
  logprobs, old, ref, advantages, mask = arrays()

  def loss(logprobs):
    return policy_loss(logprobs, old, ref, advantages, jnp.zeros_like(mask))[0].mean()

  value, grad = jax.value_and_grad(loss)(logprobs)
  assert value == 0
  np.testing.assert_array_equal(grad, 0)


def test_k3_matches_the_kl_it_estimates():
  """Averaged over the policy's own distribution, k3 is the KL divergence."""
  logits, ref_logits = jax.random.normal(jax.random.key(1), (2, 7))
  logp, ref = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref_logits)
  expected = jnp.sum(jnp.exp(logp) * losses.k3_divergence(logp, ref))
  np.testing.assert_allclose(losses.categorical_kl(logits, ref_logits), expected, rtol=1e-5)


def test_extreme_log_ratios_stay_finite():
  loss, _ = policy_loss(
    jnp.array([[-1e4]]), jnp.array([[0.0]]), jnp.array([[0.0]]), jnp.array([[1.0]]),
    jnp.array([[True]]),
  )  # fmt: skip
  assert np.isfinite(loss.mean())


def test_sum_count_divides_once():
  parts = SumCount(jnp.float32(3), jnp.float32(1)) + SumCount(jnp.float32(1), jnp.float32(3))
  assert parts.mean() == 1.0


def test_weights_of_zero_hide_values():
  result = masked_sum_count(jnp.array([1.0, jnp.nan]), jnp.array([True, True]), jnp.array([2.0, 0]))
  assert result.mean() == 1.0

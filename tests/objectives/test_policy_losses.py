"""Parts of policy objectives, and their sum, against numbers worked out by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.objectives import objective, policy_losses
from lhrm_jax.objectives.objective import ObjectiveRows, RowLogprobs
from lhrm_jax.objectives.policy_objective import (
  PolicyBatch,
  PolicyObjectiveConfig,
  policy_objective,
)
from lhrm_jax.training.hgpo_config import HGPOConfig

BOTH = pytest.mark.parametrize("jit", [False, True])


def run(jit, fn, *arrays, **static):
  fn = functools.partial(fn, **static)
  return (jax.jit(fn) if jit else fn)(*(jnp.asarray(a) for a in arrays))


# One response of two tokens whose ratios are 4 and 1; what the mask hides is far off.
NEW, OLD = np.log([[0.8, 0.5, 0.9]]), np.log([[0.2, 0.5, 0.1]])
MASK = np.array([[True, True, False]])


@BOTH
def test_a_sequence_ratio_is_the_geometric_mean_of_what_is_visible(jit):
  ratio = policy_losses.importance_ratio
  np.testing.assert_allclose(run(jit, ratio, NEW, OLD, MASK)[:, :2], [[4, 1]], rtol=1e-5)
  for level in ("sequence", "sequence_token"):
    found = run(jit, ratio, NEW, OLD, MASK, level=level)
    np.testing.assert_allclose(found[:, :2], [[2, 2]], rtol=1e-5)
  found = run(jit, ratio, NEW, OLD, MASK, level="product")
  np.testing.assert_allclose(found[:, :2], [[4, 4]], rtol=1e-5)


@pytest.mark.parametrize(
  "level, first, second", [("token", [4, 0], [0, 1]), ("sequence", [1, 1], [1, 1]),
                           ("sequence_token", [2, 0], [0, 2]), ("product", [4, 4], [4, 4])],
)  # fmt: skip
def test_the_gradient_of_each_ratio(level, first, second):
  jacobian = jax.jacobian(
    lambda new: policy_losses.importance_ratio(new, OLD, MASK, level=level)[0, :2]
  )(jnp.asarray(NEW))[:, 0]
  np.testing.assert_allclose(jacobian[:, :2], [first, second], rtol=1e-5)
  np.testing.assert_array_equal(jacobian[:, 2], 0 * jacobian[:, 2])  # the hidden slot


@BOTH
@pytest.mark.parametrize(
  "ratio, advantage, dual_clip, expected",
  [(5, -1, 0, 5), (5, -1, 3, 3), (2, -1, 3, 2), (5, 1, 3, -1.28), (0.1, -1, 3, 0.8), (5, 0, 3, 0)],
)
def test_dual_clip_bounds_a_negative_advantage_alone(ratio, advantage, dual_clip, expected, jit):
  found = run(
    jit, policy_losses.clipped_loss, float(ratio), float(advantage),
    clip_low=0.2, clip_high=0.28, dual_clip=dual_clip,
  )  # fmt: skip
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_dual_clip_within_the_trust_region_is_refused():
  with pytest.raises(ValueError, match=r"dual_clip=0\.5 must be above 1"):
    policy_losses.clipped_loss(jnp.ones(1), jnp.ones(1), clip_low=0.2, clip_high=0.2, dual_clip=0.5)


@BOTH
def test_cispo_keeps_a_gradient_beyond_the_clip(jit):
  loss = functools.partial(policy_losses.cispo_loss, clip_low=0.2, clip_high=0.28)
  args = (np.log(0.5), 2.0, 2.0)
  np.testing.assert_allclose(run(jit, loss, *args), 1.28 * 2 * np.log(2), rtol=1e-6)

  def of_logprob(x, old):
    return loss(x, jnp.exp(x - old), 2.0)  # the ratio moves too, unseen

  for ratio, weight in ((2, 1.28), (1.1, 1.1), (0.5, 0.8)):
    found = jax.grad(of_logprob)(jnp.log(0.5), jnp.log(0.5 / ratio))
    np.testing.assert_allclose(found, -weight * 2, rtol=1e-5)


@BOTH
@pytest.mark.parametrize(
  "estimator, expected",
  [("k1", np.log(2)), ("k2", np.log(2) ** 2 / 2), ("k3", 0.5 + np.log(2) - 1)],
)
def test_kl_estimators_at_twice_the_references_probability(estimator, expected, jit):
  found = run(jit, policy_losses.kl_estimate, np.log(0.6), np.log(0.3), estimator=estimator)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@BOTH
def test_divergence_to_go_counts_a_token_and_those_after_it(jit):
  mask = np.array([[True, True, True, False]])
  found = run(jit, policy_losses.divergence_to_go, [[1.0, 2.0, 4.0, 8.0]], mask)
  np.testing.assert_array_equal(found[0, :3], [7, 6, 4])


@BOTH
@pytest.mark.parametrize(
  "level, cap, expected",
  [("token", 2.5, [2, 2.5]), ("token", 9.0, [2, 3]), ("sequence", 9.0, [6, 6]),
   ("sequence", 2.5, [2.5, 2.5])],
)  # fmt: skip
def test_sampler_weights_by_hand(level, cap, expected, jit):
  trainer, sampler = np.log([[0.4, 0.3, 0.9]]), np.log([[0.2, 0.1, 0.1]])
  weights = functools.partial(policy_losses.sampler_weights, level=level, cap=cap)
  found = run(jit, weights, trainer, sampler, MASK)
  np.testing.assert_allclose(found[0, :2], expected, rtol=1e-5)
  grads = jax.grad(lambda x: jnp.sum(weights(x, sampler, MASK)))(jnp.asarray(trainer))
  np.testing.assert_array_equal(grads, np.zeros((1, 3)))


@pytest.mark.parametrize(
  "fn, name",
  [
    (lambda: policy_losses.importance_ratio(NEW, OLD, MASK, level="word"), "ratio='word'"),
    (lambda: policy_losses.kl_estimate(NEW, OLD, estimator="k4"), "kl_estimator='k4'"),
    (
      lambda: policy_losses.sampler_weights(NEW, OLD, MASK, level="word", cap=2.0),
      "sampler_correction='word'",
    ),
  ],
)
def test_unknown_choices_are_named(fn, name):
  with pytest.raises(ValueError, match=f"{name} is none of"):
    fn()


# Tags lose 1 and 3; bodies 2 and 2, and 4.
TERMS = np.array([[1.0, 2, 2], [3, 4, np.nan], [np.nan] * 3])
VISIBLE = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]], bool)


def weighed(weights, count):
  return np.sum(np.where(VISIBLE, TERMS * weights, 0)) / count


@BOTH
@pytest.mark.parametrize(
  "how, body", [("token_mean", 8 / 3), ("sequence_sum", 8 / 2), ("sequence_mean", (2 + 4) / 2),
                ("constant_length", 8 / 20)],
)  # fmt: skip
def test_a_separate_tag_weighs_the_same_under_every_aggregation(how, body, jit):
  def split(mask):
    per_sequence = policy_losses.count_per_sequence(mask, how, 10)
    return policy_losses.separate_tag_weights(
      mask, how, tag_weight=0.1, per_sequence=per_sequence, constant_length=10
    )

  np.testing.assert_allclose(weighed(*run(jit, split, VISIBLE)), 0.1 * 2 + body, rtol=1e-6)


def test_a_separate_tag_of_an_update_in_parts():
  """Sums and counts of the parts add up to the whole's."""
  per_sequence = policy_losses.count_per_sequence(VISIBLE, "token_mean")
  assert per_sequence == 3 / 2
  split = functools.partial(
    policy_losses.separate_tag_weights, how="token_mean", tag_weight=0.1, per_sequence=per_sequence
  )
  whole, count = split(VISIBLE)
  parts = [split(VISIBLE[i : i + 1]) for i in range(3)]
  np.testing.assert_allclose(np.concatenate([w for w, _ in parts]), whole, rtol=1e-6)
  assert sum(float(c) for _, c in parts) == float(count) == 3
  with pytest.raises(ValueError, match="separate_tag needs per_sequence"):
    policy_objective(PolicyObjectiveConfig(separate_tag=True), batch_of())


def test_no_tokens_behind_the_tags_make_no_weight_without_a_number():
  for mask in (np.array([[True, False]]), np.array([[False, False]])):
    per_sequence = policy_losses.count_per_sequence(mask, "token_mean")
    weights, count = policy_losses.separate_tag_weights(
      mask, "token_mean", tag_weight=1.0, per_sequence=per_sequence
    )
    assert np.isfinite(weights).all() and count == 0


def batch_of(n=4, t=5, seed=0):
  """A batch with lengths 1 to `n`, whose hidden slots hold NaN."""
  keys = jax.random.split(jax.random.key(seed), 6)
  mask = jnp.arange(t) < jnp.arange(1, n + 1)[:, None]
  random = [-jax.random.uniform(key, (n, t)) for key in keys[:5]]
  random += [jax.random.normal(keys[5], (n, t))]
  new, old, ref, sampler, entropy, advantages = (jnp.where(mask, x, jnp.nan) for x in random)
  return PolicyBatch(new, old, ref, advantages, mask, sampler, -entropy)


def loss_of(batch, jit=False, **knobs):
  config = PolicyObjectiveConfig(**knobs)
  objective = functools.partial(policy_objective, config, constant_length=7, per_sequence=1.5)
  return (jax.jit(objective) if jit else objective)(batch)


def hgpo_loss(config, batch, constant_length):
  """HGPO's objective, negated, token by token: its sum and its divisor."""
  total, tokens = 0.0, np.asarray(batch.mask).sum(axis=1)
  for i, length in enumerate(tokens):
    for t in range(length):
      new, old, ref, advantage = (
        float(x[i, t])
        for x in (batch.logprobs, batch.old_logprobs, batch.ref_logprobs, batch.advantages)
      )
      ratio = np.exp(new - old)
      clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
      loss = -min(ratio * advantage, clipped * advantage)
      if t > 0 or config.tag_kl == "k3":
        loss += config.beta * (np.exp(ref - new) - (ref - new) - 1)
      total += loss * (config.tag_weight if t == 0 else 1)
  counts = {
    "sequence_sum": len(tokens), "token_mean": tokens.sum(),
    "constant_length": len(tokens) * constant_length,
  }  # fmt: skip
  return total, counts[config.aggregation]


@BOTH
@pytest.mark.parametrize(
  "knobs",
  [
    {},
    {
      "clip_low": 0.1,
      "clip_high": 0.3,
      "beta": 0.2,
      "tag_weight": 3.0,
      "aggregation": "token_mean",
    },
    {"tag_kl": "exact", "beta": 0.2, "aggregation": "constant_length"},
  ],
)
def test_the_defaults_are_the_loss_of_hgpo(knobs, jit):
  batch = batch_of()
  total, count = hgpo_loss(PolicyObjectiveConfig(**knobs), batch, 7)
  loss, _ = loss_of(batch, jit, **knobs)
  np.testing.assert_allclose(loss.total, total, rtol=1e-5)
  assert loss.count == count


def test_metrics_by_hand():
  """Of the tokens behind the tag: ratios 4 (A = 1), 1/4 (A = -1) and 1; the tag's is 4."""
  ratios = jnp.array([[4.0, 4, 0.25, 1]])
  old = jnp.full((1, 4), -2.0)
  new = old + jnp.log(ratios)
  batch = PolicyBatch(new, old, new, jnp.array([[1.0, 1, -1, 1]]), jnp.ones((1, 4), bool))
  metrics = {name: float(value.mean()) for name, value in loss_of(batch)[1].items()}
  assert metrics == pytest.approx({
    "kl": 0, "clip_ratio/low_mean": 1 / 3, "clip_ratio/high_mean": 1 / 3,
    "importance_ratio/mean": 9.25 / 4,
  })  # fmt: skip


CHOICES = [
  {"ratio": "sequence"},
  {"ratio": "product"},
  {"ratio": "sequence_token", "dual_clip": 3.0},
  {"surrogate": "cispo"},
  {"kl_in": "reward", "kl_estimator": "k1", "beta": 0.5},
  {"kl_estimator": "k2", "beta": 0.5},
  {"sampler_correction": "token"},
  {"sampler_correction": "sequence", "sampler_cap": 1.1},
  {"entropy_bonus": 0.3},
  {"separate_tag": True, "tag_weight": 0.001, "aggregation": "token_mean"},
]


@pytest.mark.parametrize("knobs", CHOICES, ids=str)
def test_every_knob_acts_and_what_is_hidden_does_not(knobs):
  batch = batch_of()

  def objective(parts):
    return loss_of(dataclasses.replace(batch, logprobs=parts[0], entropy=parts[1]), **knobs)[
      0
    ].mean()

  value, grads = jax.jit(jax.value_and_grad(objective))((batch.logprobs, batch.entropy))
  plain = loss_of(batch, **{k: v for k, v in knobs.items() if k in ("beta", "aggregation")})[0]
  assert np.isfinite(value) and abs(value - plain.mean()) > 1e-4
  for grad in grads:
    assert np.isfinite(grad).all() and not np.any(np.where(batch.mask, 0, grad))


def test_one_token_with_everything_by_hand():
  """Ratio 1, A = 2, weight 1.5 from the sampler, reward less 0.1 log 2, entropy 0.7."""
  p = jnp.log(jnp.array([[0.6]]))
  batch = PolicyBatch(
    p, p, jnp.log(jnp.array([[0.3]])), jnp.array([[2.0]]), jnp.array([[True]]),
    jnp.log(jnp.array([[0.4]])), jnp.array([[0.7]]),
  )  # fmt: skip
  loss, metrics = loss_of(
    batch,
    beta=0.1,
    kl_in="reward",
    kl_estimator="k1",
    sampler_correction="token",
    entropy_bonus=0.01,
  )
  np.testing.assert_allclose(loss.mean(), -1.5 * (2 - 0.1 * np.log(2)) - 0.007, rtol=1e-5)
  np.testing.assert_allclose(
    metrics["sampling/importance_sampling_ratio/mean"].mean(), 1.5, rtol=1e-5
  )


def test_a_given_tag_replaces_the_first_token_alone():
  old = jnp.full((2, 3), -1.0)
  found = policy_losses.with_tag_logprobs(old, jnp.log(0.5))
  np.testing.assert_allclose(found, [[np.log(0.5), -1, -1]] * 2, rtol=1e-6)
  found = policy_losses.with_tag_logprobs(old, jnp.array([-2.0, -3.0]))
  np.testing.assert_array_equal(found[:, 0], [-2, -3])


@pytest.mark.parametrize(
  "knobs, first, second",
  [({}, 1, 1), ({"tag_old": "behaviour"}, 0.75 / 0.5, 1),
   ({"tag_old": "behaviour", "tag_normalisation": "vocabulary"}, 0.3 / 0.5, 1)],
)  # fmt: skip
def test_only_forced_rows_have_the_tag_of_their_forcing(knobs, first, second):
  """Think, forced and then chosen: .3 of the vocabulary, .75 of the two tags."""
  scored = RowLogprobs(
    jnp.log(jnp.full((2, 1), 0.3)), jnp.zeros((2, 1)),
    jnp.log(jnp.array([[0.3, 0.1, 0.6]] * 2)), jnp.log(jnp.full(2, 0.75)),
  )  # fmt: skip
  sampler = scored.logprobs - jnp.log(1.5)  # half again as likely by the trainer
  ones = jnp.ones(2)
  for row, ratio, weight in ((0, first, 1), (1, second, 1.5)):
    mask = jnp.arange(2)[:, None] == row
    rows = ObjectiveRows(
      scored, scored, scored, sampler, ones, ones, mask, jnp.ones(2, int), jnp.array([0, -1]), 1
    )
    config = HGPOConfig(sampler_correction="token", clip_high=9.0, **knobs)
    loss, metrics = objective.hgpo(config, rows)
    np.testing.assert_allclose(metrics["importance_ratio/mean"].mean(), ratio, rtol=1e-5)
    np.testing.assert_allclose(loss.total, -ratio * weight, rtol=1e-5)

"""The HFT step: weights, masks, micro-batches of different shapes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lhrm_jax import parallel
from lhrm_jax.data.arithmetic import Arithmetic
from lhrm_jax.data.batches import encode_demonstrations
from lhrm_jax.text import tags
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hft import hft_loss, make_hft_step
from lhrm_jax.training.state import OptimizerConfig
from lhrm_jax.training.update import accumulate_rows, add_sums
from tests.conftest import policy_logits


@pytest.fixture(scope="module")
def demonstrations():
  return Arithmetic().demonstrations(0, 0, 3, 5)


@functools.partial(jax.jit, static_argnums=0)
def sums(config, params, batch):
  return accumulate_rows(functools.partial(hft_loss, config), params, batch)


def mean_loss(config, params, batches):
  loss, grads, _ = functools.reduce(add_sums, [sums(config, params, batch) for batch in batches])
  return loss.mean(), jax.tree.map(lambda g: g / loss.count, grads)


def test_loss_by_hand(config, params, tokenizer, demonstrations):
  """Against the log-probabilities of each sequence alone, prompt tokens left out."""
  rows = demonstrations[0]
  batch = encode_demonstrations(tokenizer, rows, 50)
  total = weight = 0.0
  for row in rows:
    prompt = tokenizer.encode_prompt(row.prompt)
    response = tokenizer.encode_response(row.response)
    logp = jax.nn.log_softmax(policy_logits(config, params, jnp.array([prompt + response])))[0]
    for i, token in enumerate(response):
      w = row.tag_weight if i == 0 else 1.0
      total -= w * logp[len(prompt) + i - 1, token]
      weight += w
  loss, _ = mean_loss(config, params, [batch])
  np.testing.assert_allclose(loss, total / weight, rtol=1e-5)


def test_batching_changes_nothing(config, params, tokenizer, demonstrations):
  """All together, by mode at two widths, or one by one: one loss, one gradient."""
  think, no_think = demonstrations
  cuts = [
    [encode_demonstrations(tokenizer, [*think, *no_think], 50)],
    [encode_demonstrations(tokenizer, think, 50), encode_demonstrations(tokenizer, no_think, 26)],
    [encode_demonstrations(tokenizer, [row], 60) for row in (*no_think, *think)],
  ]
  (loss, grads), *others = [mean_loss(config, params, cut) for cut in cuts]
  for other, other_grads in others:
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-4), other_grads, grads
    )


def test_prompts_and_padding_are_not_learned(config, params, tokenizer, demonstrations):
  batch = encode_demonstrations(tokenizer, demonstrations[0], 50)
  changed = dataclasses.replace(batch, targets=np.where(batch.weights > 0, batch.targets, 3))
  np.testing.assert_array_equal(
    mean_loss(config, params, [batch])[0], mean_loss(config, params, [changed])[0]
  )


def test_tag_weights_give_the_prior_the_labels_ask_for():
  """Weighted counts of the two modes at every level have the odds of `think_prior`."""
  task = Arithmetic()
  weights = np.zeros((len(task.think_prior), 2))
  for step in range(400):
    for rows in task.demonstrations(0, step, 12, 64):
      for row in rows:
        chain = row.prompt.split()[-1].rstrip("?")
        level = 1 if len(chain) == 3 else len(chain) // 2 + 1
        if len(chain) == 5:
          level = 2 if "*" not in chain else 3
        weights[level - 1, row.mode] += row.tag_weight
  np.testing.assert_allclose(
    weights[:, tags.THINK] / weights.sum(axis=1), task.think_prior, atol=0.03
  )
  np.testing.assert_allclose(
    weights.sum(axis=1) / weights.sum(), [0.3, 0.3, 0.1, 0.1, 0.1, 0.1], atol=0.02
  )


def test_steps_learn_and_compile_once(config, tokenizer):
  schedule = optax.constant_schedule(1e-2)
  optimizer = train_state.make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
  state = train_state.create(config, optimizer, parallel.make_mesh(), jax.random.key(0))
  step = make_hft_step(config, optimizer, schedule, parallel.make_mesh())
  think, no_think = Arithmetic().demonstrations(0, 0, 8, 8)
  batch = encode_demonstrations(tokenizer, [*think, *no_think], 50)
  losses = []
  for _ in range(30):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.5 * losses[0]
  assert int(state.step) == 30
  assert step._cache_size() == 1


def test_the_learning_rate_warms_up_and_falls_to_its_end():
  """Peak 2 after 4 steps; at the middle of the cosine to a quarter, (2 + 0.5) / 2."""
  c = OptimizerConfig(learning_rate=2.0, learning_rate_end=0.25, warmup_steps=4)
  schedule = train_state.make_schedule(c, 12)
  np.testing.assert_allclose([schedule(i) for i in (0, 2, 4, 8, 12)], [0, 1, 2, 1.25, 0.5])
  # Of four updates a step, after the first step.
  several = train_state.make_schedule(dataclasses.replace(c, warmup_steps=1), 3, 4)
  np.testing.assert_allclose([several(i) for i in (0, 2, 4, 8, 12)], [0, 1, 2, 1.25, 0.5])
  constant = train_state.make_schedule(OptimizerConfig(learning_rate=2.0), 12)
  assert [constant(i) for i in (0, 12)] == [2.0, 2.0]


def test_the_second_moment_decays_at_b2():
  """Of a gradient of 2 after an update: (1 - b2) * 2^2."""
  params = {"w": jnp.zeros(1)}
  optimizer = train_state.make_optimizer(
    optax.constant_schedule(1e-3), weight_decay=0.0, clip_norm=9.0, b2=0.75
  )
  _, state = optimizer.update({"w": jnp.full(1, 2.0)}, optimizer.init(params), params)
  assert float(optax.tree.get(state, "nu")["w"][0]) == pytest.approx(1.0)


def test_too_long_a_demonstration_is_refused(tokenizer, demonstrations):
  with pytest.raises(ValueError, match="more than the 11 that fit"):
    encode_demonstrations(tokenizer, demonstrations[0], 10)

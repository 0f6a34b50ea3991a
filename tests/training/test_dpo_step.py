"""The DPO step against single padded responses: packing and micro-batches change nothing."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lhrm_jax import parallel, policy
from lhrm_jax.data.arithmetic import Arithmetic
from lhrm_jax.data.batches import encode, pad
from lhrm_jax.data.pairs import pack_pairs
from lhrm_jax.runs import nonfinite, replaying
from lhrm_jax.training import state as train_state
from lhrm_jax.training.dpo import DPOConfig, dpo_batch_loss, make_dpo_step, make_pair_logprobs
from lhrm_jax.training.offline import drawn
from lhrm_jax.training.update import accumulate_rows

LENGTH, MOST, BETA = 160, 3, 0.3


@pytest.fixture(scope="module")
def pairs(tokenizer):
  """Five pairs of a thinking and a direct response, to different prompts; either is preferred."""
  think, no_think = Arithmetic().demonstrations(0, 0, 5, 5)
  both = [
    (encode(tokenizer, a), encode(tokenizer, b)) for a, b in zip(think, no_think, strict=True)
  ]
  return [pair if i % 2 else pair[::-1] for i, pair in enumerate(both)]


@pytest.fixture(scope="module")
def ref():
  """Log-probabilities of a made-up reference."""
  return np.random.default_rng(0).normal(-30, 3, (5, 2)).astype(np.float32)


def of_responses(config, params, pairs):
  """`[5, 2]` log-probabilities of whole responses, each in a row of its own."""
  rows = pad([sequence for pair in pairs for sequence in pair], 60)
  logp = jax.nn.log_softmax(policy.logits(config, params, rows.tokens, rows.segment_ids))
  chosen = jnp.take_along_axis(logp, jnp.array(rows.targets)[..., None], axis=-1)[..., 0]
  return jnp.sum(jnp.where(rows.weights > 0, chosen, 0), axis=1).reshape(-1, 2)


@pytest.fixture(scope="module")
def alone(config, params, pairs):
  return np.asarray(jax.jit(lambda params: of_responses(config, params, pairs))(params), np.float64)


def expected(logps, ref, lengths=1):
  """DPO in numpy: loss, metrics, and the loss's derivative by every log-probability."""
  rewards = BETA * (logps - ref) / lengths
  margin = rewards[:, 0] - rewards[:, 1]
  weight = BETA / (1 + np.exp(margin)) / len(margin)
  return {
    "loss": np.log1p(np.exp(-margin)).mean(),
    "rewards/chosen": rewards[:, 0].mean(),
    "rewards/rejected": rewards[:, 1].mean(),
    "rewards/accuracies": (margin > 0).mean(),
    "rewards/margins": margin.mean(),
    "logps/chosen": logps[:, 0].mean(),
    "logps/rejected": logps[:, 1].mean(),
  }, np.stack([-weight, weight], axis=1) / lengths


def cut(pairs, ref, length=LENGTH):
  return pack_pairs(pairs, ref, length, MOST, lanes=2)[0]


def loss_and_metrics(config, params, batch, c):
  @jax.jit
  def run(params, batch):
    loss_fn = functools.partial(dpo_batch_loss, config, c)
    loss, _, metrics = accumulate_rows(loss_fn, params, batch, 2)
    return {"loss": loss.mean(), **{name: value.mean() for name, value in metrics.items()}}

  return run(params, batch)


@pytest.mark.parametrize("normalised", [False, True])
def test_loss_and_metrics_are_those_of_each_pair_alone(
  config, params, pairs, ref, alone, normalised
):
  lengths = np.array([[np.count_nonzero(s.weights) for s in pair] for pair in pairs])
  c = DPOConfig(beta=BETA, length_normalised=normalised)
  metrics = loss_and_metrics(config, params, cut(pairs, ref), c)
  golden, _ = expected(alone, ref, lengths if normalised else 1)
  for name, value in golden.items():
    np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)


def test_the_gradient_is_exact_in_micro_batches_and_from_a_dump(
  config, params, pairs, ref, alone, tmp_path
):
  golden, weights = expected(alone, ref)
  exact = jax.jit(jax.grad(lambda p: jnp.sum(weights * of_responses(config, p, pairs))))(params)
  nonfinite.save_dump(tmp_path / "dump", {"stage": "dpo", "step": 1}, params, cut(pairs, ref))
  about, dumped, batch = nonfinite.load_dump(tmp_path / "dump")
  run = SimpleNamespace(policy_config=config, config=SimpleNamespace(dpo=DPOConfig(beta=BETA)))
  loss, grads = replaying.recompute(run, about["stage"], dumped, batch)
  assert loss == pytest.approx(golden["loss"], rel=2e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a / len(pairs), b, atol=2e-6, rtol=2e-4), grads, exact
  )


def test_the_reference_is_scored_pair_by_pair(config, params, pairs, alone):
  batch, place = pack_pairs(pairs, None, LENGTH, MOST, lanes=2)
  score = make_pair_logprobs(config, parallel.make_mesh(), 2)
  rows = np.asarray(score(params, batch))
  np.testing.assert_allclose(rows[place[:, 0], place[:, 1]], alone, rtol=2e-5)


def test_steps_prefer_the_chosen_and_compile_once(config, params, pairs, alone):
  schedule = optax.constant_schedule(3e-3)
  optimizer = train_state.make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
  mesh = parallel.make_mesh()
  state = train_state.restart(config, optimizer, mesh, params)
  step = make_dpo_step(config, DPOConfig(beta=BETA), optimizer, schedule, mesh, 2)
  batch = parallel.shard_rows(mesh, cut(pairs, alone.astype(np.float32)))
  metrics = []
  for _ in range(8):
    state, of_step = step(state, batch)
    metrics.append({name: float(value) for name, value in of_step.items()})
  assert metrics[0]["loss"] == pytest.approx(np.log(2), abs=1e-4), "the policy is the reference"
  assert metrics[-1]["rewards/accuracies"] == 1
  assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
  assert step._cache_size() == 1


def test_a_pair_that_fits_no_row_is_refused(pairs, ref):
  with pytest.raises(ValueError, match="more than a row's 40"):
    cut(pairs, ref, length=40)


def test_steps_take_every_item_once_before_any_twice():
  seen = np.concatenate([drawn(7, step, 4, 10) for step in range(5)])
  assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
  assert seen[:10].tolist() != seen[10:].tolist(), "each pass has an order of its own"
  assert drawn(7, 2, 4, 10).tolist() == seen[8:12].tolist(), "a function of the step alone"
  assert sorted(drawn(0, 0, 6, 3)) == [0, 0, 1, 1, 2, 2], "a step may be longer than a pass"

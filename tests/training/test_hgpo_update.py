"""The HGPO update: ratios, invariances, and what XLA compiled."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lhrm_jax import parallel, policy
from lhrm_jax.objectives import hgpo, losses
from lhrm_jax.objectives.masked import SumCount, masked_sum_count
from lhrm_jax.objectives.objective import Objective
from lhrm_jax.objectives.policy_objective import PolicyBatch, loss_weights, policy_objective
from lhrm_jax.sampling import LENGTH
from lhrm_jax.training import rollout_logprobs
from lhrm_jax.training import state as train_state
from lhrm_jax.training.ahead import example_batch, example_rollouts
from lhrm_jax.training.hgpo import (
  HGPOBatch,
  HGPOConfig,
  hgpo_gradients,
  make_hgpo_program,
  mini_batches,
  pack_hgpo,
)
from lhrm_jax.training.packed import RowShape
from lhrm_jax.training.packed_rollouts import pack_rollouts
from tests.conftest import policy_logits, take

LEARNING_RATE = 1e-2


make_score = functools.cache(rollout_logprobs.make_score)  # one program for all tests


def some_slow(values, quick):
  """Each compiles another update; all but one run only in `make test-slow`."""
  return [pytest.param(v, marks=() if v == quick else pytest.mark.slow) for v in values]


def objective(**fields):
  options = {
    "clip_low": 0.2, "clip_high": 0.2, "beta": 0.05, "aggregation": "token_mean",
    "neither_penalty": 1.0, **fields,
  }  # fmt: skip
  return HGPOConfig(**options)


@pytest.fixture(scope="module")
def batch(config, params, tokenizer, rollouts):
  scores = jax.random.uniform(jax.random.key(1), rollouts.lengths.shape)
  reference = jax.tree.map(lambda x: x * 1.02, params)
  ref = make_score(config, tokenizer.tag_ids.opening, 1.0)(reference, rollouts)
  return HGPOBatch(rollouts, hgpo.advantages(scores, alpha=1.0, delta=0.2), ref)


def loss_and_grad(config, spec, opening, params, batch):
  loss, grads, _ = hgpo_gradients(config, spec, opening, params, batch)
  return loss.mean(), jax.tree.map(lambda g: g / jnp.maximum(loss.count, 1), grads)


def plain_loss(config, spec, opening, params, batch, per_sequence=None):
  """The objective over whole sequences, padded alike: no packing, no blocks, no chunks."""
  rollouts = batch.rollouts
  b, m, g, t = rollouts.responses.shape
  p, n = rollouts.prompts.tokens.shape[1], b * m * g
  starts = jnp.repeat(rollouts.prompts.lengths, m * g)
  responses = rollouts.responses.reshape(n, t)
  # Responses are moved up against their prompts.
  place, at = jnp.arange(p + t), starts[:, None]
  inside = (place >= at) & (place < at + t)
  moved = jnp.take_along_axis(responses, jnp.clip(place - at, 0, t - 1), axis=1)
  prompts = jnp.pad(jnp.repeat(rollouts.prompts.tokens, m * g, axis=0), ((0, 0), (0, t)))
  tokens = jnp.where(inside, moved, prompts)
  logp = jax.nn.log_softmax(policy_logits(config, params, tokens) / spec.temperature)
  of_response = jnp.take_along_axis(
    logp, (at + jnp.arange(t) - 1)[..., None] * jnp.ones(logp.shape[-1], jnp.int32), axis=1
  )
  new = jnp.take_along_axis(of_response, responses[..., None], axis=2)[..., 0]

  def flat(x):
    return x.reshape(n, *x.shape[3:])

  advantages = losses.token_advantages(
    flat(batch.advantages.tag), flat(batch.advantages.body), t, spec.discount,
    flat(rollouts.lengths), every_token=spec.every_token,
  )  # fmt: skip
  first = jnp.exp(of_response[:, 0])  # [N, V]
  tags = first[:, jnp.array(opening)]
  modes = jnp.concatenate([tags, 1 - tags.sum(1, keepdims=True)], axis=1)
  ref_modes = jnp.exp(jnp.repeat(batch.ref.mode_logprobs, m * g, axis=0))
  ref = flat(batch.ref.logprobs)
  old = None if batch.old is None else flat(batch.old.logprobs)
  if spec.tag_normalisation == "tags":
    new, ref = (
      x.at[:, 0].add(-jnp.log(p[:, :2].sum(1))) for x, p in ((new, modes), (ref, ref_modes))
    )
    if old is not None:
      old_modes = jnp.exp(jnp.repeat(batch.old.mode_logprobs, m * g, axis=0))
      old = old.at[:, 0].add(-jnp.log(old_modes[:, :2].sum(1)))
  old = jax.lax.stop_gradient(new) if old is None else old
  if spec.tag_old == "behaviour":
    old = old.at[:, 0].set(jnp.log(0.5))
  mask = flat(rollouts.mask)
  if spec.mask_truncated:
    mask &= (flat(rollouts.finish_reason) != LENGTH)[:, None]
  sampler = flat(rollouts.logprobs).at[:, 0].set(old[:, 0])
  entropy = -jnp.sum(jnp.exp(of_response) * of_response, axis=-1)
  given = PolicyBatch(new, old, ref, advantages, mask, sampler, entropy)
  loss, metrics = policy_objective(spec, given, constant_length=t, per_sequence=per_sequence)
  extra = -spec.neither_penalty * jnp.log(tags.sum(1))
  if spec.tag_kl == "exact":
    extra += spec.beta * jnp.sum(modes * jnp.log(modes / ref_modes), axis=1)
  weights, _ = loss_weights(spec, mask, t, per_sequence)
  extra = jnp.sum(extra * weights[:, 0])
  return SumCount(loss.total + extra, loss.count), metrics


@pytest.mark.parametrize("scan_layers", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
  "fields",
  [
    {"aggregation": "sequence_sum"},
    {"aggregation": "token_mean", "temperature": 0.7},
    pytest.param(
      {"aggregation": "sequence_mean", "estimator": "reinforce_pp", "gamma": 0.9},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {"aggregation": "constant_length", "tag_weight": 3.0, "tag_kl": "exact"},
      marks=pytest.mark.slow,
    ),
    {
      "aggregation": "sequence_mean",
      "separate_tag": True,
      "tag_weight": 0.3,
      "tag_old": "behaviour",
      "sampler_correction": "token",
      "entropy_bonus": 0.2,
      "mask_truncated": True,
    },
    pytest.param(
      {
        "aggregation": "sequence_mean",
        "tag_normalisation": "vocabulary",
        "tag_kl": "k3",
        "neither_penalty": 0.0,
        "estimator": "reinforce_pp",
        "gamma": 0.9,
        "literal": True,
      },
      marks=pytest.mark.slow,
    ),
  ],
)
def test_packing_changes_nothing(config, params, tokenizer, batch, fields, scan_layers):
  """Packed, prompts shared, against every row run whole: the loss, metrics, gradient.

  Temperature 0.7 and scanned layers attend block by block.
  """
  if scan_layers or "temperature" in fields:
    config = dataclasses.replace(config, attention_chunk=16)
  if scan_layers:
    if fields["aggregation"] != "token_mean":
      pytest.skip("one option is enough for the other layout")
    config = dataclasses.replace(config, scan_layers=True)
    params = {
      **{name: value for name, value in params.items() if not name.startswith("layer_")},
      "layers": jax.tree.map(lambda *x: jnp.stack(x), params["layer_0"], params["layer_1"]),
    }
  spec, opening = (
    objective(packed_length=64, micro_batch_rows=2, **fields),
    tokenizer.tag_ids.opening,
  )
  other = make_score(config, opening, spec.temperature)(
    jax.tree.map(lambda x: 0.9 * x, params), batch.rollouts
  )
  shift = 0.3 * jnp.sin(jnp.arange(other.logprobs.size)).reshape(other.logprobs.shape)
  # Of the tag it says what `mode_logprobs` says.
  old = dataclasses.replace(other, logprobs=other.logprobs + shift.at[..., 0].set(0))
  batch = pad_batch(dataclasses.replace(batch, old=old), response_by=31)
  per_sequence = None
  if spec.separate_tag:
    counted = batch.rollouts.lengths * (batch.rollouts.finish_reason != LENGTH)
    per_sequence = jnp.sum(counted > 1) / jnp.sum(counted > 0)

  @jax.jit
  def plain(params):
    whole = dataclasses.replace(config, attention_chunk=0)  # in one piece
    loss, metrics = plain_loss(whole, spec, opening, params, batch, per_sequence)
    return loss.mean(), metrics

  (expected, parts), expected_grad = jax.value_and_grad(plain, has_aux=True)(params)
  loss, grads, metrics = hgpo_gradients(config, spec, opening, params, batch)
  np.testing.assert_allclose(loss.mean(), expected, rtol=1e-5)
  assert_trees_close(jax.tree.map(lambda g: g / loss.count, grads), expected_grad)
  for name, part in parts.items():
    np.testing.assert_allclose(metrics[name].mean(), part.mean(), rtol=1e-4, atol=1e-6)
    assert metrics[name].count == part.count
  assert parts["clip_ratio/low_mean"].mean() > 0 and parts["clip_ratio/high_mean"].mean() > 0


def test_any_objective_is_given_the_rows_and_differentiated(config, params, tokenizer, batch):
  """REINFORCE has, on policy, the gradient of HGPO's objective without clipping or KL."""

  def reinforce(c, rows):
    chosen = jnp.take_along_axis(rows.new.mode_logprobs, rows.mode[:, None], axis=1)[:, 0]
    among = chosen - jax.nn.logsumexp(rows.new.mode_logprobs[:, :2], axis=1)
    has_tokens = rows.lengths > 0
    per_token = losses.token_advantages(rows.tag, rows.body, rows.mask.shape[1])
    return masked_sum_count(-rows.new.logprobs * per_token, rows.mask), {
      "first token": masked_sum_count(abs(chosen - rows.new.logprobs[:, 0]), has_tokens),
      "among tags": masked_sum_count(abs(among - rows.new.tag_logprobs), has_tokens),
      "rows": masked_sum_count(jnp.ones_like(chosen), has_tokens),
    }

  c = objective(beta=0.0, tag_normalisation="vocabulary", neither_penalty=0.0)
  opening = tokenizer.tag_ids.opening
  loss, grads, metrics = hgpo_gradients(config, c, opening, params, batch, Objective(reinforce))
  _, expected = loss_and_grad(config, c, opening, params, batch)
  assert_trees_close(jax.tree.map(lambda g: g / loss.count, grads), expected)
  assert metrics["rows"].total == batch.rollouts.lengths.size
  assert metrics["first token"].mean() < 1e-5 and metrics["among tags"].mean() < 1e-5
  assert {"entropy", "mode/think_prob"} <= set(metrics) and "kl" not in metrics


@pytest.mark.parametrize("aggregation", some_slow(losses.AGGREGATIONS, "token_mean"))
def test_skipped_responses_had_no_gradient(config, params, tokenizer, batch, aggregation):
  """Advantages of 0 in half the rows, whole queries among them."""
  keep = (jnp.arange(batch.rollouts.lengths.size) % 2).reshape(batch.rollouts.lengths.shape) == 1
  keep = keep.at[2].set(False)
  quiet = dataclasses.replace(
    batch, advantages=jax.tree.map(lambda x: jnp.where(keep, x, 0.0), batch.advantages)
  )
  fields = {
    "aggregation": aggregation, "beta": 0.0, "neither_penalty": 0.0, "micro_batch_rows": 1,
    "packed_length": 40,
  }  # fmt: skip
  opening = tokenizer.tag_ids.opening
  loss, grad = loss_and_grad(config, objective(**fields), opening, params, quiet)
  spec = objective(skip_zero_advantages=True, **fields)
  skipped_loss, skipped_grad = loss_and_grad(config, spec, opening, params, quiet)
  np.testing.assert_allclose(skipped_loss, loss, rtol=1e-5)
  assert_trees_close(skipped_grad, grad)
  nothing = dataclasses.replace(quiet, advantages=jax.tree.map(jnp.zeros_like, quiet.advantages))
  _, grad = loss_and_grad(config, spec, opening, params, nothing)
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grad))


def test_skipping_is_refused_where_the_kl_term_counts(config, tokenizer, params, batch):
  with pytest.raises(ValueError, match=r"beta=0\.05"):
    update(config, tokenizer, params, batch, skip_zero_advantages=True)


def assert_trees_close(actual, expected, atol=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4), actual, expected
  )


@functools.cache
def program_of(config, c, opening, learning_rate):
  schedule = optax.constant_schedule(learning_rate)
  optimizer = train_state.make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
  mesh = parallel.make_mesh()
  return optimizer, mesh, make_hgpo_program(config, c, opening, optimizer, schedule, mesh)


def update(config, tokenizer, params, batch, learning_rate=LEARNING_RATE, **fields):
  c = objective(**fields)
  optimizer, mesh, program = program_of(config, c, tokenizer.tag_ids.opening, learning_rate)
  state = train_state.restart(config, optimizer, mesh, params)

  def step(state, batch):
    return program(state, pack_hgpo(config, c, mesh, batch))

  step.program = program
  return step, *step(state, batch)


@pytest.mark.parametrize("old", some_slow(["implicit", "scored"], "scored"))
def test_importance_ratio_is_one_on_the_first_update(config, params, tokenizer, batch, old):
  fields = {"packed_length": 40, "micro_batch_rows": 1}
  if old == "scored":
    score = make_score(config, tokenizer.tag_ids.opening, 1.0, objective(**fields))
    batch = dataclasses.replace(batch, old=score(params, batch.rollouts))
  _, _, metrics = update(config, tokenizer, params, batch, **fields)
  assert abs(float(metrics["importance_ratio/mean"]) - 1) < 1e-6
  assert float(metrics["clip_ratio/low_mean"]) == float(metrics["clip_ratio/high_mean"]) == 0


@pytest.mark.parametrize(
  "fields",
  some_slow(
    [
      {"aggregation": "sequence_sum"},
      {"separate_tag": True, "tag_weight": 0.3, "mask_truncated": True, "tag_kl": "exact"},
    ],
    {"separate_tag": True, "tag_weight": 0.3, "mask_truncated": True, "tag_kl": "exact"},
  ),
)
def test_rows_and_blocks_change_nothing(config, params, tokenizer, batch, fields):
  """One row for all, many short ones one at a time, and a prompt per response."""
  opening = tokenizer.tag_ids.opening
  whole = hgpo_gradients(config, objective(**fields), opening, params, batch)
  for length, rows, shared in ((31, 1, True), (40, 2, False)):
    c = objective(packed_length=length, micro_batch_rows=rows, **fields)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(policy, "shares_prefixes", lambda *_, shared=shared: shared)
      cut = hgpo_gradients(config, c, opening, params, batch)
    np.testing.assert_allclose(cut[0].mean(), whole[0].mean(), rtol=1e-5)
    assert_trees_close(*(jax.tree.map(lambda g, n=x[0].count: g / n, x[1]) for x in (cut, whole)))
    for name in set(whole[2]) - {"perf/padding_share"}:
      np.testing.assert_allclose(cut[2][name].mean(), whole[2][name].mean(), rtol=1e-4, atol=1e-5)


def test_all_lengths_are_packed_into_one_shape(batch):
  """No tokens at all, those that were sampled, and all rows full."""
  c, mesh = HGPOConfig(packed_length=40, micro_batch_rows=2), parallel.make_mesh()
  shape = RowShape.of(c, 40, 18, mesh)
  b, m, g, t = batch.rollouts.responses.shape
  rows, shapes = [], set()
  for lengths in (np.zeros((b, m, g), int), batch.rollouts.lengths, np.full((b, m, g), t)):
    places = pack_rollouts(batch.rollouts, shape, True, np.asarray(lengths))
    np.testing.assert_array_equal(
      places.tokens_back(places.of_tokens(batch.rollouts.logprobs), (b, m, g, t)),
      np.where(np.arange(t) < np.asarray(lengths)[..., None], batch.rollouts.logprobs, 0),
    )
    rows.append(int(places.rows.filled.sum()))
    shapes.add(tuple(x.shape for x in jax.tree.leaves(places.rows)))
  assert rows[0] < rows[1] < rows[2] and len(shapes) == 1


def test_mini_batches_are_whole_queries(batch):
  """Every prompt is in exactly one, with its own responses, advantages and scores."""
  parts = mini_batches(jax.device_get(dataclasses.replace(batch, old=batch.ref)), 3)
  together = jax.tree.map(lambda *x: np.concatenate(x) if x[0].ndim else x[0], *parts)
  order = np.argsort(together.rollouts.prompts.ids)
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x[order] if x.ndim else x, y),
    together, dataclasses.replace(batch, old=batch.ref),
  )  # fmt: skip
  assert [len(part.advantages.tag) for part in parts] == [2, 2, 2]


def test_prompt_order_changes_nothing(config, params, tokenizer, batch):
  spec, opening = objective(), tokenizer.tag_ids.opening
  loss, grad = loss_and_grad(config, spec, opening, params, batch)
  again, again_grad = loss_and_grad(config, spec, opening, params, take(batch, [3, 5, 0, 1, 4, 2]))
  np.testing.assert_allclose(again, loss, rtol=1e-5)
  assert_trees_close(again_grad, grad)


def pad_batch(batch, prompt_by=5, response_by=4, fill=11):
  def pad(x, by, value):
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, by),), constant_values=value)

  rollouts = batch.rollouts
  prompts = dataclasses.replace(
    rollouts.prompts, tokens=pad(rollouts.prompts.tokens, prompt_by, fill)
  )
  rollouts = dataclasses.replace(
    rollouts,
    prompts=prompts,
    responses=pad(rollouts.responses, response_by, fill),
    logprobs=pad(rollouts.logprobs, response_by, jnp.nan),
  )
  ref, old = (
    None
    if scored is None
    else dataclasses.replace(
      scored,
      logprobs=pad(scored.logprobs, response_by, jnp.nan),
      entropy=pad(scored.entropy, response_by, jnp.nan),
    )
    for scored in (batch.ref, batch.old)
  )
  return dataclasses.replace(batch, rollouts=rollouts, ref=ref, old=old)


@pytest.mark.parametrize("aggregation", some_slow(losses.AGGREGATIONS, "sequence_mean"))
def test_padding_changes_nothing(config, params, tokenizer, batch, aggregation):
  """Even if padding has a real token's id, and the padded log-probabilities are NaN."""
  spec, opening = objective(aggregation=aggregation), tokenizer.tag_ids.opening
  loss, grad = loss_and_grad(config, spec, opening, params, batch)
  padded_loss, padded_grad = loss_and_grad(config, spec, opening, params, pad_batch(batch))
  np.testing.assert_allclose(padded_loss, loss, rtol=1e-5)
  assert_trees_close(padded_grad, grad)


def test_nan_in_masked_slots_changes_nothing(config, params, tokenizer, batch):
  mask = batch.rollouts.mask
  planted = dataclasses.replace(
    batch,
    rollouts=dataclasses.replace(
      batch.rollouts, logprobs=jnp.where(mask, batch.rollouts.logprobs, jnp.nan)
    ),
    ref=dataclasses.replace(batch.ref, logprobs=jnp.where(mask, batch.ref.logprobs, jnp.nan)),
  )
  spec, opening = objective(), tokenizer.tag_ids.opening
  loss, grad = loss_and_grad(config, spec, opening, params, batch)
  again, again_grad = loss_and_grad(config, spec, opening, params, planted)
  assert again == loss
  jax.tree.map(np.testing.assert_array_equal, again_grad, grad)


def test_responses_without_tokens_give_zero(config, params, tokenizer, batch):
  empty = dataclasses.replace(
    batch,
    rollouts=dataclasses.replace(batch.rollouts, lengths=jnp.zeros_like(batch.rollouts.lengths)),
  )
  loss, grad = loss_and_grad(config, objective(), tokenizer.tag_ids.opening, params, empty)
  assert loss == 0
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grad))


def test_an_update_raises_what_had_advantage(config, params, tokenizer, batch):
  """Thinking wins on every query: afterwards the policy thinks more, and only then."""
  shape = batch.rollouts.lengths.shape
  for winner in (0, 1):
    scores = jnp.zeros(shape).at[:, winner].set(1.0)
    advantages = hgpo.advantages(scores, alpha=1.0, delta=0.2)
    _, state, before = update(
      config, tokenizer, params, dataclasses.replace(batch, advantages=advantages),
      neither_penalty=0.0,
    )  # fmt: skip
    after = make_score(config, tokenizer.tag_ids.opening, 1.0)(state.params, batch.rollouts)
    change = float(jnp.exp(after.mode_logprobs[:, 0]).mean() - before["mode/think_prob"])
    assert change > 0.01 if winner == 0 else change < -0.01


def test_the_reference_pulls_back(config, params, tokenizer, batch):
  """Without advantages, the KL term alone moves the policy towards the reference."""
  reference = jax.tree.map(lambda x: 1.2 * x, params)
  quiet = dataclasses.replace(
    batch,
    advantages=hgpo.Advantages(*(jnp.zeros(batch.rollouts.lengths.shape),) * 2),
    ref=make_score(config, tokenizer.tag_ids.opening, 1.0)(reference, batch.rollouts),
  )
  step, state, first = update(
    config, tokenizer, params, quiet, beta=1.0, learning_rate=2e-3, tag_kl="exact",
    neither_penalty=0.0,
  )  # fmt: skip
  for _ in range(10):
    state, last = step(state, quiet)
  assert float(last["kl"]) < 0.5 * float(first["kl"])
  assert float(last["mode/tag_kl"]) < float(first["mode/tag_kl"])


def test_no_array_of_tokens_times_vocabulary(tokenizer, config, params, batch):
  """Read off the compiled update: no buffer as large as `[N, T, V]`, and memory that grows with
  the chunk, not with the vocabulary times all tokens."""
  vocabulary = 50_021  # a prime: no other product of sizes equals it

  def compiled(chunk):
    big = dataclasses.replace(config, vocab_size=vocabulary, logprob_chunk=chunk)
    schedule = optax.constant_schedule(LEARNING_RATE)
    optimizer = train_state.make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
    shapes = jax.eval_shape(
      lambda key: train_state.create(big, optimizer, parallel.make_mesh(), key), jax.random.key(0)
    )
    mesh, c = parallel.make_mesh(), objective(packed_length=40, micro_batch_rows=12)
    step = make_hgpo_program(big, c, tokenizer.tag_ids.opening, optimizer, schedule, mesh)
    return step.lower(shapes, pack_hgpo(big, c, mesh, batch)).compile()

  rows, slots = 12, 12 * 40
  small, whole = compiled(chunk=rows), compiled(chunk=slots)
  sizes = [
    np.prod([int(d) for d in dims.split(",")])
    for dims in re.findall(r"f32\[([\d,]+)\]", small.as_text())
    if str(vocabulary) in dims.split(",")
  ]
  assert max(sizes) < slots * vocabulary / 8
  temp = [c.memory_analysis().temp_size_in_bytes for c in (small, whole)]
  assert temp[1] - temp[0] > slots / 8 * vocabulary * 4, "the check must see a larger buffer"


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_example_has_the_shapes_of_any_rollouts(config, params, batch, epochs):
  rollouts, mesh = batch.rollouts, parallel.mesh_of(params)
  b, _, g, t = rollouts.responses.shape
  c = objective(samples_per_mode=g, epochs=epochs)
  if c.updates > 1:
    batch = dataclasses.replace(batch, old=batch.ref)
  example = example_batch(c, example_rollouts(c, b, rollouts.prompts.tokens.shape[1], t))
  shapes = [
    jax.tree.map(lambda x: (x.aval, x.sharding), pack_hgpo(config, c, mesh, of))
    for of in (example, batch)
  ]
  assert shapes[0] == shapes[1], "else the program compiled ahead would not be the update's"


def test_no_lengths_compile_a_second_program(config, params, tokenizer, batch):
  step, state, _ = update(config, tokenizer, params, batch)
  shorter = jax.tree.map(lambda n: jnp.minimum(n, 3), batch.rollouts.lengths)
  shorter = dataclasses.replace(batch.rollouts, lengths=shorter)
  for rollouts in (batch.rollouts, shorter, batch.rollouts):
    state, _ = step(state, dataclasses.replace(batch, rollouts=rollouts))
  assert step.program._cache_size() == 1

"""Paired rollouts: what must hold whatever the policy, the batch and the options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax import policy
from lhrm_jax.policy import flash
from lhrm_jax.sampling import LENGTH, STOPPED, sample
from lhrm_jax.sampling.sampler import row_uniforms
from lhrm_jax.sampling.tokens import sample_tokens
from lhrm_jax.training.rollout_logprobs import make_score
from tests.conftest import (
  EOS_IDS,
  RESPONSE_TOKENS,
  make_prompts,
  make_spec,
  policy_logits,
  take,
)


def logits_of(config, params, ids, width=40):
  """`[len(ids), V]` logits of one sequence alone, padded so that one program serves all."""
  tokens = np.zeros((1, width), np.int32)
  tokens[0, : len(ids)] = ids
  segments = (np.arange(width) < len(ids)).astype(np.int32)[None]
  return np.asarray(policy_logits(config, params, tokens, segments))[0, : len(ids)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("paired", [True, False])
def test_logprobs_equal_a_teacher_forced_rescore(
  config, params, tokenizer, prompts, temperature, paired
):
  rollouts = sample(
    config, make_spec(tokenizer, paired=paired, temperature=temperature), params, prompts,
    jax.random.key(3),
  )  # fmt: skip
  assert len(set(np.asarray(rollouts.lengths).ravel())) > 1, "lengths must be ragged here"
  score = make_score(config, tokenizer.tag_ids.opening, temperature)
  scored = score(params, rollouts)
  mask = np.asarray(rollouts.mask)
  np.testing.assert_allclose(
    np.asarray(scored.logprobs)[mask], np.asarray(rollouts.logprobs)[mask], atol=1e-5
  )


def test_logprobs_equal_the_full_forward_of_each_row(config, params, tokenizer, prompts, rollouts):
  """Against nothing shared and nothing cached: every row alone, prompt and response in one."""
  for b, m, g in np.ndindex(*rollouts.lengths.shape):
    prompt = prompts.tokens[b, : prompts.lengths[b]]
    response = rollouts.responses[b, m, g, : rollouts.lengths[b, m, g]]
    logp = jax.nn.log_softmax(logits_of(config, params, [*prompt, *response]))[len(prompt) - 1 : -1]
    expected = np.take_along_axis(np.asarray(logp), np.asarray(response)[:, None], axis=1)[:, 0]
    actual = rollouts.logprobs[b, m, g, : len(response)]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_gpu_samples_the_same_from_parameters_by_layer(
  config, params, tokenizer, prompts, rollouts
):
  scanned = dataclasses.replace(config, scan_layers=True)
  stacked = {name: x for name, x in params.items() if not name.startswith("layer_")}
  layers = [params[f"layer_{i}"] for i in range(config.num_layers)]
  stacked["layers"] = jax.tree.map(lambda *x: jnp.stack(x), *layers)
  with flash.compiling_for("cpu"):
    assert policy.for_sampling(scanned, stacked).keys() == stacked.keys()
  with flash.compiling_for("gpu"):
    by_layer = policy.for_sampling(scanned, stacked)
  assert by_layer.keys() == params.keys()
  again = sample(scanned, make_spec(tokenizer), by_layer, prompts, jax.random.key(7))
  np.testing.assert_array_equal(again.responses, rollouts.responses)
  np.testing.assert_allclose(again.logprobs, rollouts.logprobs, atol=1e-5)


def test_exactly_g_responses_of_each_mode_whatever_the_policy(config, params, tokenizer, prompts):
  """Even a policy that would never think."""
  think, _ = tokenizer.tag_ids.opening
  stubborn = {**params, "embedding": params["embedding"].at[think].mul(-50.0)}
  rollouts = sample(config, make_spec(tokenizer), stubborn, prompts, jax.random.key(0))
  first = np.asarray(rollouts.responses[..., 0])
  np.testing.assert_array_equal(first[:, 0], tokenizer.tag_ids.opening[0])
  np.testing.assert_array_equal(first[:, 1], tokenizer.tag_ids.opening[1])
  assert first.shape == (6, 2, 3)


def test_a_row_does_not_depend_on_its_batch(config, params, tokenizer, prompts, rollouts):
  """Order, neighbours and padding of the batch change no token."""
  order = [4, 2, 0]
  shuffled = sample(config, make_spec(tokenizer), params, take(prompts, order), jax.random.key(7))
  np.testing.assert_array_equal(shuffled.responses, take(rollouts, order).responses)
  np.testing.assert_allclose(shuffled.logprobs, take(rollouts, order).logprobs, atol=1e-5)


def test_a_wider_prompt_array_changes_nothing(config, params, tokenizer, rows, rollouts):
  wide = make_prompts(tokenizer, rows, width=30)
  again = sample(config, make_spec(tokenizer), params, wide, jax.random.key(7))
  np.testing.assert_array_equal(again.responses, rollouts.responses)


def test_a_longer_limit_continues_the_same_responses(config, params, tokenizer, prompts, rollouts):
  longer = sample(
    config, make_spec(tokenizer, max_tokens=RESPONSE_TOKENS + 6), params, prompts, jax.random.key(7)
  )
  t = RESPONSE_TOKENS
  mask = np.asarray(rollouts.mask)
  np.testing.assert_array_equal(
    np.asarray(longer.responses)[..., :t][mask], np.asarray(rollouts.responses)[mask]
  )
  assert (np.asarray(longer.lengths) >= np.asarray(rollouts.lengths)).all()


def test_more_samples_keep_the_first_ones(config, params, tokenizer, prompts, rollouts):
  more = sample(config, make_spec(tokenizer, samples=5), params, prompts, jax.random.key(7))
  np.testing.assert_array_equal(more.responses[:, :, :3], rollouts.responses)


def test_rows_differ_by_prompt_mode_sample_and_step(tokenizer, prompts):
  spec = make_spec(tokenizer)
  draws = np.concatenate([row_uniforms(spec, prompts.ids, jax.random.key(k)) for k in (0, 1)], 1)
  assert len(np.unique(draws[0])) == draws.shape[1]


def test_lengths_end_and_padding_agree(tokenizer, rollouts):
  responses, lengths = np.asarray(rollouts.responses), np.asarray(rollouts.lengths)
  for index in np.ndindex(*lengths.shape):
    row, n = responses[index], lengths[index]
    ends = np.isin(row[:n], EOS_IDS)
    if rollouts.finish_reason[index] == STOPPED:
      assert ends[-1] and not ends[:-1].any()
    else:
      assert rollouts.finish_reason[index] == LENGTH
      assert n == RESPONSE_TOKENS and not ends.any()
    assert (row[n:] == tokenizer.pad_id).all()
    np.testing.assert_array_equal(rollouts.logprobs[index][n:], 0.0)


def test_mixed_rollouts_are_forced_in_turn_and_else_free(config, params, tokenizer, prompts):
  """Four of six: think and no_think in turn, with the policy's own log-probability."""
  given = (params, prompts, jax.random.key(3))
  free, mixed = (
    sample(config, make_spec(tokenizer, samples=6, paired=False, forced=forced), *given)
    for forced in (0, 4)
  )
  opening = tokenizer.tag_ids.opening
  np.testing.assert_array_equal(mixed.responses[:, 0, :4, 0], [[*opening, *opening]] * 6)
  for name in ("responses", "logprobs", "lengths"):
    np.testing.assert_array_equal(getattr(mixed, name)[:, :, 4:], getattr(free, name)[:, :, 4:])
  scored = make_score(config, opening, 1.0)(params, mixed)
  mask = np.asarray(mixed.mask)
  np.testing.assert_allclose(scored.logprobs[mask], mixed.logprobs[mask], atol=1e-5)


def test_greedy_takes_the_most_likely_token(config, params, tokenizer, prompts):
  rollouts = sample(
    config, make_spec(tokenizer, samples=1, paired=False, temperature=0.0), params, prompts,
    jax.random.key(0),
  )  # fmt: skip
  for b in range(6):
    ids = list(np.asarray(prompts.tokens[b, : prompts.lengths[b]]))
    for token in np.asarray(rollouts.responses[b, 0, 0, : rollouts.lengths[b, 0, 0]]):
      logits = logits_of(config, params, ids)[-1]
      assert int(logits.argmax()) == token
      ids.append(token)


def draw(probs, temperature=1.0, top_p=1.0, top_k=0, n=40_000):
  logits = jnp.broadcast_to(jnp.log(jnp.array(probs)), (n, len(probs)))
  uniforms = jax.random.uniform(jax.random.key(0), (n,))
  tokens, logprobs = sample_tokens(
    logits, uniforms, jnp.float32(temperature), jnp.float32(top_p), jnp.int32(top_k)
  )
  return np.bincount(tokens, minlength=len(probs)) / n, tokens, logprobs


@pytest.mark.parametrize(
  "options, expected",
  [
    ({}, [0.5, 0.3, 0.15, 0.05]),
    ({"temperature": 0.5}, [0.6849, 0.2466, 0.0616, 0.0068]),  # squares, normalised
    ({"top_k": 2}, [0.625, 0.375, 0, 0]),
    ({"top_p": 0.6}, [0.625, 0.375, 0, 0]),
    ({"top_p": 0.5}, [1, 0, 0, 0]),
    ({"top_p": 1e-9}, [1, 0, 0, 0]),
    ({"temperature": 0.0}, [1, 0, 0, 0]),
  ],
)
def test_tokens_follow_their_distribution(options, expected):
  frequencies, _, _ = draw([0.5, 0.3, 0.15, 0.05], **options)
  np.testing.assert_allclose(frequencies, expected, atol=0.01)


def test_logprobs_are_those_before_truncation():
  _, _, logprobs = draw([0.5, 0.3, 0.2], top_k=1, n=10)
  np.testing.assert_allclose(logprobs, np.log(0.5), rtol=1e-5)


def test_impossible_tokens_are_never_drawn():
  probs = jnp.array([0.0, 0.4, 0.0, 0.6, 0.0])
  uniforms = jnp.array([0.0, 0.4, np.nextafter(np.float32(1), np.float32(0))])
  logits = jnp.broadcast_to(jnp.log(probs), (3, 5))
  tokens, _ = sample_tokens(logits, uniforms, 1.0, 1.0, 0)
  np.testing.assert_array_equal(tokens, [1, 3, 3])


def test_replies_in_each_mode_follow_the_settings_of_that_mode(config, params, tokenizer, prompts):
  """Thinking is greedy and direct replies are drawn, as if all were."""
  key = jax.random.key(7)

  def sampled(**drawing):
    return sample(config, make_spec(tokenizer, max_tokens=4, **drawing), params, prompts, key)

  greedy, drawn = (sampled(temperature=t).responses for t in ((0.0,) * 3, (1.5,) * 3))
  both = sampled(temperature=(0.0, 1.5, 1.5)).responses
  np.testing.assert_array_equal(both[:, 0], greedy[:, 0])
  np.testing.assert_array_equal(both[:, 1], drawn[:, 1])
  assert (greedy[:, 1] != drawn[:, 1]).any()

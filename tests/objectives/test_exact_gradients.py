"""Each estimator's average over all outcomes against the exact gradient of what it maximises."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.objectives import advantages as registry
from lhrm_jax.objectives import policy_losses
from lhrm_jax.objectives.mode_choice import inter_balance
from tests.objectives import enumerable as policy
from tests.objectives.enumerable import LENGTHS, MODES, THETA, assert_same, scaled

SCORES = np.array([1, 0, 1, 1, 1, 0, 0], np.float32)
CLOSE = np.array([1, 1, 0, 1, 0, 1, 0], np.float32)  # right with .92 in think, .69 in no_think


def advantages_of(name, index, scores=SCORES, **options):
  """`[P, n]` of free groups `[P, n]`; arrays among the options are by response."""
  given = {k: v[index][:, None] if isinstance(v, np.ndarray) else v for k, v in options.items()}
  fn = functools.partial(registry.get(name), **given)
  return np.asarray(jax.jit(fn)(scores[index][:, None]).body[:, 0])


def mean_by_mode(values, theta=THETA):
  """Expected `[7]` values given the mode, `(think, no_think)`."""
  p = np.asarray(policy.probabilities(theta))
  return [values[s] @ p[s] / p[s].sum() for s in (policy.THINK, policy.DIRECT)]


def log_tag_gradients():
  """Of `log pi(think)`, `log pi(no_think)` and `log pi(neither)` by the tag's logits, `[3, 3]`."""
  return np.eye(3) - np.asarray(jax.nn.softmax(THETA["tag"]))


@pytest.mark.parametrize(
  "name, options, rewards, factor",
  [
    ("rloo", {}, SCORES, 1),
    ("dr_grpo", {}, SCORES, 1 / 2),  # (n - 1) / n
    ("thinkless", {"modes": MODES}, np.array([0.5, -1, 0.5, 0.5, 1, -1, -1]), 1 / 2),
  ],
)
def test_unbiased_but_for_a_constant(name, options, rewards, factor):
  index, weights = policy.groups(2)
  found = policy.expected_gradient(index, weights, advantages_of(name, index, **options))
  assert_same(found, scaled(policy.reward_gradient(rewards), factor))


def test_adapt_think_is_unbiased_where_the_policy_picks_the_mode():
  index, weights = policy.groups(1)
  found = registry.get("adapt_think")(
    SCORES[index][:, None], modes=MODES[index][:, None], ref_accuracy=np.full(7, 0.4)
  )
  found = policy.expected_gradient(index, weights, found.body[:, 0])
  assert_same(found, policy.reward_gradient(SCORES + 0.05 * (MODES == 1)))


@pytest.mark.parametrize("size", [2, 3])
def test_grpo_weighs_queries_by_how_often_they_are_solved(size):
  """0/1 scores: the gradient of the accuracy p times E[std] / (p (1 - p)), 1 at two responses."""
  index, weights = policy.groups(size)
  p = float(policy.probabilities(THETA) @ SCORES)
  k = np.arange(size + 1) / size
  factor = weights @ np.sqrt(k * (1 - k))[SCORES[index].sum(axis=1).astype(int)] / (p * (1 - p))
  found = policy.expected_gradient(index, weights, advantages_of("grpo", index))
  assert_same(found, scaled(policy.reward_gradient(SCORES), factor))
  assert size > 2 or factor == pytest.approx(1)


@pytest.mark.parametrize("p, factor", [(0.5, 1.86), (0.9, 2.33), (0.1, 2.33), (0.99, 2.61)])
def test_grpos_weight_of_a_query_at_eight_responses(p, factor):
  """What right responses gain, over p (1 - p): the factor on the gradient of the accuracy."""
  scores = (np.arange(8) < np.arange(9)[:, None]).astype(np.float32)  # k of eight are right
  k = np.arange(9)
  chance = np.array([math.comb(8, i) for i in k]) * p**k * (1 - p) ** (8 - k)
  gain = np.mean(registry.get("grpo")(scores[:, None]).body[:, 0] * scores, axis=1)
  assert chance @ gain / (p * (1 - p)) == pytest.approx(factor, abs=0.005)


SHAPED = [
  ("dapo", {"lengths": LENGTHS, "max_length": 3, "overlong_buffer": 2},
   2 * SCORES - 1 - np.array([1, 1, 1, 1, 0.5, 0.5, 0])),
  ("l1_exact", {"lengths": LENGTHS, "max_length": 4, "length_weight": 0.4},
   SCORES - 0.4 * abs(LENGTHS - 2)),
  ("l1_max", {"lengths": LENGTHS, "max_length": 9, "target_length": 2, "length_weight": 0.4},
   SCORES * np.array([0.3, 0.3, 0.3, 0.3, 0.5, 0.5, 0.7])),
  ("auto_think", {"lengths": LENGTHS, "modes": MODES, "step": 0, "total_steps": 1, "stage": 2},
   np.array([1, 0, 1, 1, 2, -1, -1])),
]  # fmt: skip


@pytest.mark.parametrize("name, options, rewards", SHAPED, ids=[s[0] for s in SHAPED])
def test_two_responses_under_a_norm_are_ranked_and_no_more(name, options, rewards):
  """(r - mean) / std of two is 1 and -1: how much a reward is shaped by does not count."""
  index, weights = policy.groups(2)
  found = policy.expected_gradient(index, weights, advantages_of(name, index, **options))
  wins = np.sign(np.round(rewards[:, None] - rewards[None, :], 5)) @ np.asarray(
    policy.probabilities(THETA)
  )
  assert_same(found, policy.reward_gradient(wins))  # against an opponent that stays as it is


def test_over_a_batch_in_proportion_reinforce_pp_divides_by_the_deviation():
  uniform = jax.tree.map(jnp.zeros_like, THETA)
  index = np.repeat(np.arange(7), [1, 1, 1, 1, 2, 2, 4])[:, None]  # of twelve
  p = SCORES[index].mean()
  literal = registry.get("reinforce_pp")(SCORES[index][:, None], literal=True)
  found = policy.expected_gradient(index, np.full(12, 1 / 12), literal.body[:, 0], uniform)
  exact = policy.reward_gradient(SCORES, uniform)
  assert_same(found, scaled(exact, 1 / np.sqrt(p * (1 - p))))


def test_ada_grpo_moves_towards_a_rare_mode_that_is_worse():
  """Thinking is right more often; at the start the rare direct answer is still reinforced."""
  theta = {**THETA, "tag": jnp.array([3.0, 0.0, -3.0])}
  index, weights = policy.groups(3, theta)
  scores = CLOSE

  def towards_no_think(tree):
    return float(tree["tag"][1] - tree["tag"][0])

  think, direct = mean_by_mode(scores, theta)
  assert think > direct and towards_no_think(policy.reward_gradient(scores, theta)) < 0
  for step, sign in ((0, 1), (10, -1)):
    found = advantages_of("ada_grpo", index, scores, modes=MODES, step=step, total_steps=10)
    found = policy.expected_gradient(index, weights, found, theta)
    assert sign * towards_no_think(found) > 0.01


def test_a_mean_over_tokens_of_each_response_favours_short_ones():
  """Each mode's own tokens learn at 1 / length of their gradient, and so does the tag."""
  index, weights = policy.groups(2)
  found = policy.expected_gradient(
    index, weights, advantages_of("rloo", index), aggregation="sequence_mean"
  )
  exact = policy.reward_gradient(SCORES)
  np.testing.assert_allclose(found["think_1"], exact["think_1"] / 3, atol=2e-6)
  np.testing.assert_allclose(found["direct"], exact["direct"] / 2, atol=2e-6)
  p = np.asarray(jax.nn.softmax(THETA["tag"]))
  gain = np.array([*mean_by_mode(SCORES), 0]) - np.asarray(policy.probabilities(THETA)) @ SCORES
  np.testing.assert_allclose(found["tag"], (p * gain / [3, 2, 1]) @ log_tag_gradients(), atol=2e-6)


def test_a_mean_over_tokens_of_the_group_favours_short_ones_less():
  """Two responses: a mode of length L learns at E[2 / (L + L')] of its gradient."""
  index, weights = policy.groups(2)
  found = policy.expected_gradient(
    index, weights, advantages_of("rloo", index), aggregation="token_mean"
  )
  exact = policy.reward_gradient(SCORES)
  p = np.asarray(policy.probabilities(THETA))
  think, direct = (p @ (2 / (length + LENGTHS)) for length in (3, 2))
  assert think < direct < think * 3 / 2
  np.testing.assert_allclose(found["think_2"], think * exact["think_2"], atol=2e-6)
  np.testing.assert_allclose(found["direct"], direct * exact["direct"], atol=2e-6)


PAIRED = {"alpha": 1.0, "delta": 0.2}


def paired(aggregation="sequence_sum", **options):
  """Expected gradient of HGPO with two responses per mode, forced tags, tag over the vocabulary."""
  index, weights = policy.paired_groups(2)
  fn = functools.partial(registry.get("hgpo"), **{**PAIRED, **options})
  found = jax.jit(fn)(CLOSE[index].reshape(-1, 2, 2))
  tag, body = (np.asarray(x).reshape(-1, 4) for x in (found.tag, found.body))
  # Linear in the advantages, and tags and bodies share no parameter.
  of_tag = policy.expected_gradient(index, weights, tag, aggregation=aggregation)
  of_body = policy.expected_gradient(index, weights, body, aggregation=aggregation)
  return {**of_body, "tag": of_tag["tag"]}


def test_forced_tags_move_by_who_wins_and_not_by_the_reward():
  """By half of P(think wins) - P(no_think wins); here against the gradient of the reward."""
  think, direct = mean_by_mode(CLOSE)
  balance = inter_balance(think, direct, delta=0.2, samples=2)
  assert think > direct + 0.2 and balance < 0
  found = paired()["tag"]
  np.testing.assert_allclose(found, np.array([1, -1, 0]) * balance / 2, atol=2e-6)


def test_forced_tags_leave_neither_alone_only_where_advantages_balance():
  """Over the vocabulary. Literal REINFORCE++ pays the winner alone: all others are pushed down."""
  neither = float(jax.nn.softmax(THETA["tag"])[2])
  assert abs(paired(estimator="rloo", intra_scope="mode")["tag"][2]) < 1e-6
  # Tags see r_intra, which is 1 on all of a tied mode, beside r_inter.
  literal = paired(estimator="reinforce_pp", literal=True)["tag"]
  assert literal[2] < -neither / 4
  # A mean over each response's tokens counts a thought's tag a third and a direct answer's half, so
  # that mass flows to neither in proportion to no_think's losses.
  think, direct = mean_by_mode(CLOSE)
  balance = inter_balance(think, direct, delta=0.2, samples=2)
  found = paired("sequence_mean")["tag"][2]
  np.testing.assert_allclose(found, neither * balance * (1 / 2 - 1 / 3) / 2, atol=2e-6)


@pytest.mark.parametrize("ratio", ["token", "sequence", "product"])
def test_adapt_thinks_forced_halves(ratio):
  """The ratio of whole responses is exact; of tokens, for the tag alone; their mean damps both."""
  index = np.arange(6)[:, None]
  p = np.asarray(jax.nn.softmax(THETA["tag"]))
  given_tag = np.asarray(policy.probabilities(THETA))[:6] / p[MODES[:6]]
  old = policy_losses.with_tag_logprobs(policy.logprobs(THETA), jnp.log(0.5))
  found = policy.expected_gradient(
    index, given_tag / 2, SCORES[index], old=old, ratio=ratio, clip_low=1.0, clip_high=1e6,
    aggregation="sequence_sum" if ratio == "token" else "sequence_mean",
  )  # fmt: skip
  exact = policy.reward_gradient(SCORES)
  means = np.array(mean_by_mode(SCORES))
  if ratio == "product":
    assert_same(found, exact)
    return
  if ratio == "token":
    np.testing.assert_allclose(found["tag"], exact["tag"], atol=2e-6)
    body = 0.5 / p[:2]
  else:
    share = 0.5 * (2 * p[:2]) ** (1 / np.array([3, 2])) / [3, 2]  # of p, where it is exact
    np.testing.assert_allclose(found["tag"], (share * means) @ log_tag_gradients()[:2], atol=2e-6)
    body = share / p[:2]
  np.testing.assert_allclose(found["think_2"], body[0] * exact["think_2"], atol=2e-6)
  np.testing.assert_allclose(found["direct"], body[1] * exact["direct"], atol=2e-6)


@pytest.mark.parametrize(
  "knobs",
  [
    {"surrogate": "cispo"},
    {"surrogate": "cispo", "ratio": "sequence"},
    {"dual_clip": 3.0},
    {"ratio": "sequence_token"},
  ],
)
def test_on_policy_every_surrogate_has_the_same_gradient(knobs):
  index, weights = policy.groups(2)
  found = advantages_of("rloo", index)
  assert_same(
    policy.expected_gradient(index, weights, found, **knobs), policy.reward_gradient(SCORES)
  )


def test_a_sequence_ratio_under_a_sum_learns_as_a_mean_over_tokens():
  """GSPO's s is a geometric mean, so its gradient has the 1 / length inside."""
  index, weights = policy.groups(2)
  advantages = advantages_of("rloo", index)
  gspo = policy.expected_gradient(
    index, weights, advantages, ratio="sequence", aggregation="sequence_mean"
  )
  grpo = policy.expected_gradient(index, weights, advantages, aggregation="sequence_mean")
  assert_same(gspo, grpo)


REF = jax.tree.map(lambda x: 1.5 * jnp.flip(x) + 0.1, THETA)


def kl(theta, ref):
  p = policy.probabilities(theta)
  return p @ jnp.sum(policy.logprobs(theta) - policy.logprobs(ref), axis=1)


def sampled_kl_gradient(estimator):
  """Expected gradient of an estimator as a term of the loss, summed over tokens."""
  weights = policy.probabilities(THETA)
  ref = policy.logprobs(REF)

  def loss(theta):
    terms = policy_losses.kl_estimate(policy.logprobs(theta), ref, estimator=estimator)
    return weights @ jnp.sum(terms * policy.MASK, axis=1)

  return policy.gradient(loss)


def per_token_kl_gradient(forward):
  """Of the tokens' divergences, what came before them held as likely as it is."""
  reach = {name: np.ones(1) for name in THETA}
  tag, first = (np.asarray(jax.nn.softmax(THETA[name])) for name in ("tag", "think_1"))
  reach = {"tag": 1.0, "think_1": tag[0], "think_2": tag[0] * first, "direct": tag[1]}

  def total(theta):
    value = 0.0
    for name, weight in reach.items():
      p, q = jax.nn.log_softmax(theta[name]), jax.nn.log_softmax(REF[name])
      a, b = (q, p) if forward else (p, q)
      value += jnp.sum(weight * jnp.sum(jnp.exp(a) * (a - b), axis=-1))
    return value

  return policy.gradient(total)


def test_what_each_kl_estimator_descends_as_a_term_of_the_loss():
  assert_same(sampled_kl_gradient("k1"), scaled(THETA, 0.0))  # nothing, on average
  assert_same(sampled_kl_gradient("k2"), per_token_kl_gradient(forward=False))
  assert_same(sampled_kl_gradient("k3"), per_token_kl_gradient(forward=True))


def test_every_kl_estimator_has_the_divergence_for_a_mean_but_k2():
  weights = np.asarray(policy.probabilities(THETA))
  new, ref = policy.logprobs(THETA), policy.logprobs(REF)
  means = {
    name: weights @ jnp.sum(policy_losses.kl_estimate(new, ref, estimator=name) * policy.MASK, 1)
    for name in policy_losses.KL_ESTIMATORS
  }
  exact = float(kl(THETA, REF))
  np.testing.assert_allclose([means["k1"], means["k3"]], exact, rtol=1e-5)
  assert abs(means["k2"] / exact - 1) > 0.01


def test_k1_in_the_reward_descends_the_divergence_of_whole_sequences():
  new, ref = policy.logprobs(THETA), policy.logprobs(REF)
  to_go = policy_losses.divergence_to_go(
    policy_losses.kl_estimate(new, ref, estimator="k1"), jnp.asarray(policy.MASK)
  )
  weights = policy.probabilities(THETA)
  found = policy.gradient(lambda theta: weights @ jnp.sum(policy.logprobs(theta) * to_go, axis=1))
  exact = policy.gradient(lambda theta: kl(theta, REF))
  assert_same(found, exact)
  # As a term of the loss, a token answers for its own divergence alone.
  assert np.abs(exact["tag"] - per_token_kl_gradient(forward=False)["tag"]).max() > 1e-3


def test_sampler_weights_undo_another_sampler():
  """Per sequence exactly, up to the cap; per token, the last token forgets those before it."""
  sampler = jax.tree.map(lambda x: 0.7 * x, THETA)
  drawn, mu = policy.probabilities(sampler), policy.logprobs(sampler)

  def corrected(level, cap):
    own = policy.logprobs(THETA)
    weights = policy_losses.sampler_weights(own, mu, jnp.asarray(policy.MASK), level=level, cap=cap)
    return policy.gradient(
      lambda theta: drawn @ jnp.sum(policy.logprobs(theta) * weights * SCORES[:, None], axis=1)
    )

  exact = policy.reward_gradient(SCORES)
  uncorrected = policy.gradient(
    lambda theta: drawn @ jnp.sum(policy.logprobs(theta) * SCORES[:, None], axis=1)
  )
  assert_same(corrected("sequence", 100.0), exact)

  def error(tree):
    return sum(float(jnp.abs(tree[name] - exact[name]).sum()) for name in exact)

  assert error(uncorrected) > error(corrected("token", 100.0)) > 1e-3
  assert error(corrected("sequence", 1.0)) > 1e-3

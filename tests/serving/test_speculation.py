"""Speculative decoding: the tokens of a reply are those that it has without a draft."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.serving import Engine, EngineConfig, programs
from lhrm_jax.serving.speculation import _PAUSE, _TRIAL, Payoff
from tests.conftest import policy_logits
from tests.serving.test_engine import PROMPTS, finish, row, told

DRAWS = [(0.0, 1.0), (0.6, 1.0), (1.0, 1.0), (1.0, 0.8)]  # temperature and top-p


@pytest.fixture(scope="module")
def draft(config, params):
  """A policy that agrees with the other one now and then."""
  rng = iter(jax.random.split(jax.random.key(5), len(jax.tree.leaves(params))))
  return config, jax.tree.map(
    lambda x: x + 0.2 * jnp.std(x) * jax.random.normal(next(rng), x.shape), params
  )


def replies(engine, tokenizer, **settings):
  rows = [
    row(tokenizer, PROMPTS[i], 24, seed=i, temperature=t, top_p=p, **settings)
    for i, (t, p) in enumerate(DRAWS)
  ]
  return finish(engine, *rows)


def assert_same(replies, others):
  """Equal tokens, and log-probabilities equal but for rounding."""
  for one, other in zip(replies, others, strict=True):
    ids, logprobs = zip(*told(one), strict=True)
    its_ids, its_logprobs = zip(*told(other), strict=True)
    assert its_ids == ids
    np.testing.assert_allclose(its_logprobs, logprobs, atol=2e-5)


def test_replies_are_those_without_a_draft(make, draft, config, params, endless):
  """Greedy and drawn, with top-p, beside each other, and after one of them had to leave."""
  plain = replies(make(), endless)
  engine = make(draft="small", drafted_by=draft, draft_tokens=3)
  engine.warm_up()
  compiled = [programs.propose, programs.verify, programs.write_pages, programs.read_pages]
  before = [program._cache_size() for program in compiled]
  engine.payoff.seconds = {}  # whatever this machine's times, it is to speculate
  speculated = replies(engine, endless)
  assert [program._cache_size() for program in compiled] == before
  assert 0 < engine.payoff.accepted < engine.payoff.proposed and engine.preemptions
  assert engine.steps < 100 and engine.pages.held == 0
  assert_same(plain, speculated)


def test_all_proposals_of_the_policy_itself_count(make, config, params, endless):
  """While rows leave and return, while a budget ends their thoughts, and after steps without it."""
  twin = jax.tree.map(lambda x: x, params)  # the same function with another cache
  for name in ("layer_0", "layer_1"):
    for scales in (twin[name]["attention"]["q_norm"], twin[name]["attention"]["k_norm"]):
      scales["scale"] = -scales["scale"]
  engine = make(draft="small", drafted_by=(config, twin), draft_tokens=3)
  engine.payoff.wanted = lambda count: True
  assert_same(replies(make(), endless, budget=4), replies(engine, endless, budget=4))
  assert engine.preemptions and engine.payoff.accepted == engine.payoff.proposed > 60
  engine.payoff.wanted = lambda count: engine.steps % 2
  before = engine.payoff.proposed
  assert_same(replies(make(), endless), replies(engine, endless))
  assert engine.payoff.accepted == engine.payoff.proposed > before, "only rows seen in full count"


@pytest.mark.slow
def test_tokens_are_drawn_from_the_policys_distribution(make, draft, config, params, endless):
  """The second and third token of many replies, against exact probabilities."""
  prompt, many = PROMPTS[0], 1000
  knobs = {"slots": 60, "waiting": 3 * many, "kv_mib": 0.0, "context": 32, "draft_tokens": 3}
  engine = make(**knobs, draft="small", drafted_by=draft)
  made = [
    [row(endless, prompt, 3, seed=i, temperature=t, top_p=p) for i in range(many)]
    for t, p in DRAWS[1:]
  ]
  finish(engine, *itertools.chain(*made))
  assert engine.payoff.accepted > many
  first, size = made[0][0].reply.tokens[0], config.vocab_size
  after = [[*prompt, first, token] for token in range(size)]
  for rows, (temperature, top_p) in zip(made, DRAWS[1:], strict=True):
    second = _kept(config, params, [[*prompt, first]], temperature, top_p)[0]
    third = second @ _kept(config, params, after, temperature, top_p)
    for place, expected in ((1, second), (2, third)):
      seen = np.bincount([r.reply.tokens[place] for r in rows], minlength=size)
      assert not seen[expected == 0].any()
      likely = expected * many > 5
      statistic = ((seen - many * expected)[likely] ** 2 / (many * expected[likely])).sum()
      assert statistic < likely.sum() + 5 * np.sqrt(2 * likely.sum())


def _kept(config, params, texts, temperature, top_p):
  """Probabilities `[N, V]` of the token after each text, in float64 from a sort."""
  logits = policy_logits(config, params, np.array(texts, np.int32))[:, -1] / temperature
  probs = np.exp(np.float64(logits) - logits.max(-1, keepdims=True))
  probs /= probs.sum(-1, keepdims=True)
  order = np.argsort(-probs, axis=-1, kind="stable")
  before = np.cumsum(np.take_along_axis(probs, order, -1), -1) - np.take_along_axis(
    probs, order, -1
  )
  kept = np.zeros_like(probs)
  np.put_along_axis(kept, order, np.take_along_axis(probs, order, -1) * (before < top_p), -1)
  return kept / kept.sum(-1, keepdims=True)


@pytest.mark.slow
def test_the_policy_in_int8_proposes_what_it_draws_itself(make, endless):
  engine = make(draft="int8", draft_tokens=3)
  assert_same(replies(make(), endless), replies(engine, endless))
  assert engine.payoff.accepted > 0.8 * engine.payoff.proposed


def test_speculation_that_does_not_pay_is_left_and_tried_again():
  payoff = Payoff({4: (1.0, 2.0), 8: (4.0, 2.0)})
  for _ in range(_TRIAL):
    assert payoff.wanted(4)
    payoff.speculated(4, 2.0, proposed=6, accepted=1, rows=2)
  assert payoff.speedup(4) == pytest.approx(1.5 / 2) and not payoff.wanted(4)
  assert payoff.speedup(8) == pytest.approx(3) and payoff.wanted(8), "long steps gain more"
  for _ in range(_PAUSE + 1):
    assert not payoff.wanted(4)
    payoff.plain(4, 1.0)
  for _ in range(_TRIAL):
    assert payoff.wanted(4)
    payoff.speculated(4, 2.0, proposed=6, accepted=6, rows=2)
  assert payoff.speedup(4) > 1 and payoff.wanted(4)
  assert (payoff.proposed, payoff.accepted) == (2 * 32 * 6, 32 * 7)


def test_times_of_steps_follow_the_machine_but_not_its_hiccups():
  payoff = Payoff({4: (1.0, 2.0)})
  payoff.plain(4, 1000.0)
  assert payoff.seconds[4][0] == pytest.approx(1 + 1 / 32)
  for _ in range(300):
    payoff.speculated(4, 1.0, proposed=3, accepted=3, rows=1)
  assert payoff.seconds[4][1] == pytest.approx(1.0, abs=0.01)


def test_a_draft_of_other_tokens_is_refused(config, params, tokenizer):
  other = dataclasses.replace(config, vocab_size=config.vocab_size + 1)
  with pytest.raises(ValueError, match="a draft needs the policy's tokens"):
    Engine(config, params, tokenizer, EngineConfig(draft="x"), draft=(other, params))
  short = dataclasses.replace(config, max_positions=32)
  with pytest.raises(ValueError, match="context=64 exceeds the 32 positions of the policy and its"):
    Engine(config, params, tokenizer, EngineConfig(draft="x"), draft=(short, params))

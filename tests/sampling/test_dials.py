"""Dials: what each one changes of a batch, and that it changes nothing else."""

import jax
import numpy as np
import pytest

from lhrm_jax.sampling import Dials, DialsConfig, sample
from lhrm_jax.sampling.dials import closing_ids
from lhrm_jax.training.rollout_logprobs import make_score
from tests.conftest import make_spec, policy_logits

FIELDS = ("responses", "logprobs", "lengths", "finish_reason")


@pytest.fixture(scope="module")
def closing(tokenizer):
  return closing_ids(tokenizer, " so ")


@pytest.fixture(scope="module")
def run(config, params, tokenizer, prompts, closing):
  """Rollouts `[6, 1, 2]`: the first of each prompt is forced to think, the second one is free.

  Dials not given are set to what stands for off, so that two programs serve all tests.
  """

  def run(temperature=1.0, own=params, **dials):
    spec = make_spec(tokenizer, samples=2, paired=False, forced=1, temperature=temperature)
    if dials:
      dials = {"tag_bias": 0.0, "threshold": np.nan, "budget": 0, "closing": closing, **dials}
    chosen = Dials(**dials) if dials else None
    return jax.device_get(sample(config, spec, own, prompts, jax.random.key(7), dials=chosen))

  return run


@pytest.fixture(scope="module")
def last(config, params, tokenizer, prompts):
  """`[6, V]` logits of the first token, of the policy itself."""
  segments = (np.arange(prompts.tokens.shape[1]) < prompts.lengths[:, None]).astype(np.int32)
  logits = np.asarray(policy_logits(config, params, prompts.tokens, segments))
  return logits[np.arange(6), np.asarray(prompts.lengths) - 1]


@pytest.fixture(scope="module")
def log_odds(tokenizer, last):
  """`[6]`, of `<think>` against `<no_think>`."""
  think, no_think = tokenizer.tag_ids.opening
  return last[:, think] - last[:, no_think]


def assert_same(a, b, where=...):
  for name in FIELDS:
    np.testing.assert_array_equal(getattr(a, name)[where], getattr(b, name)[where])


def test_dials_turned_off_leave_every_bit(run, tokenizer):
  assert Dials.of(DialsConfig(), tokenizer) is None
  for temperature in (0.0, 1.0):
    assert_same(run(temperature=temperature, budget=0), run(temperature=temperature))


def test_a_bias_adds_to_the_logit_of_think(run, tokenizer, last, log_odds):
  think, _ = tokenizer.tag_ids.opening
  to_the_top = last.max(axis=1) - last[:, think]
  seen = set()
  for bias in (*(to_the_top + 1e-3), *(to_the_top - 1e-3)):
    first = run(temperature=0.0, tag_bias=bias).responses[:, 0, 1, 0]
    expected = last + bias * (np.arange(last.shape[1]) == think)
    np.testing.assert_array_equal(first, expected.argmax(axis=1))
    seen |= {int((first == think).sum())}
  assert {0, 6} <= seen


def test_a_threshold_decides_by_the_policys_own_probability(run, tokenizer, log_odds):
  """Whatever is drawn, at any temperature and bias; 0 always thinks and 1 never does."""
  think, no_think = tokenizer.tag_ids.opening
  threshold = 1 / (1 + np.exp(-np.median(log_odds)))
  for temperature, bias in ((0.0, 0.0), (1.0, 9.0)):
    first = run(temperature=temperature, threshold=threshold, tag_bias=bias).responses[:, 0, 1, 0]
    expected = np.where(log_odds >= np.median(log_odds), think, no_think)
    np.testing.assert_array_equal(first, expected)
  assert (run(threshold=0.0).responses[:, 0, 1, 0] == think).all()
  never = run(threshold=1.0).responses[:, 0, :, 0]
  np.testing.assert_array_equal(never, [[think, no_think]] * 6)  # a forced tag stays


def test_each_row_has_its_own_dials(run, tokenizer):
  """Every other prompt is turned; the rest keeps every bit."""
  always = run(threshold=np.array([0.0, np.nan] * 3)[:, None, None])
  assert (always.responses[::2, 0, 1, 0] == tokenizer.tag_ids.opening[0]).all()
  assert_same(always, run(), np.s_[1::2])


def test_a_budget_closes_each_thought_and_lets_it_answer(run, config, params, tokenizer, closing):
  """Tokens before the cut are those of the whole thought; log-probabilities are the policy's."""
  budget = 2
  cut, whole = run(budget=budget), run()
  thinks = whole.responses[..., 0] == tokenizer.tag_ids.opening[0]
  assert not thinks.all()
  seen = 0
  for b, g in np.ndindex(6, 2):
    row, plain = cut.responses[b, 0, g], whole.responses[b, 0, g]
    closed = closing[-1] in plain[1 : budget + 2] or whole.lengths[b, 0, g] <= budget + 1
    if closed or not thinks[b, 0, g]:
      assert_same(cut, whole, (b, 0, g))
      continue
    np.testing.assert_array_equal(row[: budget + 1], plain[: budget + 1])
    after = budget + 1 + len(closing)
    assert tuple(row[budget + 1 : after]) == closing
    assert cut.lengths[b, 0, g] > after  # it answers
    seen += 1
  assert seen >= 3
  scored = make_score(config, tokenizer.tag_ids.opening, 1.0)(params, cut)
  np.testing.assert_allclose(scored.logprobs[cut.mask], cut.logprobs[cut.mask], atol=1e-5)


def test_a_thought_that_ends_with_its_budget_is_left_alone(run, params, tokenizer, closing):
  """Budgets row by row: the thought's own length changes nothing, one less cuts it."""
  eager = {**params, "embedding": params["embedding"].at[closing[-1]].mul(3.0)}
  whole = run(own=eager)
  closes = whole.responses == closing[-1]
  thoughts = np.where(closes.any(-1), closes.argmax(-1) - 1, 0)  # [6, 1, 2] tokens
  thoughts[whole.responses[..., 0] != tokenizer.tag_ids.opening[0]] = 0
  assert (thoughts > 1).sum() >= 2
  assert_same(run(own=eager, budget=thoughts), whole)
  cut = run(own=eager, budget=np.maximum(thoughts - 1, 0))
  for at in zip(*np.nonzero(thoughts > 1), strict=True):
    assert tuple(cut.responses[at][thoughts[at] : thoughts[at] + len(closing)]) == closing


def test_the_text_that_closes_a_thought_is_checked(tokenizer):
  assert closing_ids(tokenizer, "") == (tokenizer.tag_ids.closing[0],)
  with pytest.raises(ValueError, match="holds </think>"):
    closing_ids(tokenizer, "so</think>")
  with pytest.raises(ValueError, match="closing"):
    Dials(budget=3).by_row((1, 1, 1))

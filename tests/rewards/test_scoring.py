"""Scoring as futures: the same scores, hidden behind sampling, and clear when a reward fails."""

import dataclasses
import functools
import re
import sys
import time

import jax
import numpy as np
import pytest

from lhrm_jax import rewards
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.errors import UserError
from lhrm_jax.rewards import RewardError, sandbox, scoring
from lhrm_jax.runs import defaults, setup
from lhrm_jax.sampling import LENGTH, STOPPED, Prompts, Rollouts, concatenate, sample
from tests.conftest import make_spec

TEXTS = ("<think>a</think>7", "<think>a</think>8", "<no_think>7</no_think>", "<no_think>7")


def stub(rows, finish=STOPPED):
  """Rollouts of `rows` in which only lengths and finish reasons mean anything, and their texts."""
  shape = (len(rows), 2, 2)
  rollouts = Rollouts(
    prompts=None, responses=np.zeros((*shape, 1), np.int32), lengths=np.ones(shape, np.int32),
    logprobs=None, finish_reason=np.full(shape, finish), policy_version=np.int32(0),
  )  # fmt: skip
  return rows, rollouts, list(TEXTS) * len(rows)


def rows_with(*answers):
  return [PromptRow(f"prompt {i}", answer) for i, answer in enumerate(answers)]


@pytest.mark.parametrize("chunks", [2, 3])
def test_chunks_change_neither_rollouts_nor_scores(
  config, params, tokenizer, rows, prompts, rollouts, chunks
):
  reward = rewards.compose(
    {"exact_match": 1.0, "chars": 0.1}, chars=lambda p, r, a: float(len(r + p))
  )

  def closed_texts(part):  # a random policy closes no response
    texts = scoring.decode(tokenizer, part)
    return [f"<think>{re.sub('<.*?>', '', text)}</think>{text[-1:]}" for text in texts]

  whole = jax.device_get(rollouts)
  expected = scoring.score(reward, rows, whole, closed_texts(whole))
  assert len(np.unique(expected)) > 1
  parts, futures = [], []
  with scoring.Scorer(reward) as scorer:
    for chunk in prompts.split(chunks):
      parts.append(sample(config, make_spec(tokenizer), params, chunk, jax.random.key(7)))
      part, size = jax.device_get(parts[-1]), 6 // chunks
      of_chunk = rows[len(futures) * size :][:size]
      futures.append(scorer.start(of_chunk, part, closed_texts(part)))
    scored = scorer.wait(futures)
  joined = concatenate(parts)
  for name in ("responses", "lengths", "finish_reason"):
    np.testing.assert_array_equal(getattr(joined, name), getattr(rollouts, name))
  np.testing.assert_array_equal(joined.prompts.ids, prompts.ids)
  np.testing.assert_array_equal(scored.scores, expected)


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_math_goes_through_the_pool_and_counts_the_undecided(chunks):
  rows = rows_with("7", "8", "7", "9")
  unsure = "<think>a</think>Some say 7 and others think that it should be 8."
  with scoring.Scorer(rewards.get("math"), workers=1) as scorer:
    size = 4 // chunks
    futures = []
    for at in range(0, 4, size):
      of_chunk, rollouts, texts = stub(rows[at : at + size])
      texts = [unsure if text == TEXTS[1] else text for text in texts]
      futures.append(scorer.start(of_chunk, rollouts, texts))
    scored = scorer.wait(futures)
  np.testing.assert_array_equal(scored.scores[0].ravel(), [1, 0, 1, 0])
  np.testing.assert_array_equal(scored.scores[1].ravel(), [0, 0, 0, 0])
  metrics = scored.metrics()
  assert metrics["reward/undecided"] == 4
  assert metrics["rewards/math/mean"] == scored.scores.mean()


def test_a_slow_reward_is_hidden_behind_sampling():
  def slow(prompt, response, answer):
    time.sleep(0.1)
    return 1.0

  waited = 0.0
  with scoring.Scorer(slow) as scorer:
    futures = []
    for _ in range(2):
      time.sleep(0.5)  # the next chunk's sampling
      start = time.perf_counter()
      futures.append(scorer.start(*stub(rows_with("7"))))  # three of four texts are closed
      waited += time.perf_counter() - start
    time.sleep(0.2)
    start = time.perf_counter()
    scorer.wait(futures)
    waited += time.perf_counter() - start
    total = scorer.take_seconds()
    assert scorer.take_seconds() == 0.0
  assert total >= 0.6
  assert waited <= total - 0.4


def test_open_and_cut_off_responses_score_0_whatever_the_reward():
  one = lambda prompt, response, answer: 1.0  # noqa: E731
  assert scoring.score(one, *stub(rows_with("7"))).ravel().tolist() == [1, 1, 1, 0]
  assert not scoring.score(one, *stub(rows_with("7"), finish=LENGTH)).any()


MALFORMED = (
  r"<no_think><think>7</think>\boxed{7}</no_think>", r"<no_think>7</no_think> 7",
  r"<think>a</think>7</think>7", "<think>a</think>7<think>", "7", "<think>7",
)  # fmt: skip


@pytest.mark.parametrize("name", rewards.names())
def test_a_malformed_response_scores_0_under_every_reward(name):
  golds = {"code": '{"asserts": ["assert f(1) == 1"]}', "multiple_choice": "B"}
  answer = golds.get(name, "7")
  composed = rewards.compose({name: 1.0, "own": 1.0}, own=lambda p, r, a: 1.0)
  for fn in (rewards.get(name), composed, rewards.by_query(name, name)):
    assert [fn("", text, answer) for text in MALFORMED] == [0.0] * len(MALFORMED)


def test_no_reward_is_asked_about_a_tag_spelled_in_ordinary_tokens(tokenizer):
  """The texts are right, but the first tokens open the other mode or none."""
  rows, rollouts, texts = stub(rows_with("7"))
  first = np.array([*tokenizer.tag_ids.opening, 7, tokenizer.tag_ids.opening[1]])
  rollouts = dataclasses.replace(rollouts, responses=first.reshape(1, 2, 2, 1))
  texts = ["<think>a</think>7", "<think>a</think>7", "<think>a</think>7", "<no_think>7</no_think>"]
  one = lambda prompt, response, answer: 1.0  # noqa: E731
  scores = scoring.score(one, rows, rollouts, texts, tokenizer.tag_ids)
  assert scores.ravel().tolist() == [1, 0, 0, 1]


def test_components_are_logged_and_each_query_has_one_scorer():
  calls = []

  class Model:
    on_device = True

    def score_batch(self, prompts, responses, answers):
      calls.append(list(prompts))
      return [0.25] * len(responses)

  reward = rewards.compose(
    {"judge": 1.0, "format": 0.5}, judge=rewards.by_query("exact_match", Model())
  )
  with scoring.Scorer(reward) as scorer:
    scored = scorer.wait([scorer.start(*stub(rows_with("7", "")))])
  assert scored.scores[0].ravel().tolist() == [1.5, 0.5, 1.5, 0]
  assert scored.scores[1].ravel().tolist() == [0.75, 0.75, 0.75, 0]
  assert calls == [["prompt 1"] * 3]
  assert scored.metrics() == {
    "rewards/exact_match/mean": 0.5, "rewards/Model/mean": 0.1875, "rewards/format/mean": 0.75
  }  # fmt: skip


def failing(prompt, response, answer):
  if "8" in response:
    raise KeyError("no such thing")
  return 1.0


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize(
  ("bad", "reason"),
  [
    (lambda: {}["no such thing"], "raised"),
    (lambda: exit(3), "raised"),
    (lambda: "no number", "raised"),
    (lambda: None, "raised"),
    (lambda: float("nan"), "not_finite"),
    (lambda: 1e300, "not_finite"),
    (lambda: 10**400, "raised"),
    (lambda: rewards.Failed("too_long"), "too_long"),
  ],
)
def test_a_response_that_its_reward_fails_on_scores_0_and_is_counted(bad, reason, background):
  def reward(prompt, response, answer):
    return bad() if "8" in response else 1.0

  with scoring.Scorer(reward, background=background) as scorer:
    chunks = [scorer.start(*stub(rows_with("7"))) for _ in range(2)]
    scored = scorer.wait(chunks)
  np.testing.assert_array_equal(scored.scores.reshape(2, 4), [[1, 0, 1, 0]] * 2)
  assert scored.failed == {reason: 2}
  assert scored.metrics()[f"reward/failed/{reason}"] == 2


def test_a_sum_that_overflows_is_a_failed_judgement():
  reward = rewards.compose({"big": 1e30}, big=lambda p, r, a: 1e30 if "8" in r else 0.0)
  with scoring.Scorer(reward) as scorer:
    scored = scorer.wait([scorer.start(*stub(rows_with("7")))])
  assert not scored.scores.any() and scored.failed == {"not_finite": 1}


def test_one_response_of_a_batch_costs_only_itself():
  class Batched:
    def score_batch(self, prompts, responses, answers):
      if any("8" in response for response in responses):
        raise OverflowError("too large")
      return [1.0] * len(responses)

  with scoring.Scorer(Batched()) as scorer:
    scored = scorer.wait([scorer.start(*stub(rows_with("7")))])
  assert scored.scores.ravel().tolist() == [1, 0, 1, 0] and scored.failed == {"raised": 1}


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize(
  ("reward", "message"),
  [
    (
      lambda p, r, a: {}["no such thing"],
      r"raised KeyError: 'no such thing' \(.*\) on .*<no_think>7</no_think>.*prompt 0.* every",
    ),
    (lambda p, r, a: exit(3), "raised SystemExit"),
  ],
)
def test_a_reward_that_fails_on_every_response_ends_the_run(reward, message, background):
  with scoring.Scorer(reward, background=background) as scorer:
    future = scorer.start(*stub(rows_with("7")))
    with pytest.raises(RewardError, match=message):
      future.result(timeout=10)
    with pytest.raises(RewardError, match=message):
      scorer.wait([future])


@pytest.mark.parametrize(("share", "ends"), [(0.1, True), (0.4, False)])
def test_too_large_a_share_of_failures_ends_the_run(share, ends):
  rows = rows_with(*["7"] * 12)  # a third of the closed responses hold an 8
  with scoring.Scorer(failing, max_failed_share=share) as scorer:
    future = scorer.start(*stub(rows))
    if not ends:
      assert scorer.wait([future]).failed == {"raised": 12}
      return
    with pytest.raises(RewardError, match=r"12 of the last 36 .*raised: 12.*max_failed_share=0\.1"):
      scorer.wait([future])


def test_what_is_no_response_s_fault_ends_the_run_at_once():
  def unavailable(prompt, response, answer):
    raise sandbox.SandboxUnavailable("no namespaces here")

  for reward in (unavailable, type("Batched", (), {"score_batch": staticmethod(unavailable)})()):
    with pytest.raises(RewardError, match="SandboxUnavailable: no namespaces here"):
      scoring.score(reward, *stub(rows_with("7")))
  short = type("Short", (), {"score_batch": lambda self, p, r, a: [1.0]})()
  with pytest.raises(RewardError, match="gave 1 scores for a batch of 3"):
    scoring.score(short, *stub(rows_with("7")))


@pytest.mark.parametrize("texts", [TEXTS, ("", "", "", "")])
def test_a_row_whose_answer_cannot_be_judged_by_ends_the_run_whatever_the_responses(texts):
  rows, rollouts, _ = stub(rows_with("seven"))
  reward = rewards.compose({"numeric": 1.0})
  with pytest.raises(RewardError, match=r"'numeric'.*needs a number.*'seven'.*'prompt 0'"):
    scoring.score(reward, rows, rollouts, texts)


needs_sandbox = pytest.mark.skipif(
  sandbox.why_unavailable() is not None, reason=str(sandbox.why_unavailable())
)


@needs_sandbox
def test_programs_run_beside_each_other_until_a_deadline():
  program = "<think>a</think>```python\n{}\ndef f(): return 7\n```\n"
  texts = [program.format("import time; time.sleep(60)")] * 3 + [program.format("")]
  answer = '{"calls": [{"function": "f", "args": [], "expected": 7}]}'
  rows, rollouts, _ = stub(rows_with(answer))
  start = time.perf_counter()
  with scoring.Scorer(rewards.get("code"), workers=2, deadline_s=4) as scorer:
    scored = scorer.wait([scorer.start(rows, rollouts, texts)])
  assert time.perf_counter() - start < 8
  assert scored.scores.ravel().tolist() == [0, 0, 0, 1]
  assert scored.failed == {"deadline": 3}


@pytest.mark.parametrize("background", [True, False])
def test_text_that_has_to_be_parsed_is_judged_by_worker_processes_alone(background, monkeypatch):
  def here(*_):
    raise AssertionError("judged in this process")

  monkeypatch.setattr("lhrm_jax.rewards.math.verify", here)
  monkeypatch.setattr("lhrm_jax.rewards.math.choice.picked", here)
  with scoring.Scorer(rewards.get("math"), workers=1, background=background) as scorer:
    first = scorer.wait([scorer.start(*stub(rows_with("7")))])
    pool = scorer._pool
    assert scorer.wait([scorer.start(*stub(rows_with("8")))]).scores.sum() == 1
    assert scorer._pool is pool  # started once
  assert first.scores.ravel().tolist() == [1, 0, 1, 0] and not first.failed
  rows, rollouts, _ = stub(rows_with("B"))
  texts = [f"<think>a</think>{letter}" for letter in "ABCD"]
  with scoring.Scorer(rewards.get("multiple_choice"), workers=1, background=background) as scorer:
    scored = scorer.wait([scorer.start(rows, rollouts, texts)])
  assert scored.scores.ravel().tolist() == [0, 1, 0, 0]


def test_a_worker_that_hangs_is_a_failed_judgement(monkeypatch, tmp_path):
  worker = tmp_path / "worker.py"
  worker.write_text(
    "import sys, time\nprint('{}', flush=True)\nfor line in sys.stdin:\n"
    "  time.sleep(60 * ('8' in line))\n"
    """  print('{"correct": true, "extracted": "", "reason": ""}', flush=True)\n"""
  )
  make = functools.partial(scoring.VerifierPool, limit_s=0.5, command=[sys.executable, str(worker)])
  monkeypatch.setattr(scoring, "VerifierPool", make)
  with scoring.Scorer(rewards.get("math"), workers=1) as scorer:
    scored = scorer.wait([scorer.start(*stub(rows_with("7")))])
  assert scored.scores.ravel().tolist() == [1, 0, 1, 0]
  assert scored.failed == {"timeout": 1} and scored.undecided == 0


@pytest.mark.parametrize("name", ["exact_match", "numeric"])
def test_no_process_is_started_for_rewards_that_need_none(name, monkeypatch):
  monkeypatch.setattr(scoring, "VerifierPool", None)
  assert scoring.score(rewards.get(name), *stub(rows_with("7"))).sum() == 2


def test_closing_leaves_a_reward_that_hangs_behind():
  with scoring.Scorer(lambda p, r, a: time.sleep(60)) as scorer:
    scorer.start(*stub(rows_with("7")))
    start = time.perf_counter()
  assert time.perf_counter() - start < 1


@pytest.mark.parametrize("chunks", [0, 3])
def test_prompts_that_do_not_divide_into_chunks_are_refused(chunks):
  config = defaults.get_config()
  config.compilation_cache = ""
  config.policy.max_positions = 2048
  config.hgpo.prompts_per_step, config.hgpo.sampling_chunks = 32, chunks
  with pytest.raises(UserError, match=f"sampling_chunks={chunks}"):
    setup.make(config)
  with pytest.raises(ValueError, match="do not divide"):
    Prompts(np.zeros((32, 3)), np.ones(32), np.arange(32)).split(chunks)

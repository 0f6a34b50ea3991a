"""An evaluation of a policy whose replies are known, kept sample by sample."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from lhrm_jax.evaluation import EvaluationConfig, evaluate, samples
from lhrm_jax.text.responses import without_tags
from tests.evaluation import fake_policy

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def calls(monkeypatch):
  """Batches that were sampled: passes by (prompts, paired, seed)."""
  found = []

  def sample(config, spec, params, prompts, key, dials=None):
    found.append(spec.paired)
    return fake_policy.sample(config, spec, params, prompts, key)

  monkeypatch.setattr(evaluate, "sample", sample)
  return found


@pytest.fixture
def summary(calls):
  evaluator = fake_policy.evaluator()
  return evaluator.summary(evaluator.measure({}, first_tokens=fake_policy.FIRST))


def test_hybrid_accuracy_of_known_best_modes(summary):
  """Better are think, no_think, and no_think for its shortness twice; chosen as in `FREE`."""
  hacc = summary["hacc"]
  assert hacc["score"] == 0.5 and hacc["tie_frac"] == 0.5 and hacc["decided_score"] == 0.5
  assert hacc["always_think"] == 0.25 and hacc["always_no_think"] == 0.75
  assert hacc["random"] == pytest.approx(0.5 * 0.25 + 0.25 * 0.75)
  assert hacc["invalid_frac"] == 0.25 and hacc["ceiling"] == 1
  assert hacc["expected_score"] == pytest.approx((0.9 + 0.4 + 0.7 + 0.3) / 4)
  # The second prompt loses 1, the others nothing; thinking there costs its longer reply.
  assert hacc["regret_accuracy"] == 0.25
  think, no_think = (len(fake_policy.TOKENIZER.encode_response(fake_policy.text_of(1, m, 0, 0)))
                     for m in (0, 1))  # fmt: skip
  assert hacc["regret_tokens"] == pytest.approx((think - no_think) / 3)


def test_passes_of_known_replies(summary):
  """Thinking solves the first prompt in 3 of 4 replies and the third in all."""
  think, no_think, auto = summary["think"], summary["no_think"], summary["auto"]
  assert think["avg"]["mean"] == think["accuracy"] == (0.75 + 1) / 4
  assert think["avg"]["k"] == 4
  assert think["avg"]["standard_error"] == pytest.approx(math.sqrt(0.796875 / 3 / 4))
  assert think["avg"]["sampling_error"] == pytest.approx(math.sqrt(0.25 / 4) / 4)
  assert think["pass"] == {"1": 0.4375, "2": 0.5, "4": 0.5}
  assert think["maj"] == 0.5 and no_think["maj"] == 0.5
  assert auto["accuracy"] == 0.375 and auto["think_rate"] == 0.5 and auto["malformed_rate"] == 0.25
  assert auto["by_level"]["1"]["accuracy"] == 0.25 and auto["by_level"]["2"]["prompts"] == 2
  assert auto["by_mode"]["think"]["accuracy"] == 0.25 and auto["by_mode"]["think"]["replies"] == 4
  assert no_think["percentiles"]["50"] == no_think["mean_tokens"]
  differences = summary["differences"]["think-no_think"]["accuracy"]
  assert differences["mean"] == pytest.approx(0.4375 - 0.5)
  assert differences["interval"][0] < 0 < differences["interval"][1]
  assert summary["first_token"]["greedy"] == {"think": 0.5, "no_think": 0.25, "neither": 0.25}
  assert list(summary["suites"]) == ["sums"]
  assert summary["suites"]["sums"]["hacc"] == summary["hacc"]


def test_settings_of_each_mode_are_recorded(calls):
  settings = EvaluationConfig(temperature=0.6, hacc_temperature=0.6, top_p=0.95, top_k=20)
  no_think = type(settings.no_think)(temperature=0.7, top_p=0.8)
  evaluator = fake_policy.evaluator(type(settings)(**{**vars(settings), "no_think": no_think}))
  found = evaluator.sampling_settings()["forced"]
  assert found["think"] == found["neither"] == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
  assert found["no_think"] == {"temperature": 0.7, "top_p": 0.8, "top_k": 20}


def test_forced_replies_with_another_temperature_are_sampled_apart(calls, tmp_path):
  evaluator = fake_policy.evaluator(EvaluationConfig(samples=2, temperature=0.0))
  log = samples.open_log(tmp_path, resume=False)
  measured = evaluator.measure({}, log, fake_policy.FIRST)
  assert measured.forced.scores.shape == (4, 2, 1) and measured.judged.scores.shape == (4, 2, 2)
  kept = list(samples.read_samples(tmp_path))
  dials = [s.dial for s in kept if s.pass_name == "think"]
  assert dials.count({}) == 8 and dials.count({"temperature": 0.0}) == 4


def known(folder):
  return {s.key: (s.text, s.score, s.tokens, s.ids) for s in samples.read_samples(folder)}


def test_a_killed_evaluation_resumes_without_repeating_or_losing_a_sample(calls, tmp_path):
  """Two batches of each pass and seed: 4 free, then 4 paired; the process dies in the seventh."""
  whole = fake_policy.evaluator().measure(
    {}, samples.open_log(tmp_path / "whole", resume=False), fake_policy.FIRST
  )
  assert calls == [False] * 4 + [True] * 4
  program = [sys.executable, "-m", "tests.evaluation.fake_policy", str(tmp_path / "killed"), "7"]
  killed = subprocess.run(
    program, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=False
  )
  assert killed.returncode == -signal.SIGKILL
  path = tmp_path / "killed" / "samples.jsonl"
  before = path.read_bytes()
  assert 0 < before.count(b"\n") < len(known(tmp_path / "whole"))
  path.write_bytes(before + before[:50])  # a line that was being written

  calls.clear()
  log = samples.open_log(tmp_path / "killed", resume=True)
  resumed = fake_policy.evaluator().measure({}, log, fake_policy.FIRST)
  assert path.read_bytes().startswith(before) and len(calls) < 4
  assert known(tmp_path / "killed") == known(tmp_path / "whole")
  assert path.read_bytes().count(b"\n") == len(known(tmp_path / "whole"))
  for name in ("scores", "lengths", "modes", "well_formed", "texts"):
    for of in ("auto", "forced", "judged"):
      assert (getattr(getattr(resumed, of), name) == getattr(getattr(whole, of), name)).all()
  # A third evaluation samples nothing.
  calls.clear()
  log = samples.open_log(tmp_path / "killed", resume=True)
  fake_policy.evaluator().measure({}, log, fake_policy.FIRST)
  assert not calls


def test_a_sample_says_all_that_another_scorer_needs(calls, tmp_path):
  fake_policy.evaluator().measure({}, samples.open_log(tmp_path, resume=False), fake_policy.FIRST)
  lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
  assert len(lines) == 4 * (1 + 2 * 2) * 2
  by_key = {(x["prompt_id"], x["pass"], x["sample"], x["seed"]): x for x in lines}
  line, free = by_key[0, "think", 1, 1], by_key[3, "free", 0, 0]
  assert line["text"] == "<think>1+1</think>9" and line["score"] == 0 and line["mode"] == "think"
  assert line["ids"] == list(fake_policy.TOKENIZER.encode_response(line["text"]))
  assert line["tokens"] == len(line["ids"]) and line["finish"] == "stop" and line["well_formed"]
  assert free["mode"] == "" and not free["well_formed"] and free["dial"] == {}


def test_malformed_replies_are_scored_by_their_text_on_request(calls, monkeypatch):
  """The fourth prompt's free reply is its gold without tags; it stays malformed."""
  monkeypatch.setattr(fake_policy, "text_of", lambda place, *_: fake_policy.ROWS[place].answer)
  for score_malformed in (False, True):
    settings = EvaluationConfig(samples=1, score_malformed=score_malformed)
    evaluator = fake_policy.evaluator(settings)
    found = evaluator.summary(evaluator.measure({}, first_tokens=fake_policy.FIRST))["auto"]
    assert found["accuracy"] == found["maj"] == score_malformed and found["malformed_rate"] == 1


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("<think>a</think>b</think>c", "c"),
    ("<no_think>7", "7"),
    ("<no_think>7</no_think>", "7"),
    ("plain", "plain"),
  ],
)
def test_text_without_tags(text, said):
  assert without_tags(text) == said

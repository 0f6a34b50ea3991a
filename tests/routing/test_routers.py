"""Routers: what each one learns, and that a file holds all of it and executes nothing."""

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

from lhrm_jax import routing
from lhrm_jax.routing.features import terms, words
from lhrm_jax.text import tags

# Sums are better thought about, capitals are not; lengths alone hardly tell them apart.
SUMS = [f"How many are {n} + {n + 7} apples in total?" for n in range(3, 43)]
FACTS = [f"Name the capital of country number {n}, please." for n in range(3, 43)]


def examples(prompts=(*SUMS, *FACTS), better=(True,) * 40 + (False,) * 40):
  better = np.array(better)
  return routing.Examples(list(prompts), better, better.astype(float))


@pytest.mark.parametrize("name", ["logistic", "fasttext"])
def test_a_classifier_learns_words_that_length_does_not_tell(name):
  trained = routing.train(name, examples())
  new = ["How many are 91 + 2 pears in total?", "Name the capital of country number 91, please."]
  think, not_think = trained.probability(new)
  assert think > 0.9 and not_think < 0.1
  np.testing.assert_array_equal(trained.modes(new), [tags.THINK, tags.NO_THINK])


def test_fasttext_alone_says_the_same(tmp_path):
  """Against the library's own prediction, unknown words included."""
  fasttext = pytest.importorskip("fasttext")
  from lhrm_jax.routing import classifiers

  lines = [f"__label__{int(i < 40)} {' '.join(terms(p))}" for i, p in enumerate((*SUMS, *FACTS))]
  (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
  model = fasttext.train_supervised(str(tmp_path / "lines.txt"), **classifiers._FASTTEXT)
  router = routing.get("fasttext").fit(examples())
  prompts = [SUMS[3], FACTS[9], "How many are unheard of?", "Zebras", ""]
  for prompt, ours in zip(prompts, router.probability(prompts), strict=True):
    labels, theirs = model.predict(" ".join(terms(prompt)), k=2)
    assert abs(dict(zip(labels, theirs, strict=True))["__label__1"] - ours) < 1e-4


def test_length_learns_which_way_length_points():
  prompts = ["x" * n for n in range(1, 41)]
  for longer_is_better in (True, False):
    better = [(n > 20) == longer_is_better for n in range(1, 41)]
    p = routing.train("length", examples(prompts, better)).probability(["x", "x" * 40])
    assert (p[1] > 0.7 > 0.3 > p[0]) if longer_is_better else (p[0] > 0.7 > 0.3 > p[1])


@pytest.mark.parametrize("name", ["length", "logistic", "fasttext"])
def test_examples_of_one_kind_give_their_share_by_laplaces_rule(name):
  trained = routing.train(name, examples(better=(True,) * 80))
  np.testing.assert_allclose(trained.probability(["anything", "3 + 4"]), 81 / 82, rtol=1e-6)


def test_rules_need_no_training():
  prompts = ["Hello!", "What is 3+4*7?", "Prove that the sum of two primes, step by step.", "a-b c"]
  np.testing.assert_array_equal(routing.untrained("always").modes(prompts), tags.THINK)
  np.testing.assert_array_equal(routing.untrained("never").modes(prompts), tags.NO_THINK)
  hits = routing.untrained("keywords").probability(prompts)
  np.testing.assert_allclose(hits, [0, 2 / 3, 3 / 4, 1 / 2])
  assert routing.untrained("keywords").probability(["a well-known state-of-the-art"]) == 0
  with pytest.raises(ValueError, match="'logistic' must be trained"):
    routing.untrained("logistic")


def test_random_draws_by_the_prompt_alone():
  router = routing.untrained("random")
  p = router.probability(SUMS + FACTS)
  np.testing.assert_array_equal(p, [router.probability([prompt])[0] for prompt in SUMS + FACTS])
  assert len(set(p)) == 80 and 0.4 < p.mean() < 0.6
  assert 0 <= router.probability(["lone \ud800 surrogate"])[0] < 1


def test_words_are_cut_at_numbers_and_signs():
  assert words("Left to right: 3+14*7?\x00_é\ud800") == [
    "left", "to", "right", ":", "#1", "+", "#2", "*", "#1", "?", "_", "é"
  ]  # fmt: skip
  assert terms("a b a") == ["a", "b", "a", "a\u2581b", "b\u2581a"]


# ---- Thresholds


@pytest.mark.parametrize(
  "p, rate, threshold",
  [
    ([0.1, 0.2, 0.6, 0.8], 0.5, 0.4),
    ([0.1, 0.2, 0.6, 0.8], 0.25, 0.7),
    ([0.1, 0.2, 0.6, 0.8], 1.0, 0.0),
    ([0.1, 0.2, 0.6, 0.8], 0.0, 0.9),
    ([0.2, 0.2, 0.2, 0.8], 0.5, 0.5),  # equal ones are not told apart: a quarter is nearer than all
    ([0.2, 0.2, 0.2, 0.8], 0.9, 0.0),
    ([1 - 1e-9, 1 - 1e-12], 0.5, 1 - 0.5005e-9),
  ],
)
def test_a_threshold_is_reached_by_the_wanted_share(p, rate, threshold):
  found = routing.threshold_for(np.array(p), rate)
  assert found == pytest.approx(threshold, abs=1e-14)


def test_thresholds_hold_on_new_prompts_of_the_same_kind():
  rng = np.random.default_rng(0)
  thresholds = routing.Thresholds.of(rng.beta(0.3, 0.3, 4000))
  new = rng.beta(0.3, 0.3, 4000)
  for rate in (0.0, 0.07, 0.5, 1.0):
    assert abs((new >= thresholds.at(rate)).mean() - rate) < 0.02
  with pytest.raises(ValueError, match="share"):
    thresholds.at(1.2)
  with pytest.raises(ValueError, match="at least one"):
    routing.threshold_for(np.array([]), 0.5)


# ---- Files


@pytest.mark.parametrize("name", ["always", "random", "keywords", "length", "logistic", "fasttext"])
def test_a_file_holds_the_whole_router(name, tmp_path):
  trained = routing.train(name, examples()).at(0.25)
  routing.save(tmp_path / "router.json", trained)
  loaded = routing.load(tmp_path / "router.json")
  assert loaded == trained
  prompts = ["How many are 7 + 8 plums?", "Say hello."]
  np.testing.assert_array_equal(loaded.probability(prompts), trained.probability(prompts))
  assert loaded.at(0.5).threshold == trained.at(0.5).threshold


def test_a_router_of_ones_own_is_kept_like_the_others(tmp_path):
  @dataclasses.dataclass(frozen=True)
  class Shouting:
    weights: tuple[float, ...]

    @classmethod
    def fit(cls, examples):
      return cls((float(examples.gain.mean()),))

    def probability(self, prompts):
      return np.array([self.weights[0] * prompt.isupper() for prompt in prompts])

  routing.register("shouting", Shouting, replace=True)
  try:
    routing.save(tmp_path / "r.json", routing.train("shouting", examples()))
    assert routing.load(tmp_path / "r.json").probability(["HEY", "hey"]).tolist() == [0.5, 0.0]
  finally:
    del routing.REGISTRY.entries["shouting"]
  with pytest.raises(routing.BadRouter, match="'shouting' is not registered"):
    routing.load(tmp_path / "r.json")


def damage(**changes):
  whole = {
    "version": 1, "router": "length", "fields": {"weight": 1.0, "intercept": 0.0},
    "threshold": 0.5, "thresholds": None,
  }  # fmt: skip
  return json.dumps({**whole, **changes}).encode()


@pytest.mark.parametrize(
  "content, why",
  [
    (pickle.dumps({"router": "length"}), "no JSON"),
    (b"[" * 100_000, "no JSON"),
    (b"[1]", "no JSON object"),
    (damage(version=2), "version 1"),
    (damage(router="lenght"), "not registered"),
    (damage(router={"__reduce__": 1}), "not registered"),
    (damage(fields={"weight": 1.0}), "expected the fields intercept, weight"),
    (damage(fields={"weight": "os.system", "intercept": 0.0}), "no finite number"),
    (damage(fields={"weight": True, "intercept": 0.0}), "no finite number"),
    (damage(fields={"weight": math.nan, "intercept": 0.0}), "no finite number"),
    (damage(router="logistic", fields={"terms": [1], "measures": [], "intercept": 0}), "is no"),
    (damage(router="logistic", fields={"terms": {}, "measures": [1], "intercept": 0}), "damaged"),
    (
      damage(router="fasttext", fields={"terms": {"is": 1e308}, "end": 1e308, "intercept": 0}),
      "damaged",
    ),
    (damage(threshold=None), "no finite number"),
    (damage(thresholds={"values": [0.5], "prompts": 3}), "1 thresholds, not 101"),
  ],
)
def test_a_damaged_or_hostile_file_is_refused(content, why, tmp_path):
  (tmp_path / "router.json").write_bytes(content)
  with pytest.raises(routing.BadRouter, match=why):
    routing.load(tmp_path / "router.json")


def test_thresholds_of_a_policy_are_kept_to_the_last_digit(tmp_path):
  thresholds = routing.Thresholds.of(1 - 10.0 ** -np.arange(3, 15))
  routing.save_thresholds(tmp_path / "thresholds.json", thresholds)
  assert routing.load_thresholds(tmp_path / "thresholds.json") == thresholds
  (tmp_path / "thresholds.json").write_text('{"values": "x", "prompts": 1}')
  with pytest.raises(routing.BadRouter, match="damaged"):
    routing.load_thresholds(tmp_path / "thresholds.json")


def test_examples_must_be_equally_many():
  with pytest.raises(ValueError, match="equally many"):
    routing.Examples(["a"], np.array([True, False]), np.zeros(2))


def test_a_think_rate_of_0_never_thinks_however_sure_the_router():
  trained = routing.train("always", examples()).at(0.0)
  assert (trained.modes(examples().prompts) == tags.NO_THINK).all()

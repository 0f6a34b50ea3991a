"""Rewards by name, the rules built in, and their sums."""

import subprocess
import sys
import time

import pytest

from lhrm_jax import rewards
from lhrm_jax.rewards import shaping


def test_built_in_rewards_are_registered():
  assert {"math", "exact_match", "multiple_choice", "numeric", "code"} <= set(rewards.names())


@pytest.mark.parametrize("name", ["math", "exact_match", "numeric"])
@pytest.mark.parametrize(
  ("response", "score"),
  [
    ("<think>6*7</think>42", 1.0),
    ("<no_think>42</no_think>", 1.0),
    (r"<no_think>It is \boxed{42}</no_think>", 1.0),
    (r"<think>\boxed{41}</think>so \boxed{42}", 1.0),
    ("<think>6*7</think> 42\n", 1.0),
    ("<think>42</think>41", 0.0),
    ("<think>42", 0.0),
    ("<no_think>42", 0.0),
    ("42", 0.0),
    (r"<no_think>\boxed{42</no_think>", 0.0),
    (r"<no_think>42 \boxed{}</no_think>", 0.0),
    (r"<no_think>\boxed{8 \boxed{42}}</no_think>", 0.0),
    ("", 0.0),
  ],
)
def test_rules_judge_the_answer_part_of_a_closed_response(name, response, score):
  assert rewards.get(name)("6*7?", response, "42") == score


def test_exact_match_compares_text_and_math_compares_values():
  response = "<think>a</think>0.5"
  assert rewards.get("exact_match")("", response, "1/2") == 0.0
  assert rewards.get("math")("", response, "1/2") == 1.0


def test_numeric_takes_the_last_number():
  numeric = rewards.get("numeric")
  assert numeric("", "<think>a</think>1 of 3, so 1,234.5", "1234.5") == 1.0
  assert numeric("", "<think>a</think>7, 8", "7") == 0.0
  assert (
    numeric("", "<think>a</think>1,2,3", "123") == numeric("", "<think>a</think>4,2", "42") == 0
  )
  assert numeric("", r"<think>a</think>\boxed{\frac{1}{2}}", "2") == 0.0
  assert numeric("", r"<think>a</think>\boxed{\frac{1}{2}}", "0.5") == 1.0
  assert numeric("", "<think>a</think>no idea", "7") == 0.0
  with pytest.raises(ValueError, match="needs a number"):
    numeric("", "<think>a</think>7", "seven")


@pytest.mark.parametrize(
  ("answer", "score"),
  [("B", 1), ("(B)", 1), (r"\boxed{B}", 1), (r"\boxed{\text{(B)}}", 1), ("The answer is B.", 1),
   ("B. because", 1),
   ("The answer is B, because option A is wrong.", 1), ("It is option B, not option A.", 1),
   ("The correct answer is A. This is why it is not option B.", 0), ("I doubt the answer is B.", 0),
   ("A. B. C. D", 0), ("Option B is wrong.", 0),
   ("A", 0), ("A or B", 0), (r"\boxed{B, C}", 0), ("no idea", 0), (r"\boxed{B", 0)],
)  # fmt: skip
def test_multiple_choice_wants_one_letter(answer, score):
  assert rewards.get("multiple_choice")("", f"<think>A</think>{answer}", "B") == score
  with pytest.raises(ValueError, match="needs a letter"):
    rewards.get("multiple_choice")("", "<think>A</think>B", "42")


def test_composition_keeps_its_components():
  reward = rewards.compose({"math": 1.0, "half": 0.5}, half=lambda p, r, a: 0.5)
  components = reward.components("", "<think>a</think>7", "7")
  assert components == {"math": 1.0, "half": 0.5, "total": 1.25}
  assert reward("", "<think>a</think>7", "7") == 1.25
  with pytest.raises(KeyError, match="no reward named"):
    rewards.compose({"maths!": 1.0})
  with pytest.raises(ValueError, match="one weight"):
    rewards.compose({})


def test_format_and_length_can_be_added_and_say_what_they_do():
  wrong = "<think>a</think>8"
  score = lambda name, weight: rewards.compose({"math": 1.0, name: weight})("", wrong, "7")  # noqa: E731
  assert score("format", 0.1) == pytest.approx(0.1)
  assert score("length", 1.0) == pytest.approx(-len(wrong) / 1000)
  for term in (shaping.format_term, shaping.length_term):
    assert "collapse" in term.__doc__


def test_importing_the_package_is_light_and_exact_match_is_fast():
  code = (
    "import sys, time; start = time.process_time(); import lhrm_jax.rewards;"
    "print(time.process_time() - start);"
    "assert not {'sympy', 'mpmath', 'jax', 'numpy'} & set(sys.modules)"
  )
  runs = [
    float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    for _ in range(5)
  ]
  assert min(runs) < 0.1
  exact = rewards.get("exact_match")
  start = time.perf_counter()
  for _ in range(10_000):
    exact("", r"<no_think>\boxed{12}</no_think>", "12")
  assert time.perf_counter() - start < 0.5

"""Final answers as votes: equal numbers are one, and no text costs more than its length."""

import time

import pytest

from lhrm_jax.evaluation.summary import final_answer


@pytest.mark.parametrize(
  ("said", "vote"),
  [
    ("1,000", "1000"), ("1e3", "1000"), ("1000.0", "1000"), ("2/4", "1/2"), (".5", "1/2"),
    ("x + 1", "x+1"), ("1/0", "1/0"), ("1e9999999999", "1e9999999999"), ("", None),
  ],
)  # fmt: skip
def test_equal_numbers_are_one_vote(said, vote):
  began = time.process_time()
  assert final_answer(f"<no_think>So \\boxed{{{said}}}.</no_think>") == vote
  assert time.process_time() - began < 1

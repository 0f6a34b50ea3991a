"""What thinking must reach, against values worked out by hand."""

import pytest

from lhrm_jax.objectives import mode_choice


@pytest.mark.parametrize(
  "direct, samples, least",
  [
    # 1 - (1 - p)^2 = 1/2; 1 - (1 - p)^4 = 1/2; two of eight right with 1/2.
    (0.0, 2, 0.293), (0.0, 4, 0.159), (0.0, 8, 0.201),
    # .09 (1 - (1 - p)^2) + .42 p^2 = 1/2.
    (0.7, 2, 0.988), (0.7, 4, 0.825), (0.7, 8, 0.889),
  ],
)  # fmt: skip
def test_the_least_accuracy_that_is_chosen(direct, samples, least):
  found = mode_choice.least_think_accuracy(direct, delta=0.2, samples=samples)
  assert found == pytest.approx(least, abs=1e-3)


def test_thinking_may_never_be_chosen():
  """At G = 2 even perfect thinking wins only where a direct answer is wrong: 1 - .9^2 of groups."""
  assert mode_choice.least_think_accuracy(0.9, delta=0.2, samples=2) is None
  assert mode_choice.inter_balance(1.0, 0.9, delta=0.2, samples=2) == pytest.approx(2 * 0.19 - 1)
  assert mode_choice.least_think_accuracy(0.0, delta=1.0, samples=4) is None


def test_one_sample_by_hand():
  """Thinking wins where it is right and the direct answer wrong."""
  balance = mode_choice.inter_balance(0.8, 0.25, delta=0.2, samples=1)
  assert balance == pytest.approx(2 * 0.8 * 0.75 - 1)
  skipping = mode_choice.inter_balance(0.8, 0.25, delta=0.2, samples=1, skip_unsolved=True)
  assert skipping == pytest.approx(balance + 0.2 * 0.75)


def test_the_sentence_names_all():
  text = mode_choice.describe(delta=0.2, samples=4)
  assert "4 samples per mode, delta 0.2" in text
  assert "0.7: 0.825" in text and "0.5: " in text
  assert "0.9: never" in mode_choice.describe(delta=0.2, samples=2)

"""Signs of reasoning inside direct replies, worked out by hand."""

import numpy as np
import pytest

from lhrm_jax.evaluation.mode_leak import mode_leak

TEXTS = np.array([["<no_think>9</no_think>", "<no_think>Wait, 9</no_think>"],
                  ["<no_think>step 1, therefore 2</no_think>", "<no_think>footstep</no_think>"]],
                 object)  # fmt: skip
# Thinking replies of 20 and 10 tokens; direct ones of 4 and 6, of 3 and 11.
LENGTHS = np.array([[[18, 22], [4, 6]], [[10, 10], [3, 11]]])


def test_markers_and_lengths_of_direct_replies():
  found = mode_leak(TEXTS, LENGTHS)
  assert found.marker_rate == 0.5 and found.long_rate == 0.25
  assert found.length_ratio == pytest.approx((5 + 7) / (20 + 10))
  low, high = found.length_interval  # of resamples of two prompts
  assert (low, high) == (pytest.approx(5 / 20), pytest.approx(7 / 10))
  assert np.isnan(found.drift)


def test_drift_is_against_the_same_prompts_before_training():
  found = mode_leak(TEXTS, LENGTHS, np.array([[2.0], [4.0]]))
  assert found.drift == pytest.approx(12 / 6)
  assert found.drift_interval == (pytest.approx(7 / 4), pytest.approx(5 / 2))
  with pytest.raises(ValueError, match="3 prompts of the reference"):
    mode_leak(TEXTS, LENGTHS, np.ones((3, 1)))

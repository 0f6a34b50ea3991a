"""Instruments, against numbers worked out by hand."""

import time

import numpy as np

from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs.instruments import Instruments
from lhrm_jax.sampling import Prompts, Rollouts


def test_live_slots_are_tokens_over_slots_decoded():
  """Responses of 5 and 3 tokens, whose tags came from the prefill: 4 + 2 of 4 + 4 slots."""
  config = PolicyConfig(32, 16, 24, 1, 2, 2, max_positions=64)
  prompts = Prompts(np.ones((1, 4), np.int32), np.array([4]), np.array([0]))
  lengths = np.array([[[5], [3]]])
  rollouts = Rollouts(
    prompts, np.ones((1, 2, 1, 8), np.int32), lengths, np.zeros((1, 2, 1, 8)), 0 * lengths,
    np.int32(0), np.full_like(lengths, 4),
  )  # fmt: skip
  metrics = Instruments(config).take(rollouts, 1, time.perf_counter() - 1)
  assert metrics["perf/live_slots"] == 0.75

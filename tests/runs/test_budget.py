"""What a baseline's rollouts cost."""

from types import SimpleNamespace

import numpy as np

from lhrm_jax.planning.flops import sequence_flops
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs.budget import Budget

CONFIG = PolicyConfig(vocab_size=16)
LENGTHS = np.array([[[3, 5]], [[1, 1]]])
ROLLOUTS = SimpleNamespace(lengths=LENGTHS, prompts=SimpleNamespace(lengths=np.array([2, 2])))
SCORED = SimpleNamespace(lengths=LENGTHS, rollouts=ROLLOUTS)


def test_a_budget_counts_responses_their_tokens_and_flops():
  spent = Budget(CONFIG)
  spent.add(SCORED)
  once = spent.flops
  spent.add(SCORED)
  assert spent.metrics(2) == {
    "rollout/samples_total": 8, "rollout/tokens_total": 20, "perf/flops_total": 2 * once,
    "updates": 2,
  }  # fmt: skip
  # A prompt is computed once for all of its responses.
  apart = sequence_flops(CONFIG, [2 + n for n in LENGTHS.ravel()], LENGTHS.sum())
  assert 0 < once < apart


def test_a_resumed_budget_has_the_flops_of_its_last_metrics():
  logged = [{"perf/flops_total": 3.0}, {"perf/flops_total": 7.0}, {"mode/think_rate": 0.5}]
  assert Budget(CONFIG).resumed(logged).flops == 7.0
  assert Budget(CONFIG).resumed([]).flops == 0.0


def test_flops_of_a_sequence_are_those_of_a_pass_over_it():
  # Of one layer and one head of 2 channels: 2 FLOPs a weight and token, 4 a channel and pair seen.
  config = PolicyConfig(
    vocab_size=8, hidden_size=2, intermediate_size=4, num_layers=1, num_heads=1, num_kv_heads=1
  )
  blocks, head = 4 * 2 * config.head_dim + 3 * 2 * 4, 8 * 2
  pairs = 1 + 2 + 3
  expected = 2 * blocks * 3 + 4 * config.head_dim * pairs + 2 * head * 2
  assert sequence_flops(config, [3], 2) == expected

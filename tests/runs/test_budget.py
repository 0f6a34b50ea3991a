"""What a baseline's rollouts cost."""

from types import SimpleNamespace

import numpy as np

from lhrm_jax.runs.budget import Budget

SCORED = SimpleNamespace(lengths=np.array([[[3, 5]], [[1, 1]]]))


def test_a_budget_counts_responses_and_their_tokens():
  spent = Budget()
  spent.add(SCORED)
  spent.add(SCORED)
  assert spent.metrics(2) == {
    "rollout/samples_total": 8, "rollout/tokens_total": 20, "updates": 2
  }  # fmt: skip

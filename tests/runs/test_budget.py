"""What a run has spent, over the processes that worked on it."""

import math
from types import SimpleNamespace

import numpy as np

from lhrm_jax.runs.budget import Budget

SCORED = SimpleNamespace(lengths=np.array([[[3, 5]], [[1, 1]]]))


def test_a_budget_adds_up_and_a_resumed_run_counts_on():
  spent = Budget()
  spent.add(SCORED)
  spent.add(SCORED)
  logged = [{"step": 0, "mode/think_rate": 1.0}, {"step": 2, "loss": 1.0, **spent.metrics(2)}]
  assert (spent.samples, spent.tokens, logged[1]["updates"]) == (8, 20, 2)
  resumed = Budget(logged)
  resumed.add(SCORED)
  assert (resumed.samples, resumed.tokens) == (12, 30)


def test_what_an_older_run_spent_before_is_not_known():
  assert math.isnan(Budget([{"step": 2, "loss": 1.0}]).tokens)

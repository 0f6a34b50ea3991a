"""Which rows tell when the cold start may end."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from lhrm_jax.errors import UserError
from lhrm_jax.runs import defaults, early_stop, mode_choice


def until(no_think=0.9, levels=(1, 2)):
  return ConfigDict({"think": 0.0, "no_think": no_think, "no_think_levels": levels})


def test_rows_without_levels_all_tell_the_accuracy_of_no_think():
  assert early_stop.no_think_rows([0, 0, 0], until()).tolist() == [True] * 3
  assert early_stop.no_think_rows([0, 1, 3], until()).tolist() == [False, True, False]


def test_levels_that_select_no_row_end_the_run_only_where_it_waits_for_them():
  with pytest.raises(UserError, match=r"no_think_levels=\(1, 2\)\. Their levels are 3, 4"):
    early_stop.no_think_rows([3, 4], until())
  assert early_stop.no_think_rows([3, 4], until(no_think=0.0)).all()


def test_forced_accuracy_without_levels_is_that_of_all_rows():
  scores = np.array([[[1], [0]], [[1], [1]]])
  evaluator = SimpleNamespace(
    forced=lambda params: SimpleNamespace(scores=scores),
    rows=[SimpleNamespace(level=0), SimpleNamespace(level=0)],
  )
  assert early_stop.forced_accuracy(evaluator, None, until()) == {"think": 1.0, "no_think": 0.5}


def test_what_thinking_must_reach_is_said_of_paired_0_1_scores_alone():
  config = defaults.get_config()
  config.reward = "exact_match"
  config.hgpo.samples_per_mode = 2
  assert "0.7: 0.988" in mode_choice.note(config)
  config.hgpo.pairing = "free"
  assert mode_choice.note(config) is None
  config.hgpo.pairing, config.reward = "paired", "length"
  assert mode_choice.note(config) is None

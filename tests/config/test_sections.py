"""Sections of knobs: what is asked of their values, and what is made of them."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from lhrm_jax import config as c


@dataclasses.dataclass(frozen=True)
class Optimizer:
  rate: float = c.knob(0.1, c.real(0), "Rate.")


@dataclasses.dataclass(frozen=True)
class Stage(Optimizer):
  rate: float = c.with_default(Optimizer, "rate", 0.5)
  least: int = c.knob(1, c.whole(0), "Least.")
  most: int = c.knob(9, c.whole(0), "Most.")
  options: Mapping[str, Any] = c.knob({}, c.OPTIONS, "Options.")


@dataclasses.dataclass(frozen=True)
class Whole:
  name: str = c.knob("", c.NAMES, "Name.")
  stage: Stage = c.section(Stage)


@c.together(Stage, "least", "most")
def _in_order(s: Stage) -> str:
  return "" if s.least <= s.most else f"stage.least={s.least} is above stage.most={s.most}."


@c.idle(Stage, "most")
def _nothing_to_bound(s: Stage) -> str:
  return "" if s.least else "stage.least=0"


def problems(**values):
  every = {"name": "", "stage.rate": 0.5, "stage.least": 1, "stage.most": 9, "stage.options": {}}
  return c.section_problems(Whole, every | {k.replace("__", "."): x for k, x in values.items()})


def test_knobs_are_those_of_a_section_of_what_it_inherits_and_of_sections_below():
  found = {knob.key: knob.default for knob in c.knobs(Whole)}
  assert found == {
    "name": "", "stage.rate": 0.5, "stage.least": 1, "stage.most": 9, "stage.options": {}
  }  # fmt: skip
  assert Whole().stage.rate == 0.5 and Optimizer().rate == 0.1


def test_what_must_hold_between_knobs_is_asked_where_each_is_right_by_itself():
  assert problems() == []
  assert problems(stage__least=10) == ["stage.least=10 is above stage.most=9."]
  wrong = problems(stage__least="10", stage__rate=-1)
  assert [problem.split(" must")[0] for problem in wrong] == ["stage.rate=-1", "stage.least='10'"]
  both = problems(stage__least=10, stage__rate=-1)
  assert len(both) == 2 and both[1].startswith("stage.least=10 is above")


def test_a_knob_without_effect_is_told_where_nothing_else_is_wrong():
  (problem,) = problems(stage__least=0, stage__most=5)
  assert problem.startswith("stage.most=5 has no effect with stage.least=0. Set it back to 9")
  assert problems(stage__least=0) == [], "its default says nothing of what was meant"
  assert len(problems(stage__least=0, stage__most=5, stage__rate=-1)) == 1


def test_a_section_that_is_none_and_a_key_that_is_none_are_told():
  values = {"name": "", "stage": 3}
  assert c.section_problems(Whole, values) == ["stage=3 must be a section with keys."]
  assert problems(stage__lest=3) == [
    "stage.lest is not a key of the config. Did you mean stage.least?"
  ]


def test_a_section_is_built_from_what_config_files_hold():
  leaves = {knob.key for knob in c.knobs(Whole)}
  given = ConfigDict({"name": "x", "stage": {"least": 2, "options": {"a": 1}}})
  built = c.build(Whole, dict(c.flatten(given, leaves)))
  assert built == Whole("x", Stage(least=2, options={"a": 1}))
  assert type(built.stage.options) is dict
  assert hash(built.stage) == hash(Stage(least=2)), "a static argument of jax.jit"


def test_numbers_of_numpy_become_python_s_so_that_a_config_can_be_written_as_json():
  given = {
    "stage.rate": np.float32(0.5),
    "stage.least": np.int64(2),
    "stage.options": {"a": np.True_},
  }
  built = c.build(Whole, given)
  assert json.loads(json.dumps(dataclasses.asdict(built)))["stage"] == {
    "rate": 0.5, "least": 2, "most": 9, "options": {"a": True}
  }  # fmt: skip


@pytest.mark.parametrize("options", [{1: 0.5}, {"a": math.inf}, {"a": 10**400}, {"a": [1]}, 3])
def test_options_are_named_and_finite(options):
  (problem,) = problems(stage__options=options)
  assert "must be arguments with finite numbers, flags or texts" in problem


def test_values_are_replaced_by_key():
  changed = c.replaced(Whole(), {"stage.most": 3, "name": "y"})
  assert changed == Whole("y", Stage(most=3))
  with pytest.raises(ValueError, match=r"stage\.mst is not a key.* Did you mean stage\.most"):
    c.replaced(Whole(), {"stage.mst": 3})

"""The arms of a comparison: read from a config, and refused with everything that is wrong."""

import json

import pytest
from ml_collections import ConfigDict

from experiments.compare import JOBS
from experiments.configs import compare_arithmetic
from lhrm_jax.errors import UserError
from lhrm_jax.runs import compare


def config(arms=None, **values):
  found = compare_arithmetic.get_config()
  if arms is not None:
    found.arms = compare.arms(arms)
  found.update(values)
  return found.lock()


def refused(**values):
  with pytest.raises(UserError) as error:
    compare.of_config(config(**values), JOBS)
  return str(error.value)


def test_arms_are_the_base_with_other_keys_in_the_order_of_the_config():
  plan = compare.of_config(
    config({"mine": {}, "grpo": {"hgpo.advantage": "grpo", "hgpo.pairing": "free"}}), JOBS
  )
  assert [arm.name for arm in plan.arms] == ["mine", "grpo"]
  c = plan.config(plan.arms[1], 3, "elsewhere")
  assert (c.hgpo.advantage, c.hgpo.pairing, c.seed, c.init_from) == ("grpo", "free", 3, "elsewhere")
  assert c.hgpo.beta == plan.config(plan.arms[0], 3, "elsewhere").hgpo.beta
  assert plan.start(4).seed == 4 and plan.start(4).init_from == ""


def test_options_of_an_advantage_may_be_overridden():
  arms = {"l1": {"hgpo.advantage": "l1_max", "hgpo.advantage_options": {"target_length": 9}}}
  plan = compare.of_config(config(arms), JOBS)
  assert plan.config(plan.arms[0], 0, "x").hgpo.advantage_options == {"target_length": 9}


def test_every_arm_of_the_shipped_comparison_can_be_written_as_json():
  plan = compare.of_config(config(), JOBS)
  assert {"hgpo", "thinkless", "hft", "hft_rft", "hft_dpo"} <= {arm.name for arm in plan.arms}
  json.dumps([dict(arm.overrides) for arm in plan.arms])


def test_offline_arms_train_on_the_rollouts_of_their_start():
  plan = compare.of_config(config(), JOBS)
  arm = next(arm for arm in plan.arms if arm.job == "dpo")
  c = plan.config(arm, 3, "start", "rollouts-of-3")
  assert (c.rollouts.path, c.dpo.pairs_per_step) == ("rollouts-of-3", c.hgpo.prompts_per_step)
  sampling = plan.start(3, "start")
  assert (sampling.init_from, sampling.hgpo.pairing) == ("start", "paired")


def test_a_start_per_seed_may_be_named(tmp_path):
  (tmp_path / "run-3").mkdir()
  plan = compare.of_config(config(init_from=f"{tmp_path}/run-{{seed}}"), JOBS)
  assert plan.init_from(3) == str(tmp_path / "run-3")


def test_everything_that_is_wrong_is_said_at_once():
  said = refused(
    arms={
      "a/b": {},
      "mistyped": {"hgpo.delt": 1},
      "beyond": {"hgpo.delta": "much"},
      "unknown": {"job": "ppo"},
      "nothing": {"job": "hft", "hgpo.delta": 0.1},
      "elsewhere": {"seed": 1, "evaluation.prompts": 9},
    },
    seeds=(1, 1),
  )
  for part in (
    "7 of the comparison's values", "arms.'a/b'", "Did you mean hgpo.delta", "arms.beyond: ",
    "job='ppo' must be one of dpo, hft, hgpo, rft", "hgpo.delta has no effect",
    "evaluation.prompts, seed: all arms share these", "seeds=(1, 1) must be",
  ):  # fmt: skip
    assert part in said


def test_what_is_wrong_with_all_arms_is_said_once():
  found = config()
  with found.unlocked():
    found.hgpo.beta = -1.0
  with pytest.raises(UserError) as error:
    compare.of_config(found, JOBS)
  assert str(error.value).count("hgpo.beta") == 2  # the value, and how to set it


def test_a_setting_without_effect_in_one_arm_is_refused():
  assert "arms.grpo: hgpo.delta=0.4 has no effect" in refused(
    arms={"hgpo": {}, "grpo": {"hgpo.advantage": "grpo", "hgpo.delta": 0.4}}
  )


@pytest.mark.parametrize("arms", [{}, None])
def test_a_config_without_arms_is_refused(arms):
  found = config()
  with found.unlocked():
    found.arms = ConfigDict(arms or {})
  with pytest.raises(UserError, match="arms is empty"):
    compare.of_config(found, JOBS)

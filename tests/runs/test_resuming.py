"""What a resumed run may change of its config, and what then truly changes."""

import pathlib

import pytest

from experiments.configs import arithmetic
from lhrm_jax.errors import UserError
from lhrm_jax.runs import early_stop, resuming
from lhrm_jax.runs.checkpoints import CheckpointError, Saved
from lhrm_jax.runs.config import plain


@pytest.fixture
def config():
  config = arithmetic.get_config()
  config.hft.steps, config.hgpo.steps = 6, 4
  return config


def saved(stage, step, config, *, finished=True):
  record = {"finished": finished, "config": plain(config), "logs": {}, "seconds": 1.0}
  return Saved(pathlib.Path(f"/runs/a/checkpoints/{stage}/{step}"), step, record)


def changed(config, **values):
  """A config with other values, and which keys they are."""
  now = config.copy_and_resolve_references()
  now.update_from_flattened_dict({key.replace("__", "."): x for key, x in values.items()})
  now.allow_config_change = ",".join(key.replace("__", ".") for key in values)
  return now, resuming.allowed_changes(plain(config), now, "/runs/a")


def check(config, kept, **values):
  now, keys = changed(config, **values)
  resuming.check_effect(keys, kept, now)
  return now


def test_a_finished_stage_that_is_given_more_steps_trains_on(config):
  kept = {"hft": saved("hft", 6, config), "hgpo": None}
  assert resuming.over("hft", kept["hft"], config)
  now = check(config, kept, hft__steps=12)
  assert not resuming.over("hft", kept["hft"], now)
  # With steps to make, other values count again.
  check(config, kept, hft__steps=12, hft__learning_rate=0.1)


def test_a_stage_that_reached_its_accuracies_is_finished_until_others_are_set(config):
  config.hft.steps = 100
  early = {"hft": saved("hft", 40, config), "hgpo": None}
  assert resuming.over("hft", early["hft"], config)
  now = check(config, early, hft__until__think=0.999)
  assert not resuming.over("hft", early["hft"], now)
  with pytest.raises(UserError, match=r"hft\.steps would change nothing: hft ended at step 40\."):
    check(config, early, hft__steps=200)


@pytest.mark.parametrize(
  ("hgpo_step", "values", "message"),
  [
    (None, {"hft__steps": 5}, r"hft\.steps=5 is less than the 6 steps already made"),
    (None, {"hft__learning_rate": 1.0}, r"hft\.learning_rate would change nothing: hft ended"),
    (2, {"hft__steps": 12}, "hft ended at step 6, and hgpo has begun"),
    (2, {"hft__weight_decay": 0.5}, "and hgpo has begun"),
    (2, {"hgpo__steps": 1}, r"hgpo\.steps=1 is less than the 2 steps"),
    (4, {"hgpo__beta": 0.5}, r"hgpo\.beta would change nothing: hgpo ended at step 4"),
    (4, {"seed": 7}, "seed would change nothing: training is finished"),
  ],
)
def test_a_change_without_effect_is_refused(config, hgpo_step, values, message):
  kept = {"hft": saved("hft", 6, config), "hgpo": None}
  if hgpo_step:
    kept["hgpo"] = saved("hgpo", hgpo_step, config, finished=hgpo_step == 4)
  with pytest.raises(UserError, match=message):
    check(config, kept, **values)


@pytest.mark.parametrize(
  ("hgpo_step", "values"),
  [
    (2, {"hgpo__beta": 0.5}), (2, {"hgpo__steps": 3}), (4, {"hgpo__steps": 9}), (2, {"seed": 7}),
    (4, {"hgpo__steps": 9, "hgpo__beta": 0.5, "seed": 7}), (4, {"evaluation__prompts": 7}),
    (4, {"policy__dtype": "bfloat16"}), (None, {"hgpo__steps": 9}), (None, {"hgpo__beta": 0.5}),
    (4, {"hgpo__reward_workers": 3}), (4, {"mesh__data": 1}),
  ],
)  # fmt: skip
def test_a_change_with_effect_is_not(config, hgpo_step, values):
  kept = {"hft": saved("hft", 6, config), "hgpo": None}
  if hgpo_step:
    kept["hgpo"] = saved("hgpo", hgpo_step, config, finished=hgpo_step == 4)
  check(config, kept, **values)


def test_the_same_path_written_differently_is_no_change(config, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "model").mkdir()
  config.init_from = "model"
  now = config.copy_and_resolve_references()
  now.init_from = str(tmp_path / "model")
  assert not resuming.allowed_changes(plain(config), now, "/runs/a")
  (tmp_path / "model").rmdir()
  assert not resuming.allowed_changes(plain(now), config, "/runs/a")
  now.init_from = str(tmp_path / "other")
  with pytest.raises(UserError, match="init_from: 'model' -> "):
    resuming.allowed_changes(plain(config), now, "/runs/a")


def without(config, *keys):
  """The record of a run that is older than some keys of HGPO."""
  before = plain(config)
  for key in keys:
    del before["hgpo"][key]
  return before


def test_a_run_older_than_keys_that_change_nothing_by_default_is_resumed(config):
  before = without(config, "advantage_options", "reward_scale", "packed_length", "epochs")
  before["hgpo"] |= {"length_buckets": 4, "micro_batches": 2}  # keys that are gone
  before["hft"]["micro_batch_rows"] = 8  # where it is computed, not what
  del before["judging"], before["data"]["sources"]
  assert resuming.allowed_changes(before, config, "/runs/a") == {}
  config.hgpo.epochs = 3
  with pytest.raises(UserError, match=r"hgpo\.epochs: 1 -> 3"):
    resuming.allowed_changes(before, config, "/runs/a")


def test_a_run_older_than_a_key_whose_default_is_another_method_says_so_and_must_be_allowed(config):
  before = without(config, "tag_normalisation", "neither_penalty", "literal")
  with pytest.raises(UserError) as error:
    resuming.allowed_changes(before, config, "/runs/a")
  assert str(error.value).splitlines()[1:3] == [
    "  hgpo.neither_penalty: 0.0, which is what the run did before this key existed -> 10.0",
    "  hgpo.tag_normalisation: 'vocabulary', which is what the run did before this key existed "
    "-> 'tags'",
  ]
  config.allow_config_change = "hgpo.tag_normalisation,hgpo.neither_penalty"
  assert list(resuming.allowed_changes(before, config, "/runs/a")) == [
    "hgpo.neither_penalty", "hgpo.tag_normalisation"
  ]  # fmt: skip
  # What it did can be asked for.
  config.hgpo.tag_normalisation, config.hgpo.neither_penalty = "vocabulary", 0.0
  config.allow_config_change = ""
  assert resuming.allowed_changes(before, config, "/runs/a") == {}


def test_a_run_of_an_advantage_no_longer_registered_differs(config):
  before = without(config, "literal")
  before["hgpo"]["advantage"] = "mine"
  with pytest.raises(UserError, match=r"hgpo\.advantage: 'mine' -> 'hgpo'"):
    resuming.allowed_changes(before, config, "/runs/a")


def test_a_method_that_no_value_reproduces_is_named(config):
  config.hgpo.estimator = "reinforce_pp"
  before = without(config, "literal")
  with pytest.raises(UserError, match="older than this key, and no value reproduces what it did"):
    resuming.allowed_changes(before, config, "/runs/a")
  config.hgpo.estimator = before["hgpo"]["estimator"] = "rloo"
  with pytest.raises(UserError, match=r"hgpo\.literal: True, which is what the run did before"):
    resuming.allowed_changes(before, config, "/runs/a")


def test_a_run_older_than_reward_models_resumes_and_takes_one_only_if_allowed(config):
  before = plain(config)
  del before["reward_model"], before["reward_by_source"]
  assert not resuming.allowed_changes(before, config, "runs/x")
  config.reward_model.max_tokens = 64
  with pytest.raises(UserError, match=r"reward_model\.max_tokens: 2048 -> 64"):
    resuming.allowed_changes(before, config, "runs/x")


@pytest.mark.parametrize(
  "record",
  [
    {}, {"logs": None}, {"logs": {"metrics.jsonl": -1}}, {"logs": {"metrics.jsonl": "5"}},
    {"logs": {}, "seconds": None}, {"logs": {}, "seconds": float("nan")},
    {"logs": {}, "finished": 1}, {"logs": {}, "config": 5}, {"logs": {}, "config": {"hft": 5}},
  ],
)  # fmt: skip
def test_a_record_that_no_run_wrote_is_refused(record):
  with pytest.raises(CheckpointError, match="record that this version did not write"):
    resuming.check_record(Saved(pathlib.Path("/runs/a/checkpoints/hft/6"), 6, record))


def test_steps_that_end_within_the_warm_up_are_warned_of_with_both_keys():
  message = early_stop.warm_up_warning("rft", 50, 100)
  assert "rft.steps=50" in message and "rft.warmup_steps=100" in message and "49/100" in message

"""Validation of configs: a rule for every key, all problems at once, and equivalent deltas."""

import dataclasses
import errno

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from experiments.configs import arithmetic
from lhrm_jax import rewards
from lhrm_jax.config import flatten, replaced
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.errors import UserError
from lhrm_jax.objectives import advantages, hgpo
from lhrm_jax.parallel import MESH_AXES
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs import command_line, defaults, setup, validation
from lhrm_jax.runs.config import HGPO, KNOBS, from_config_dict, problems


def test_every_key_has_a_rule_that_its_default_keeps():
  keys = dict(flatten(defaults.get_config(), KNOBS))
  assert set(keys) == set(KNOBS)
  assert all(knob.meaning.endswith(".") for knob in KNOBS.values())
  assert problems(defaults.get_config()) == []


def test_all_problems_are_reported_at_once_with_key_value_and_what_would_do():
  config = arithmetic.get_config()
  config.hgpo.clip_low, config.hft.steps, config.hgpo.tie = 1.5, -3, "last"
  with pytest.raises(UserError) as error:
    from_config_dict(config)
  first, *lines = str(error.value).splitlines()
  assert first.startswith("3 problems in the config")
  assert lines == [
    "  hft.steps=-3 must be a whole number from 0 to 2,147,483,647. Set --config.hft.steps; the "
    "default is 1000.",
    "  hgpo.tie='last' must be one of 'all', 'first'. Set --config.hgpo.tie; the default is 'all'.",
    "  hgpo.clip_low=1.5 must be a finite number of at least 0 and at most 1. Set "
    "--config.hgpo.clip_low; the default is 0.5.",
  ]


def test_a_key_that_a_config_file_mistypes_is_an_error_with_the_nearest():
  config = arithmetic.get_config()
  config.hgpo.detla, config.evluation = 0.4, ConfigDict({"prompts": 3})
  assert problems(config) == [
    "evluation.prompts is not a key of the config. Did you mean evaluation.prompts?",
    "hgpo.detla is not a key of the config. Did you mean hgpo.delta?",
  ]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data.prompts": "a.jsonl"}, "data.prompts: task='arithmetic' does not read them. Set task"),
    ({"hgpo.sampling_chunks": 3}, "hgpo.prompts_per_step=32 does not divide into hgpo.sampling_ch"),
    ({"hgpo.updates_per_rollout": 3}, "does not divide hgpo.prompts_per_step=32"),
    ({"hgpo.samples_per_mode": 1}, "always its best"),
    ({"hgpo.pairing": "free"}, "choose another, such as 'grpo'"),
    ({"hgpo.steps": 2**27}, r"at most 67,108,863 steps"),
    ({"hgpo.skip_zero_advantages": True}, "Set hgpo.beta=0"),
    ({"hft.think_per_step": 0, "hft.no_think_per_step": 0}, "nothing to train on"),
    ({"hft.packed_length": 48}, "Set it to 49 or more"),
    ({"hgpo.packed_length": 48}, "Set it to 49 or more, or to 0"),
    ({"profile_steps": "9:3"}, "profile_steps='9:3' names no steps"),
    ({"checkpoint.best": "eval/acuracy"}, "must be '' or one of eval/accuracy"),
    ({"checkpoint.best": "eval/accuracy", "hgpo.eval_every": 0}, "set that above 0"),
    ({"checkpoint.best": "hacc/score"}, "set that to True"),
    ({"reward": "exactmatch"}, "did you mean 'exact_match'"),
    ({"reward_weights": {"mathematics": 1.0}}, "no reward named 'mathematics'"),
    ({"hgpo.top_p": 0.9}, "hgpo.top_p=1 and hgpo.top_k=0"),
    ({"hgpo.top_k": 5}, "lower hgpo.temperature"),
    # Without an effect under the other settings:
    ({"reward": "length", "reward_weights": {"exact_match": 1.0}}, "reward='length' has no effect"),
    ({"data.on_bad_row": "skip"}, "data.on_bad_row='skip' has no effect with task='arithmetic'"),
    (
      {"hgpo.estimator": "reinforce_pp", "hgpo.intra_scope": "all"},
      "hgpo.intra_scope='all' has no",
    ),
    ({"hgpo.alpha": 0.0, "hgpo.delta": 0.5}, "hgpo.delta=0.5 has no effect with hgpo.alpha=0"),
    ({"evaluation.budgets": (4,), "evaluation.dials.budget": 8}, "set one of the two"),
    ({"hgpo.decode_slots": 256}, "has no effect with only 256 responses, of a step or one of its"),
    (
      {"evaluation.decode_slots": 10**6},
      "has no effect with at most 800 replies to evaluation.bat",
    ),
    ({"hgpo.estimator": "rloo", "hgpo.ddof": 1}, "hgpo.ddof=1 has no effect with hgpo.estimator"),
    ({"hgpo.estimator": "reinforce_pp", "hgpo.ddof": 1}, "hgpo.ddof=1 has no effect with hgpo.est"),
    (
      {"hgpo.pairing": "free", "hgpo.advantage": "grpo", "hgpo.tag_normalisation": "vocabulary"},
      "hgpo.tag_normalisation='vocabulary' has no effect with hgpo.pairing='free'",
    ),
    ({"hgpo.gamma": 0.9}, "hgpo.gamma=0.9 has no effect with hgpo.estimator='grpo'"),
    ({"hgpo.kl_estimator": "k1"}, "has no gradient on average: set hgpo.kl_in='reward'"),
    ({"hgpo.dual_clip": 0.5}, "set it above 1, or to 0"),
    ({"hgpo.tag_old": "behaviour", "hgpo.kl_in": "reward"}, "Set hgpo.kl_in='loss'"),
    ({"hgpo.beta": 0.0, "hgpo.skip_zero_advantages": True, "hgpo.entropy_bonus": 0.1}, "entropy_b"),
    ({"hgpo.advantage": "grpo", "hgpo.pairing": "mixed", "hgpo.forced_share": 0.1}, "forces 0 of"),
    ({"hgpo.forced_share": 0.2}, "hgpo.forced_share=0.2 has no effect with hgpo.pairing='paired'"),
    ({"hgpo.surrogate": "cispo", "hgpo.dual_clip": 3.0}, "hgpo.dual_clip=3.0 has no effect"),
    ({"hgpo.sampler_cap": 3.0}, "hgpo.sampler_cap=3.0 has no effect"),
    ({"hgpo.beta": 0.0, "hgpo.kl_in": "reward"}, "hgpo.kl_in='reward' has no effect"),
    ({"hgpo.beta": 0.0, "hgpo.reference_every": 5}, "hgpo.reference_every=5 has no effect"),
    ({"hgpo.refill": 3}, "hgpo.refill=3 has no effect with hgpo.advantage='hgpo': a mode wins"),
    ({"hgpo.reference_samples": 8}, "takes no argument ref_accuracy"),
    ({"hgpo.beta": 0.0, "hgpo.tag_kl": "exact"}, "hgpo.tag_kl='exact' has no effect with hgpo.b"),
    ({"hgpo.advantage": "rloo", "hgpo.literal": True}, "hgpo.literal=True has no effect"),
    ({"hgpo.literal": True}, "hgpo.literal=True has no effect with hgpo.estimator='grpo'"),
    ({"hgpo.advantage": "grpo", "hgpo.delta": 0.4}, "hgpo.delta=0.4 has no effect with hgpo.adva"),
    ({"hgpo.advantage": "grpo", "hgpo.estimator": "rloo"}, "hgpo.estimator='rloo' has no effect"),
    ({"hgpo.advantage": "rloo", "hgpo.ddof": 1}, "hgpo.ddof=1 has no effect"),
    ({"hgpo.advantage": "dr_grpo", "hgpo.tie": "first"}, "takes no argument tie"),
    ({"evaluation.hacc_temperature": 0.0, "evaluation.top_p": 0.9}, "evaluation.top_p=0.9 has no"),
    ({"evaluation.hacc_temperature": 0.0, "evaluation.samples": 8}, "greedy samples are all the"),
    ({"gates.stop": True, "gates.pinned_steps": 0}, "gates.stop=True has no effect"),
    ({"hgpo.steps": 0, "hft.steps": 0, "checkpoint.best": "mode/think_rate"}, "checkpoint.best="),
  ],
)
def test_values_that_do_not_go_together_are_refused(changes, message):
  config = arithmetic.get_config()
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=message):
    from_config_dict(config)


@pytest.fixture
def of_my_own(monkeypatch):
  """A registered advantage with settings of the config, and arguments that the config lacks."""
  monkeypatch.setattr(advantages.REGISTRY, "entries", dict(advantages.REGISTRY.entries))

  @advantages.register("mine")
  def mine(scores, *, alpha, margin, power=1.0):
    return hgpo.advantages(scores, alpha=alpha * power, delta=margin)


@pytest.mark.parametrize(
  ("own", "changes", "message"),
  [
    ({"margin": 0.1}, {"hgpo.alpha": 2.0}, ""),
    ({"margin": 0.1, "power": 2.0}, {}, ""),
    ({}, {}, "'mine' needs an argument margin: set hgpo.advantage_options.margin"),
    ({"margin": 0.1, "margn": 1.0}, {}, "margn: .* it takes margin, power beside"),
    ({"margin": 0.1, "alpha": 1.0}, {}, "set hgpo.alpha instead"),
    ({"margin": 0.1}, {"hgpo.delta": 0.3}, "hgpo.delta=0.3 has no effect"),
    ({"margin": [1]}, {}, "hgpo.advantage_options={.*} must be arguments with finite numbers"),
  ],
)
def test_an_advantage_is_given_what_it_names_and_nothing_is_dropped(
  of_my_own, own, changes, message
):
  config = arithmetic.get_config()
  config.hgpo.advantage, config.hgpo.advantage_options = "mine", ConfigDict(own)
  config.update_from_flattened_dict(changes)
  if message:
    with pytest.raises(UserError, match=message):
      from_config_dict(config)
    return
  from_config_dict(config)
  options = advantages.options("mine", config.hgpo, config.hgpo.advantage_options)
  assert options == {"alpha": config.hgpo.alpha, **own}
  scores = np.array([[[1.0, 0.0], [0.0, 0.0]]])
  found = advantages.get("mine")(scores, **options)
  # norm(r_intra) = [1, -1 | 0, 0]; norm(r_inter) = [1, 1 | -1, -1]
  weight = config.hgpo.alpha * own.get("power", 1.0)
  np.testing.assert_allclose(found.body, [[[1, -1], [0, 0]]])
  np.testing.assert_allclose(found.tag, [[[1 + weight, weight - 1], [-weight, -weight]]])


def test_a_locked_config_has_the_defaults_it_had():
  """As on the command line: an empty locked section is not a setting."""
  config = arithmetic.get_config().lock()
  assert problems(config) == []


def test_options_that_an_advantage_does_not_take_are_refused():
  config = arithmetic.get_config()
  config.hgpo.advantage_options = ConfigDict({"margin": 0.1})
  with pytest.raises(UserError, match="'hgpo' takes no such argument"):
    from_config_dict(config)


def test_a_packed_row_may_be_short_where_what_does_not_fit_is_skipped():
  config = arithmetic.get_config()
  config.hft.packed_length, config.data.long_demonstrations = 30, "skip"
  from_config_dict(config)


def mesh(data=1, fsdp=1, tensor=1):
  return AbstractMesh((data, fsdp, tensor), MESH_AXES)


def test_every_parameter_must_divide_over_the_mesh():
  config = PolicyConfig(32, 48, 96, 2, num_heads=6, num_kv_heads=2)
  validation.check_shards(config, mesh(data=5, fsdp=16, tensor=2))
  with pytest.raises(UserError) as error:
    validation.check_shards(config, mesh(fsdp=5, tensor=4))
  assert str(error.value).startswith(
    "policy.hidden_size=48 does not divide by mesh.fsdp=5; policy.num_heads=6 does not divide by "
    "mesh.tensor=4; policy.num_kv_heads=2 does not divide by mesh.tensor=4: "
  )


@pytest.fixture(scope="module")
def run():
  config = arithmetic.get_config()
  config.compilation_cache = ""
  return setup.make(config)


def test_lengths_beyond_the_positions_are_refused(run):
  config = replaced(run.config, {"data.max_no_think_tokens": 43})  # 22 + 43 > 64
  with pytest.raises(UserError, match=r"data\.max_no_think_tokens = 65"):
    validation.check_policy(config, run.policy_config, run.tokenizer)


def test_a_tokenizer_with_ids_beyond_the_vocabulary_is_refused(run):
  tokens = run.tokenizer.vocab_size
  padded = dataclasses.replace(run.policy_config, vocab_size=tokens + 9, logit_vocab_size=tokens)
  validation.check_policy(run.config, padded, run.tokenizer)
  short = dataclasses.replace(padded, logit_vocab_size=tokens - 1)
  with pytest.raises(UserError, match=f"ids from 0 to {tokens - 1}, and the policy a vocabulary"):
    validation.check_policy(run.config, short, run.tokenizer)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="cuDNN is to be had there")
def test_attention_that_this_machine_lacks_is_refused_before_it_is_traced(run):
  config = dataclasses.replace(run.policy_config, attention="cudnn")
  with pytest.raises(UserError, match="needs a GPU"):
    validation.check_policy(run.config, config, run.tokenizer)


def test_a_delta_that_is_one_of_many_equal_ones_is_reported(capsys, monkeypatch):
  config = arithmetic.get_config()
  assert validation.warnings(config) == [], "its own default needs no warning"
  assert "hgpo.delta=0.2" in validation.notes(config)[0], "the report's readers are told"
  monkeypatch.setattr(command_line, "given_keys", lambda: frozenset({"hgpo.delta"}))
  assert validation.warnings(config) == validation.notes(config), "given on the command line"
  monkeypatch.undo()
  config.compilation_cache = ""
  config.hgpo.delta, config.hgpo.samples_per_mode = 0.3, 2
  setup.make(config)
  assert not capsys.readouterr().err, "only HGPO prints it"
  (warned,) = validation.warnings(config)
  assert "hgpo.delta=0.3" in warned and "every value in [0, 0.5)" in warned
  assert "at least 1 more right responses of 2" in warned
  config.hgpo.delta = 1.0
  assert "[1, inf): no-think always wins" in validation.warnings(config)[0]
  config.hgpo.delta = -1.5
  assert "[-inf, -1): thinking always wins" in validation.warnings(config)[0]
  assert len(validation.notes(config)) == 1
  for key, value in (("reward", "length"), ("hgpo.advantage", "grpo"), ("hgpo.steps", 0)):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict({key: value})
    assert validation.warnings(other) == [], (
      f"{key}={value}: delta is of no account, or is told apart"
    )


def test_a_bad_config_leaves_no_folder(tmp_path):
  from lhrm_jax.runs.run_folder import RunFolder

  config = arithmetic.get_config()
  config.checkpoint.every = 0
  with pytest.raises(UserError, match=r"checkpoint\.every=0"):
    RunFolder(str(tmp_path / "run"), config, stages=("hft",)).__enter__()
  assert not (tmp_path / "run").exists()


def test_a_prompt_over_the_limit_ends_the_job_with_the_key(run):
  config = replaced(run.config, {"data.max_prompt_tokens": 5})
  short = dataclasses.replace(run, config=config)
  with pytest.raises(UserError, match=r"data\.max_prompt_tokens=5"):
    short.evaluator()


def test_the_scale_of_a_reward_model_is_nothing_to_other_rewards():
  config = arithmetic.get_config()
  config.hgpo.reward_scale = "raw"
  with pytest.raises(UserError, match=r"hgpo\.reward_scale='raw': there is no reward model"):
    setup.make(config)


def test_an_answer_that_the_reward_cannot_judge_by_ends_the_job_before_it_trains(run):
  class Task:
    queries = [PromptRow("1+1=", "2"), PromptRow("a?", "seven")]  # noqa: RUF012

    def evaluation(self, count):
      return self.queries[:count]

    def prompts(self, seed, step, count):
      return self.queries[:count]

  bad = dataclasses.replace(run, task=Task(), reward_fn=rewards.get("numeric"))
  with pytest.raises(UserError, match="'numeric' needs a number as answer, got 'seven'"):
    setup.check_rows(bad, (HGPO,))


def test_prompts_must_divide_over_the_devices(run):
  devices = np.array(jax.devices() * 3)[:3].reshape(3, 1, 1)
  three = jax.sharding.Mesh(devices, MESH_AXES)
  with pytest.raises(UserError, match=r"hgpo\.prompts_per_step=32: 32 rows do not divide"):
    validation.check_prompts(run.config, three)


@pytest.mark.parametrize("key", ["hgpo.length_buckets", "hgpo.micro_batches"])
def test_a_retired_key_says_what_took_its_place(key):
  config = arithmetic.get_config()
  with config.unlocked():
    config.update_from_flattened_dict({key: 4})
  with pytest.raises(UserError, match=rf"{key} is gone: .*hgpo\.(packed_length|micro_batch_rows)"):
    from_config_dict(config)


def fail(error):
  def main(_):
    raise error

  command_line._reporting(main, [])


def test_a_full_disk_is_a_message_wherever_it_shows(capsys):
  with pytest.raises(SystemExit):
    fail(OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.jsonl"))
  message = capsys.readouterr().err
  assert message.startswith("error: runs/a/metrics.jsonl could not be written: No space left")
  with pytest.raises(OSError, match="Connection reset"):
    fail(OSError(errno.ECONNRESET, "Connection reset by peer"))


def test_running_out_of_memory_is_a_message_and_other_faults_are_not_hidden(capsys):
  exhausted = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
  for error in (exhausted, MemoryError("Unable to allocate 9 TiB")):
    with pytest.raises(SystemExit):
      fail(error)
    message = capsys.readouterr().err
    assert message.startswith("error: out of memory: ") and "experiments.plan" in message
  with pytest.raises(jax.errors.JaxRuntimeError):
    fail(jax.errors.JaxRuntimeError("INTERNAL: a bug"))

"""`policy.*` with a loaded policy: applied or refused, and recorded as the policy truly is."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs import arithmetic
from lhrm_jax import parallel, policy
from lhrm_jax.errors import UserError
from lhrm_jax.policy import PolicyConfig, flash
from lhrm_jax.runs import loading, policy_settings, setup
from lhrm_jax.runs.config import from_config_dict, plain
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.training import state as train_state

TINY = pathlib.Path(__file__).parents[1] / "golden" / "qwen3_tied"
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_layers": 1, "num_heads": 2,
         "num_kv_heads": 2}  # fmt: skip


def small(**policy):
  config = arithmetic.get_config()
  config.compilation_cache = ""
  config.evaluation.prompts = config.evaluation.batch_prompts = 2
  config.policy.update({**SIZES, **policy})
  return config


def other(run, **policy):
  """A config that starts from a run, and sets these alone beside what its file sets."""
  config = arithmetic.get_config()
  config.compilation_cache, config.init_from = "", str(run)
  config.policy.update(policy)
  return config


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
  """A run with a checkpoint, without a step of training."""
  path = tmp_path_factory.mktemp("runs") / "exp[lr=1e-3]"
  write_run(path, small())
  return path


def write_run(path, config):
  with RunFolder(str(path), config, ("hft",)) as folder:
    run = setup.make(config, folder.policy if folder.newest else None)
    folder.describe(run)
    if not folder.newest:
      optimizer = train_state.make_optimizer(
        optax.constant_schedule(1e-3), weight_decay=0.0, clip_norm=1.0
      )
      state = train_state.create(run.policy_config, optimizer, run.mesh, jax.random.key(0))
      record = {"logs": {}, "config": plain(run.config)}
      folder.checkpoints["hft"].save(state, 1, lambda: record, now=True)
  return run


def test_how_a_run_s_policy_is_computed_is_the_second_run_s_to_say(run_folder):
  asked = {"remat": "full", "dtype": "bfloat16", "logprob_chunk": 32, "attention_chunk": 8,
           "attention": "xla", "max_positions": 60}  # fmt: skip
  run = setup.make(other(run_folder, **asked))
  for settings in (run.policy_config, run.config.policy):
    assert {name: getattr(settings, name) for name in asked} == asked
  assert run.policy_config.hidden_size == run.config.policy.hidden_size == SIZES["hidden_size"]
  assert run.config.policy.vocab_size == 0, "left to the tokenizer, as it was"


def test_a_default_that_was_left_alone_asks_for_nothing_and_what_is_kept_is_said(
  run_folder, capsys
):
  run = setup.make(other(run_folder))
  stored = json.loads((run_folder / "policy" / "config.json").read_text())
  assert run.policy_config == PolicyConfig.from_dict(stored)
  assert "stays" not in capsys.readouterr().err
  (remark,) = policy_settings.kept(
    from_config_dict(other(run_folder)), dataclasses.replace(run.policy_config, dtype="bfloat16")
  )
  assert remark.startswith("policy.dtype stays 'bfloat16'")
  assert remark.count("--config.policy.dtype=float32")


@pytest.mark.parametrize(
  "wrong",
  [{"num_layers": 2}, {"hidden_size": 32, "num_heads": 8}, {"rope_theta": 5e5}, {"vocab_size": 128},
   {"rms_norm_eps": 1e-5}, {"tie_embeddings": False},
   {"head_dim": 16}, {"qkv_bias": True}],
)  # fmt: skip
def test_another_policy_than_the_run_s_is_refused_with_every_key(run_folder, wrong):
  with pytest.raises(UserError, match="another policy than the config describes") as error:
    setup.make(other(run_folder, **wrong))
  for name, value in wrong.items():
    assert f"policy.{name}={value} (there: " in str(error.value)


def test_a_value_of_the_command_line_counts_though_it_is_the_default(run_folder, monkeypatch):
  monkeypatch.setattr(policy_settings, "given_keys", lambda: {"policy.hidden_size"})
  with pytest.raises(UserError, match=r"policy\.hidden_size=64 \(there: 16\)"):
    setup.make(other(run_folder))


def test_a_vocabulary_that_is_not_the_tokenizer_s_is_refused():
  with pytest.raises(UserError, match=r"with its tokenizer .* policy\.vocab_size=128"):
    setup.make(small(vocab_size=128))


def test_a_pretrained_model_takes_attention_and_stretches_only_where_it_is_described():
  config = arithmetic.get_config()
  config.init_from = "owner/name"
  config.policy.attention = "xla"
  asked = policy_settings.asked(config)
  assert asked == {"attention": "xla", "max_positions": 64, "rope_theta": 100.0, "qk_norm": True,
                   "scan_layers": False}  # fmt: skip
  taken = policy_settings.for_pretrained(asked)
  assert taken == {"attention": "xla", "max_positions": 64, "scan_layers": False}
  config.policy.vocab_size = 128
  taken = policy_settings.for_pretrained(policy_settings.asked(config))
  assert taken["rope_theta"] == 100.0 and taken["dtype"] == "float32"


def test_a_resumed_run_applies_a_change_that_is_allowed_and_says_so(tmp_path):
  path = tmp_path / "run"
  write_run(path, small())
  config = small(remat="full")
  with pytest.raises(UserError, match=r"policy\.remat: 'none' -> 'full'"):
    write_run(path, config)
  config.allow_config_change = "policy.remat"
  assert write_run(path, config).policy_config.remat == "full"
  for file in ("config.json", "policy/config.json"):
    fields = json.loads((path / file).read_text())
    assert fields.get("policy", fields)["remat"] == "full"
  # And back.
  config.policy.remat = "none"
  assert write_run(path, config).policy_config.remat == "none"
  config.policy.hidden_size, config.allow_config_change = 32, "policy"
  with pytest.raises(UserError, match=r"policy\.hidden_size=32 \(there: 16\)"):
    write_run(path, config)


def test_a_second_run_is_resumed_by_its_own_command(run_folder, tmp_path):
  """Its record holds the policy's true sizes, which its config left alone."""
  path = tmp_path / "second"
  for _ in range(2):
    write_run(path, other(run_folder, remat="dots"))
  record = json.loads((path / "config.json").read_text())["policy"]
  assert record["hidden_size"] == 16 and record["remat"] == "dots"
  with pytest.raises(UserError, match=r"policy\.remat: 'dots' -> 'full'"):
    write_run(path, other(run_folder, remat="full"))


def test_a_pretrained_model_is_loaded_as_asked_or_refused():
  mesh = parallel.make_mesh()
  asked = {"attention": "xla", "remat": "full", "scan_layers": False, "max_positions": 48}
  loaded, _, params = loading.load_policy(str(TINY), mesh, asked)
  assert {name: getattr(loaded, name) for name in asked} == asked and "layer_0" in params
  with pytest.raises(UserError, match=r"policy\.num_layers=9 \(there: "):
    loading.load_policy(str(TINY), mesh, asked | {"num_layers": 9, "hidden_size": 8})


def test_adapters_are_added_to_a_policy_without_any_and_kept_otherwise():
  config = small(lora_rank=4, lora_alpha=8.0)
  config.init_from = "somewhere"
  fields = policy_settings.asked(config)
  described = {name: x for name, x in fields.items() if not name.startswith("lora")}
  plain = PolicyConfig.from_dict({**described, "vocab_size": 64})
  new = {"lora_rank": 4, "lora_alpha": 8.0}
  assert policy_settings.adapters(fields, plain) == new
  policy_settings.check(plain, {**fields, "num_layers": 1}, "there")
  adapted = dataclasses.replace(plain, **new, lora_tokens=(2, 3))
  assert policy_settings.adapters(fields, adapted) == {}
  policy_settings.check(adapted, fields, "there")
  with pytest.raises(UserError, match=r"policy\.lora_rank=8 \(there: 4\)"):
    policy_settings.check(adapted, {**fields, "lora_rank": 8}, "there")
  # Left out, they ask for nothing, even of a config that describes the model.
  config = small(vocab_size=64)
  config.init_from = "somewhere"
  assert not [name for name in policy_settings.asked(config) if name.startswith("lora")]


def test_adapters_need_a_policy_to_belong_to():
  with pytest.raises(UserError, match=r"set init_from, or policy\.lora_rank=0"):
    from_config_dict(small(lora_rank=4))
  with pytest.raises(UserError, match=r"policy\.lora_alpha=8\.0 has no effect with"):
    from_config_dict(small(lora_alpha=8.0))


def test_on_a_gpu_sampling_gets_the_parameters_by_layer():
  run = setup.make(small(scan_layers=True, num_layers=2))
  params = policy.init(run.policy_config, jax.random.key(0))
  with flash.compiling_for("gpu"):
    setup._for_sampling.clear_cache()
    placed = run.sampling_params(params)
  setup._for_sampling.clear_cache()
  assert "layers" in params and "layers" not in placed and "layer_0" in placed
  tokens = jnp.arange(6)[None]
  logits = [policy.logits(run.policy_config, p, tokens) for p in (params, placed)]
  np.testing.assert_allclose(*logits, atol=1e-5)

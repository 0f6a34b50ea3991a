"""Reads weights and config from a GGUF file (llama.cpp's format), dequantised, no torch."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from lhrm_jax.policy import rope
from lhrm_jax.policy.config import PolicyConfig, RopeScaling

# Which of our switches each `general.architecture` sets. Mistral and SmolLM2 are "llama".
_FAMILIES = {
  "llama": {},
  "qwen2": {"qkv_bias": True},
  "qwen3": {"qk_norm": True},
}
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")

_OUTER_NAMES = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
  "attn_norm": "input_layernorm",
  "ffn_norm": "post_attention_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}
# Llama 3.x files hold the stretched frequencies themselves instead of the numbers they come from.
_ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_positions": 8192}


class GGUFFile:
  """The tensors of a GGUF file under their Hugging Face names, and its config.

  See `loading.Checkpoint` for what `where`, `names`, `shape` and `read` promise.
  """

  def __init__(self, path: pathlib.Path, reader: Any):
    """Args:
      path: for messages.
      reader: `gguf.GGUFReader(path)`, made once and shared with the tokenizer.

    Raises:
      ValueError: the architecture, the RoPE scaling or a tensor's type is not implemented.
    """
    self.where = str(path)
    self._reader = reader
    self._family = self._field("general.architecture", full=True)
    if self._family not in _FAMILIES:
      raise ValueError(
        f"{path}: general.architecture={self._family!r} is no architecture this policy implements. "
        f"It implements {', '.join(_FAMILIES)}."
      )
    self._tensors = {_huggingface_name(t.name): t for t in reader.tensors}
    self._rope_factors = self._tensors.pop(_ROPE_FACTORS, None)
    for tensor in self._tensors.values():
      if tensor.tensor_type.name not in TYPES:
        raise ValueError(
          f"{path}: tensor {tensor.name} has type {tensor.tensor_type.name}, which is none of "
          f"{', '.join(TYPES)}."
        )
    self.config = self._config()
    self._check_rope_factors()

  def names(self) -> frozenset[str]:
    return frozenset(self._tensors)

  def shape(self, name: str) -> tuple[int, ...]:
    return tuple(int(n) for n in reversed(self._tensors[name].shape))

  def read(self, name: str) -> np.ndarray:
    from gguf import dequantize

    tensor = self._tensors[name]
    # A copy, so that no parameter is a window on the file.
    weight = np.array(dequantize(tensor.data, tensor.tensor_type)).reshape(self.shape(name))
    if self._family == "llama":
      if ".q_proj." in name:
        return _unpermute(weight, self.config.num_heads)
      if ".k_proj." in name:
        return _unpermute(weight, self.config.num_kv_heads)
    return weight

  def _field(self, key: str, default: Any = None, *, full: bool = False) -> Any:
    """A metadata value; `key` lacks the architecture's prefix unless `full`."""
    key = key if full else f"{self._family}.{key}"
    field = self._reader.get_field(key)
    if field is not None:
      return field.contents()
    if default is None:
      raise ValueError(f"{self.where} lacks the metadata key {key!r}.")
    return default

  def _config(self) -> PolicyConfig:
    heads = self._field("attention.head_count")
    theta = float(self._field("rope.freq_base", 10_000.0))
    head_dim = self._field("attention.key_length", self._field("embedding_length") // heads)
    return PolicyConfig(
      vocab_size=self.shape("model.embed_tokens.weight")[0],
      hidden_size=self._field("embedding_length"),
      intermediate_size=self._field("feed_forward_length"),
      num_layers=self._field("block_count"),
      num_heads=heads,
      num_kv_heads=self._field("attention.head_count_kv", heads),
      head_dim=head_dim,
      max_positions=self._field("context_length"),
      rope_theta=theta,
      rope_scaling=self._rope_scaling(),
      rms_norm_eps=float(self._field("attention.layer_norm_rms_epsilon")),
      tie_embeddings="lm_head.weight" not in self._tensors,
      **_FAMILIES[self._family],
    )

  def _rope_scaling(self) -> RopeScaling:
    if self._rope_factors is not None:
      # All models written so far share the three other numbers; `factor` is the largest stretch.
      factors = np.asarray(self._rope_factors.data, np.float32)
      return RopeScaling("llama3", float(factors.max()), **_LLAMA3)
    kind = self._field("rope.scaling.type", "none")
    if kind == "none":
      return RopeScaling()
    if kind == "linear":
      return RopeScaling("linear", float(self._field("rope.scaling.factor")))
    raise ValueError(f"{self.where}: RoPE scaling {kind!r} is not implemented (none, linear are).")

  def _check_rope_factors(self) -> None:
    """Makes sure that the scaling we inferred gives the file's own frequencies."""
    if self._rope_factors is None:
      return
    factors = np.asarray(self._rope_factors.data, np.float32)
    plain = rope.frequencies(dataclasses.replace(self.config, rope_scaling=RopeScaling()))
    if not np.allclose(plain / factors, rope.frequencies(self.config), rtol=1e-3):
      raise ValueError(
        f"{self.where}: {_ROPE_FACTORS} holds no scaling of Llama 3's kind. Load the model from "
        "its safetensors folder instead, whose config.json says which it is."
      )


def _huggingface_name(name: str) -> str:
  if name in _OUTER_NAMES:
    return _OUTER_NAMES[name]
  head, _, rest = name.partition(".")
  index, _, rest = rest.partition(".")
  stem, _, kind = rest.rpartition(".")
  if head == "blk" and stem in _LAYER_NAMES:
    return f"model.layers.{index}.{_LAYER_NAMES[stem]}.{kind}"
  return name  # unknown: reported under its own name as an unexpected tensor


def _unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
  """Undoes the order of channels that llama.cpp's rotation wants.

  There channel 2i pairs with 2i + 1 within a head, here and in Hugging Face's files channel i with
  i + head_dim / 2.
  """
  rows, *rest = weight.shape
  return weight.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2).reshape(weight.shape)

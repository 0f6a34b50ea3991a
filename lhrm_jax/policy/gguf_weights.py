"""Reads weights and config from a GGUF file (llama.cpp's format), dequantised, no torch."""

import dataclasses
import math
from typing import Any

import numpy as np

from lhrm_jax.policy import layout, rope
from lhrm_jax.policy.config import PolicyConfig, RopeScaling
from lhrm_jax.text import gguf_file, printable

# Which of our switches each `general.architecture` sets. Mistral and SmolLM2 are "llama".
_FAMILIES = {
  "llama": {},
  "qwen2": {"qkv_bias": True},
  "qwen3": {"qk_norm": True},
}
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K",
         "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")  # fmt: skip

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
# Llama 3.x files hold the factors of all frequencies instead of the numbers they follow from.
_ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_positions": 8192}


class GGUFFile:
  """The tensors of a GGUF file under their Hugging Face names, and its config.

  Implements `loading.Checkpoint`.
  """

  def __init__(self, contents: gguf_file.Contents):
    """Raises:
    ValueError: the architecture, the RoPE scaling, a tensor's type or a number is not one that this
      policy implements.
    """
    self.where = str(contents.path)
    self._contents = contents
    self._family = self._field("general.architecture", str, full=True)
    if self._family not in _FAMILIES:
      raise ValueError(
        f"{self.where}: general.architecture={self._family!r} is not an architecture that this "
        f"policy implements. It implements {', '.join(_FAMILIES)}."
      )
    self._tensors = {}
    for name, tensor in contents.tensors.items():
      if tensor.type_name not in TYPES:
        raise ValueError(
          f"{self.where}: tensor {printable(name, 200)} has type {tensor.type_name}, which is not "
          f"one of {', '.join(TYPES)}."
        )
      if self._tensors.setdefault(_huggingface_name(name), tensor) is not tensor:
        raise ValueError(f"{self.where} holds two tensors for {_huggingface_name(name)!r}.")
    self._rope_factors = self._read_rope_factors()
    self.config = self._config()
    self._check_rope_factors()

  def names(self) -> frozenset[str]:
    return frozenset(self._tensors)

  def shape(self, name: str) -> tuple[int, ...]:
    return self._tensors[name].shape

  def read(self, name: str) -> np.ndarray:
    weight = self._contents.values(self._tensors[name])
    if self._family == "llama":
      if ".q_proj." in name:
        return _unpermute(weight, self.config.num_heads)
      if ".k_proj." in name:
        return _unpermute(weight, self.config.num_kv_heads)
    return weight

  def _field(self, key: str, kind: type, default: Any = None, *, full: bool = False) -> Any:
    """A metadata value of type `kind`; `key` lacks the architecture's prefix unless `full`."""
    key = key if full else f"{self._family}.{key}"
    value = self._contents.fields.get(key, default)
    if value is None:
      raise ValueError(f"{self.where} lacks the metadata key {key!r}.")
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
      raise ValueError(f"{self.where}: {key}={str(value)[:60]} should be of type {kind.__name__}.")
    return value

  def _config(self) -> PolicyConfig:
    if layout.EMBEDDING not in self._tensors:
      raise ValueError(f"{self.where} lacks the tensor token_embd.weight.")
    self._check_switches()
    heads = self._field("attention.head_count", int)
    width = self._field("embedding_length", int)
    try:
      return PolicyConfig(
        vocab_size=self.shape(layout.EMBEDDING)[0],
        hidden_size=width,
        intermediate_size=self._field("feed_forward_length", int),
        num_layers=self._field("block_count", int),
        num_heads=heads,
        num_kv_heads=self._field("attention.head_count_kv", int, heads),
        head_dim=self._field("attention.key_length", int, 0),
        max_positions=self._field("context_length", int),
        rope_theta=self._field("rope.freq_base", float, 10_000.0),
        rope_scaling=self._rope_scaling(),
        rms_norm_eps=self._field("attention.layer_norm_rms_epsilon", float),
        tie_embeddings=layout.HEAD not in self._tensors,
        **_FAMILIES[self._family],
      )
    except ValueError as error:
      raise ValueError(f"{self.where}: {error}") from error

  def _check_switches(self) -> None:
    """Rejects models that would load but compute something else, as `huggingface` does."""
    positions = self._field("context_length", int)
    window = self._field("attention.sliding_window", int, 0)
    if 0 < window < positions:
      raise ValueError(f"{self.where}: attention.sliding_window={window} is not implemented.")
    heads = max(1, self._field("attention.head_count", int))
    width = self._field("attention.key_length", int, self._field("embedding_length", int) // heads)
    rotated = self._field("rope.dimension_count", int, width)
    if rotated != width:
      raise ValueError(
        f"{self.where}: rope.dimension_count={rotated} of {width} channels is not implemented."
      )

  def _read_rope_factors(self) -> np.ndarray | None:
    tensor = self._tensors.pop(_ROPE_FACTORS, None)
    if tensor is None:
      return None
    factors = self._contents.values(tensor).ravel()
    if not (np.isfinite(factors).all() and (factors > 0).all()):
      raise ValueError(f"{self.where}: {_ROPE_FACTORS} holds factors that are not positive.")
    return factors

  def _rope_scaling(self) -> RopeScaling:
    if self._rope_factors is not None:
      # All models so far share the three other numbers; `factor` is the largest of the factors.
      return RopeScaling("llama3", float(self._rope_factors.max()), **_LLAMA3)
    # As llama.cpp reads it: a factor without a type is linear, under either of its names.
    factor = self._field("rope.scaling.factor", float, self._field("rope.scale_linear", float, 0.0))
    kind = self._field("rope.scaling.type", str, "linear" if factor else "none")
    if kind == "none":
      return RopeScaling()
    if kind == "linear":
      return RopeScaling("linear", factor)
    raise ValueError(f"RoPE scaling {kind!r} is not implemented (none, linear are).")

  def _check_rope_factors(self) -> None:
    """Checks that the inferred scaling gives the file's own frequencies."""
    if self._rope_factors is None:
      return
    plain = rope.frequencies(dataclasses.replace(self.config, rope_scaling=RopeScaling()))
    factors = self._rope_factors
    if factors.shape != plain.shape or not np.allclose(
      plain / factors, rope.frequencies(self.config), rtol=1e-3
    ):
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
  """Undoes llama.cpp's order of channels.

  Its RoPE pairs channel 2i of a head with 2i + 1; Hugging Face's files, as we, pair channel i with
  i + head_dim / 2.
  """
  rows, *rest = weight.shape
  return weight.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2).reshape(weight.shape)

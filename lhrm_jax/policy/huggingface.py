"""Reads and writes `config.json` and safetensors files as Hugging Face lays them out, no torch."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lhrm_jax.policy import layout
from lhrm_jax.policy.config import PolicyConfig, RopeScaling

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
FAMILIES = ("qwen2", "qwen3", "llama", "mistral")

# What transformers assumes where a family's config.json is silent.
_DEFAULTS = {
  "qwen2": {"num_key_value_heads": 32, "max_position_embeddings": 32768},
  "qwen3": {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
  "llama": {"max_position_embeddings": 2048},
  "mistral": {
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
  },
}


def read_config(folder: pathlib.Path) -> PolicyConfig:
  """The policy config that `config.json` in `folder` describes.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the architecture, or a switch of it, is not one this policy implements.
  """
  path = folder / "config.json"
  if not path.is_file():
    raise FileNotFoundError(f"{folder} holds no config.json: is it a Hugging Face model folder?")
  return config_from_json(json.loads(path.read_text(encoding="utf-8")), where=str(path))


def config_from_json(fields: Mapping[str, Any], where: str = "config.json") -> PolicyConfig:
  """Translates the fields of a `config.json`; see `read_config` for the errors."""
  family = fields.get("model_type")
  if family not in FAMILIES:
    raise ValueError(
      f"{where}: model_type={family!r} is no architecture this policy implements. "
      f"It implements {', '.join(FAMILIES)} (SmolLM2 and R1-Distill are of these)."
    )
  for name in fields.get("architectures") or ():
    if not name.endswith("ForCausalLM"):
      raise ValueError(f"{where}: architecture {name!r} is no causal language model.")
  fields = {**_DEFAULTS[family], **fields}
  _check_switches(family, fields, where)

  def need(key: str) -> Any:
    if fields.get(key) is None:
      raise ValueError(f"{where} lacks {key!r}, which a {family} model needs.")
    return fields[key]

  theta, scaling = _rope(fields, where)
  return PolicyConfig(
    vocab_size=need("vocab_size"),
    hidden_size=need("hidden_size"),
    intermediate_size=need("intermediate_size"),
    num_layers=need("num_hidden_layers"),
    num_heads=need("num_attention_heads"),
    num_kv_heads=fields.get("num_key_value_heads") or need("num_attention_heads"),
    head_dim=fields.get("head_dim") or 0,
    max_positions=fields["max_position_embeddings"],
    rope_theta=theta,
    rope_scaling=scaling,
    rms_norm_eps=fields.get("rms_norm_eps", 1e-6),
    qkv_bias=family == "qwen2",
    qk_norm=family == "qwen3",
    tie_embeddings=fields.get("tie_word_embeddings", False),
  )


def _check_switches(family: str, fields: Mapping[str, Any], where: str) -> None:
  """Refuses what would load and then compute something else than the model it was trained as."""
  act = fields.get("hidden_act", "silu")
  if act != "silu":
    raise ValueError(f"{where}: hidden_act={act!r} is not implemented; the feed-forward is SwiGLU.")
  for switch in ("attention_bias", "mlp_bias"):
    if fields.get(switch):
      raise ValueError(f"{where}: {switch}=true is not implemented.")
  window = fields.get("sliding_window")
  if family.startswith("qwen"):
    window = window if fields.get("use_sliding_window", False) else None
  if window is not None and window < fields["max_position_embeddings"]:
    raise ValueError(
      f"{where}: sliding_window={window} is not implemented. Set it to null (for Qwen "
      f"use_sliding_window to false) if your sequences are at most {window} tokens long."
    )


def _rope(fields: Mapping[str, Any], where: str) -> tuple[float, RopeScaling]:
  """Base and scaling, from `rope_parameters` or the older `rope_theta` and `rope_scaling`."""
  rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
  theta = float(rope.get("rope_theta", fields.get("rope_theta", 10_000.0)))
  kind = rope.get("rope_type", rope.get("type", "default"))
  if rope.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1.0)) != 1.0:
    raise ValueError(f"{where}: partial_rotary_factor is not implemented.")
  if kind == "default":
    return theta, RopeScaling()
  if kind == "linear":
    return theta, RopeScaling("linear", float(rope["factor"]))
  if kind == "llama3":
    return theta, RopeScaling(
      "llama3",
      float(rope["factor"]),
      float(rope["low_freq_factor"]),
      float(rope["high_freq_factor"]),
      int(rope["original_max_position_embeddings"]),
    )
  raise ValueError(
    f"{where}: RoPE scaling {kind!r} is not implemented (default, linear, llama3 are). Remove it "
    "from the file if your sequences stay within the unscaled context."
  )


def config_to_json(config: PolicyConfig) -> dict[str, Any]:
  """The `config.json` of a model that computes what `config` does.

  Writes the long-standing keys (`rope_theta`, `rope_scaling`), which every version reads.

  Raises:
    ValueError: no family has both biases and query-key norms.
  """
  if config.qkv_bias and config.qk_norm:
    raise ValueError(
      "No Hugging Face family has qkv_bias and qk_norm together: Qwen2 has the first, Qwen3 the "
      "second. Such a policy can't be exported."
    )
  family = "qwen2" if config.qkv_bias else "qwen3" if config.qk_norm else "llama"
  architecture = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}[family]
  fields = {
    "architectures": [f"{architecture}ForCausalLM"],
    "model_type": family,
    "vocab_size": config.logit_vocab_size or config.vocab_size,
    "hidden_size": config.hidden_size,
    "intermediate_size": config.intermediate_size,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_dim,
    "hidden_act": "silu",
    "max_position_embeddings": config.max_positions,
    "rms_norm_eps": config.rms_norm_eps,
    "rope_theta": config.rope_theta,
    "tie_word_embeddings": config.tie_embeddings,
    "attention_dropout": 0.0,
    "use_cache": True,
  }
  if family.startswith("qwen"):
    fields |= {"use_sliding_window": False}
  if family != "qwen2":
    fields |= {"attention_bias": False}
  scaling = config.rope_scaling
  if scaling.kind != "none":
    fields["rope_scaling"] = {"rope_type": scaling.kind, "factor": scaling.factor}
  if scaling.kind == "llama3":
    fields["rope_scaling"] |= {
      "low_freq_factor": scaling.low_freq_factor,
      "high_freq_factor": scaling.high_freq_factor,
      "original_max_position_embeddings": scaling.original_positions,
    }
  return fields


class SafetensorsFolder:
  """The tensors of a folder's safetensors files, read one at a time.

  See `loading.Checkpoint` for what the methods promise.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens the files and reads their headers.

    Raises:
      FileNotFoundError: no safetensors file, or one that the index names is not there.
    """
    from safetensors import safe_open

    self.where = str(folder)
    self._files: dict[str, pathlib.Path] = {}
    self._shapes: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder):
      with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (no dict)
          self._files[name] = path
          self._shapes[name] = tuple(file.get_slice(name).get_shape())

  def names(self) -> frozenset[str]:
    return frozenset(self._files)

  def shape(self, name: str) -> tuple[int, ...]:
    return self._shapes[name]

  def read(self, name: str) -> np.ndarray:
    from safetensors import safe_open

    # Opened anew for each tensor: pages of a file that stays mapped would pile up in memory.
    with safe_open(self._files[name], framework="numpy") as file:
      return file.get_tensor(name)


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
  index = folder / INDEX_FILE
  if index.is_file():
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    paths = [folder / name for name in sorted(set(weight_map.values()))]
  else:
    paths = [folder / SINGLE_FILE]
  missing = [path.name for path in paths if not path.is_file()]
  if missing:
    raise FileNotFoundError(
      f"{folder} lacks {', '.join(missing)}. Weights are read from safetensors files only; a "
      "checkpoint in another format must be converted first."
    )
  return paths


def write_weights(
  folder: pathlib.Path,
  config: PolicyConfig,
  read: Callable[[layout.Weight, int | None], np.ndarray],
  shard_bytes: int,
) -> None:
  """Writes every tensor of `config`'s model, in files of at most `shard_bytes` where possible.

  Args:
    folder: exists.
    config: the policy's.
    read: gives our parameter of a weight, of layer `int` or, for `None`, outside the layers. It is
      called once for each tensor, and no more than one file's tensors are held at a time.
    shard_bytes: a file is closed before it grows beyond this.
  """
  from safetensors.numpy import save_file

  wanted = [(weight.name, weight, None) for weight in layout.outer_weights(config)] + [
    (layout.layer_name(index, weight.name), weight, index)
    for index in range(config.num_layers)
    for weight in layout.layer_weights(config)
  ]
  parts: list[list[str]] = []
  pending: dict[str, np.ndarray] = {}
  total = 0

  def flush() -> None:
    save_file(pending, folder / f"part-{len(parts)}.safetensors", metadata={"format": "pt"})
    parts.append(list(pending))
    pending.clear()

  for name, weight, index in wanted:
    tensor = np.ascontiguousarray(read(weight, index))
    if pending and tensor.nbytes + sum(x.nbytes for x in pending.values()) > shard_bytes:
      flush()
    pending[name] = tensor
    total += tensor.nbytes
  flush()
  _name_parts(folder, parts, total)


def _name_parts(folder: pathlib.Path, parts: list[list[str]], total: int) -> None:
  """Gives the written parts their final names, known only now that their number is."""
  if len(parts) == 1:
    (folder / "part-0.safetensors").rename(folder / SINGLE_FILE)
    return
  weight_map = {}
  for i, names in enumerate(parts):
    file = f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
    (folder / f"part-{i}.safetensors").rename(folder / file)
    weight_map |= dict.fromkeys(names, file)
  index = {"metadata": {"total_size": total}, "weight_map": weight_map}
  (folder / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")

"""Reads and writes `config.json` and safetensors files in Hugging Face's layout, without torch."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lhrm_jax.policy import layout
from lhrm_jax.policy.config import PolicyConfig, RopeScaling
from lhrm_jax.text import model_files, printable

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
FAMILIES = ("qwen2", "qwen3", "llama", "mistral")

_FLOATS = ("F64", "F32", "F16", "BF16")  # of safetensors' names

# transformers' defaults for keys that a family's config.json omits.
_COMMON = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "use_sliding_window": False}
_DEFAULTS = {
  "qwen2": _COMMON | {"num_key_value_heads": 32, "max_position_embeddings": 32768},
  "qwen3": _COMMON | {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
  "llama": _COMMON | {"max_position_embeddings": 2048},
  "mistral": _COMMON
  | {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
}


def read_config(folder: pathlib.Path) -> PolicyConfig:
  """The policy config that `config.json` in `folder` describes.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the architecture, or one of its switches, is not implemented by this policy.
  """
  path = model_files.find(folder, "config.json")
  if path is None:
    raise FileNotFoundError(f"{folder} holds no config.json: is it a Hugging Face model folder?")
  return config_from_json(model_files.read_json(path), where=str(path))


def config_from_json(fields: Mapping[str, Any], where: str = "config.json") -> PolicyConfig:
  """Translates the fields of a `config.json`; see `read_config` for the errors."""
  family = fields.get("model_type")
  if not isinstance(family, str) or family not in FAMILIES:
    raise ValueError(
      f"{where}: model_type={family!r} is not an architecture that this policy implements. "
      f"It implements {', '.join(FAMILIES)} (SmolLM2 and R1-Distill are of these)."
    )
  architectures = fields.get("architectures") or []
  for name in architectures if isinstance(architectures, list) else [architectures]:
    if not str(name).endswith("ForCausalLM"):
      raise ValueError(f"{where}: architecture {name!r} is not a causal language model.")
  fields = {**_DEFAULTS[family], **fields}
  _check_switches(family, fields, where)

  def need(key: str) -> Any:
    if fields.get(key) is None:
      raise ValueError(f"{where} lacks {key!r}, which a {family} model needs.")
    return fields[key]

  kv_heads, head_dim = fields.get("num_key_value_heads"), fields.get("head_dim")
  try:
    return PolicyConfig(
      vocab_size=need("vocab_size"),
      hidden_size=need("hidden_size"),
      intermediate_size=need("intermediate_size"),
      num_layers=need("num_hidden_layers"),
      num_heads=need("num_attention_heads"),
      num_kv_heads=need("num_attention_heads") if kv_heads is None else kv_heads,
      head_dim=0 if head_dim is None else head_dim,
      max_positions=need("max_position_embeddings"),
      rope_theta=_rope_theta(fields, where),
      rope_scaling=_rope_scaling(fields, where),
      rms_norm_eps=need("rms_norm_eps"),
      qkv_bias=family == "qwen2",
      qk_norm=family == "qwen3",
      tie_embeddings=fields["tie_word_embeddings"],
    )
  except ValueError as error:
    raise ValueError(str(error) if where in str(error) else f"{where}: {error}") from error


def _check_switches(family: str, fields: Mapping[str, Any], where: str) -> None:
  """Rejects models that would load but compute something other than what was trained."""
  act = fields.get("hidden_act", "silu")
  if act != "silu":
    raise ValueError(f"{where}: hidden_act={act!r} is not implemented; the feed-forward is SwiGLU.")
  for switch in ("attention_bias", "mlp_bias"):
    if fields.get(switch):
      raise ValueError(f"{where}: {switch}=true is not implemented.")
  qwen = family.startswith("qwen")
  for switch in ("tie_word_embeddings", *(["use_sliding_window"] if qwen else [])):
    if not isinstance(fields[switch], bool):
      raise ValueError(f"{where}: {switch}={fields[switch]!r} must be true or false.")
  if fields.get("quantization_config"):
    raise ValueError(
      f"{where}: quantization_config is not implemented: load the unquantised model or a GGUF file."
    )
  window, positions = fields.get("sliding_window"), fields.get("max_position_embeddings")
  if qwen:
    window = window if fields["use_sliding_window"] else None
  kinds = fields.get("layer_types") or []
  known = ("full_attention",) if window is None else ("full_attention", "sliding_attention")
  unknown = [kind for kind in kinds if kind not in known] if isinstance(kinds, list) else [kinds]
  if unknown:
    raise ValueError(f"{where}: layer_types holds {unknown[0]!r}, which is not implemented.")
  if window is None:
    return
  if not all(isinstance(x, int) for x in (window, positions)) or window < positions:
    raise ValueError(
      f"{where}: sliding_window={window} is not implemented. Set it to null (for Qwen "
      f"use_sliding_window to false) if your sequences are at most {window} tokens long."
    )


def _rope_fields(fields: Mapping[str, Any], where: str) -> Mapping[str, Any]:
  """RoPE's parameters: as in transformers, `rope_scaling` has precedence over `rope_parameters`."""
  name = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
  rope = fields.get(name) or {}
  if not isinstance(rope, Mapping):
    raise ValueError(f"{where}: {name}={str(rope)[:60]!r} should be an object {{...}}.")
  nested = [k for k, v in rope.items() if isinstance(v, Mapping) or k.endswith("_attention")]
  if nested:
    raise ValueError(
      f"{where}: {name} by layer type ({', '.join(nested)}) is not implemented. If all layers have "
      f"the same, put one type's parameters in the place of {name}."
    )
  factor = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
  if factor is not None and factor != 1.0:
    raise ValueError(f"{where}: partial_rotary_factor={factor!r} is not implemented.")
  return rope


def _rope_theta(fields: Mapping[str, Any], where: str) -> float:
  # A null counts as given: transformers fails on it, and 10,000 would be another model.
  return _rope_fields(fields, where).get("rope_theta", fields.get("rope_theta", 10_000.0))


def _rope_scaling(fields: Mapping[str, Any], where: str) -> RopeScaling:
  rope = _rope_fields(fields, where)
  kind = rope.get("rope_type", rope.get("type", "default"))

  def need(key: str, default: Any = None) -> Any:
    value = rope.get(key, default)
    if value is None:
      raise ValueError(f"{where}: RoPE scaling {kind!r} lacks {key!r}.")
    return value

  if kind == "default":
    return RopeScaling()
  if kind == "linear":
    return RopeScaling("linear", need("factor"))
  if kind == "llama3":
    return RopeScaling(
      "llama3",
      need("factor"),
      need("low_freq_factor"),
      need("high_freq_factor"),
      need("original_max_position_embeddings", fields.get("max_position_embeddings")),
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

  Implements `loading.Checkpoint`.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens the files and reads their headers.

    Raises:
      FileNotFoundError: there is no safetensors file, or one that the index names is missing.
      ValueError: a file or the index is damaged or leads out of the folder, or a tensor is in two
        files or not of floating-point numbers.
    """
    from safetensors import SafetensorError, safe_open

    self.where = str(folder)
    self._files: dict[str, pathlib.Path] = {}
    self._shapes: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder):
      try:
        with safe_open(path, framework="numpy") as file:
          for name in file.keys():  # noqa: SIM118 (no dict)
            self._add(name, path, file.get_slice(name))
      except (SafetensorError, OSError) as error:
        raise ValueError(
          f"{path} is damaged or no safetensors file ({error}). Download it again."
        ) from error

  def _add(self, name: str, path: pathlib.Path, tensor: Any) -> None:
    shown = printable(name, 200)
    if name in self._files:
      raise ValueError(f"{self.where}: {shown} stands in {self._files[name].name} and {path.name}.")
    if tensor.get_dtype() not in _FLOATS:
      raise ValueError(
        f"{path}: {shown} is of type {tensor.get_dtype()}: weights are {', '.join(_FLOATS)}."
      )
    self._files[name] = path
    self._shapes[name] = tuple(tensor.get_shape())

  def names(self) -> frozenset[str]:
    return frozenset(self._files)

  def shape(self, name: str) -> tuple[int, ...]:
    return self._shapes[name]

  def read(self, name: str) -> np.ndarray:
    from safetensors import safe_open

    # Reopened for each tensor: pages of a file that stays mapped would accumulate in memory.
    with safe_open(self._files[name], framework="numpy") as file:
      return file.get_tensor(name)


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Files as transformers chooses them: the single one if there is one, else the index's."""
  single = model_files.find(folder, SINGLE_FILE)
  index = model_files.find(folder, INDEX_FILE)
  if single is not None:
    return [single]
  names = [SINGLE_FILE]
  if index is not None:
    weight_map = model_files.read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and name.isprintable() for name in names):
      raise ValueError(
        f"{index} holds no weight_map from tensors to files: fetch it again, or delete it if "
        f"{SINGLE_FILE} holds the weights."
      )
  found = {name: model_files.find(folder, name) for name in sorted(set(names))}
  missing = [name for name, path in found.items() if path is None]
  if missing:
    raise FileNotFoundError(
      f"{folder} lacks {', '.join(missing)}. Weights are read from safetensors files only; a "
      "checkpoint in another format must be converted first."
    )
  return list(found.values())


def write_weights(
  folder: pathlib.Path,
  config: PolicyConfig,
  read: Callable[[layout.Weight, int | None], np.ndarray],
  shard_bytes: int,
) -> None:
  """Writes every tensor of `config`'s model, in files of at most `shard_bytes` where possible.

  Args:
    folder: an existing folder.
    config: config of the policy.
    read: returns our parameter for a weight, of layer `int` or, for `None`, outside the layers;
      called once per tensor. At most one file's tensors are held at a time.
    shard_bytes: size that a file of several tensors does not exceed.
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
  """Renames the written parts to their final names, which hold their number."""
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

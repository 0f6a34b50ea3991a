"""Exports a policy as a folder that transformers and vLLM load directly."""

import dataclasses
import importlib.resources
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax import text
from lhrm_jax.policy import huggingface, layout, lora, peft
from lhrm_jax.policy.config import DTYPES, PolicyConfig

SHARD_BYTES = 4 * 2**30
_PARSER = "hybrid_reasoning_parser.py"


def export_pretrained(
  folder: pathlib.Path | str,
  config: PolicyConfig,
  params: dict[str, Any],
  tokenizer: text.PretrainedTokenizer,
  card: str,
  *,
  dtype: str = "bfloat16",
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes safetensors, `config.json`, the tokenizer with its tags, a model card, vLLM's parser.

  The chat template is the model's own, extended by the choice of mode: `enable_thinking=True` opens
  `<think>`, `False` opens `<no_think>`, and without it the model chooses. Rows of the tables that
  stand for no token are left out. Low-rank adapters are added to their kernels.

  Args:
    folder: folder to write; created where missing, and must hold no weights yet.
    config: config of the policy.
    params: parameters of the policy, in any sharding. With several processes, all must call.
    tokenizer: tokenizer of the policy.
    card: text of `README.md`, before what it says about serving.
    dtype: dtype of the written weights.
    shard_bytes: approximate size of a weight file, and of the weights on the host at a time.

  Raises:
    FileExistsError: the folder holds weights already.
    ValueError: no Hugging Face family computes what `config` does.
  """
  if dtype not in DTYPES:
    raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
  if not isinstance(tokenizer, text.PretrainedTokenizer):
    raise ValueError(
      f"{type(tokenizer).__name__} is not a tokenizer that transformers can load: only policies "
      "that started from a pretrained model can be exported."
    )
  config, params = lora.merge(config, params)
  fields = huggingface.config_to_json(config)
  folder = _new_folder(folder)
  fields["dtype"] = fields["torch_dtype"] = dtype
  fields |= {"eos_token_id": list(tokenizer.eos_ids), "pad_token_id": tokenizer.pad_id}
  fields |= {"bos_token_id": tokenizer.bos_id}  # a Llama's would default to 1
  _describe(folder, "config.json", fields, tokenizer, card + _read("serving.md"))
  (folder / _PARSER).write_text(_read(_PARSER), encoding="utf-8")

  tokens = config.logit_vocab_size or config.vocab_size
  stored = dataclasses.replace(config, vocab_size=tokens, logit_vocab_size=0)

  def read(weight: layout.Weight, index: int | None) -> np.ndarray:
    leaf = _leaf(config, params, weight, index)
    if weight.name in (layout.EMBEDDING, layout.HEAD):
      leaf = leaf[:tokens]
    return weight.to_stored(_to_host(leaf).astype(jnp.dtype(dtype)))

  huggingface.write_weights(folder, stored, read, shard_bytes)
  _make_readable(folder)


def export_adapter(
  folder: pathlib.Path | str,
  config: PolicyConfig,
  params: dict[str, Any],
  tokenizer: text.PretrainedTokenizer,
  card: str,
  base: str,
) -> None:
  """Writes low-rank adapters in PEFT's format, in float32, with the tokenizer and a model card.

  They belong to the model that training started from, with its table grown to the tokenizer:
  `model.resize_token_embeddings(len(tokenizer))` before `PeftModel.from_pretrained(model, folder)`.

  Args:
    folder: see `export_pretrained`.
    config: config of a policy with adapters.
    params: see `export_pretrained`.
    tokenizer: see `export_pretrained`.
    card: text of `README.md`.
    base: the model that they belong to, by name or folder.

  Raises:
    FileExistsError: the folder holds weights already.
    ValueError: the policy has no adapters.
  """
  from safetensors.numpy import save_file

  if not config.lora_rank:
    raise ValueError("the policy has no adapters (policy.lora_rank=0): export the whole model.")
  folder = _new_folder(folder)
  fields, tensors = peft.config_to_json(config, base), {}
  for name, leaf in peft.tensors(config, params):
    tensors[name] = np.ascontiguousarray(_to_host(leaf).astype(np.float32))
  _describe(folder, "adapter_config.json", fields, tokenizer, card)
  save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
  _make_readable(folder)


def _new_folder(folder: pathlib.Path | str) -> pathlib.Path:
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  if next(folder.glob("*.safetensors"), None):
    raise FileExistsError(f"{folder} holds weights already: name an empty folder.")
  return folder


def _describe(
  folder: pathlib.Path, name: str, fields: dict[str, Any], tokenizer: text.PretrainedTokenizer,
  card: str,
) -> None:  # fmt: skip
  """Writes the config `name`, the tokenizer with the choice of mode, and the model card."""
  (folder / name).write_text(json.dumps(fields, indent=2), encoding="utf-8")
  tokenizer.with_template(text.chat.hybrid_template(tokenizer.chat_template)).save(folder)
  (folder / "README.md").write_text(card, encoding="utf-8")


def _make_readable(folder: pathlib.Path) -> None:
  """Lets others read the weights: the safetensors library makes files for their owner alone."""
  for path in folder.glob("*.safetensors"):
    path.chmod((folder / "README.md").stat().st_mode)


def _read(name: str) -> str:
  return (importlib.resources.files("lhrm_jax.policy") / "export_files" / name).read_text("utf-8")


def _leaf(
  config: PolicyConfig, params: dict[str, Any], weight: layout.Weight, index: int | None
) -> jax.Array:
  """A parameter of one layer, from either layout, or one outside the layers."""
  path = weight.path
  if index is not None:
    path = ("layers" if config.scan_layers else f"layer_{index}", *path)
  node: Any = params
  for key in path:
    node = node[key]
  return node[index] if index is not None and config.scan_layers else node


def _to_host(leaf: jax.Array) -> np.ndarray:
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
  return np.asarray(leaf)

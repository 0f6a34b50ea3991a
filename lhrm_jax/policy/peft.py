"""Low-rank adapters in the format of PEFT (https://huggingface.co/docs/peft)."""

from collections.abc import Iterator
from typing import Any

from jax import Array

from lhrm_jax.policy import layout
from lhrm_jax.policy.config import PolicyConfig

_PREFIX = "base_model.model."
_TABLES = {"embedding_rows": "model.embed_tokens", "head_rows": "lm_head"}


def config_to_json(config: PolicyConfig, base: str) -> dict[str, Any]:
  """The `adapter_config.json` of a policy with adapters.

  Args:
    config: config of the policy.
    base: the model that the adapters belong to.
  """
  tables = [name.rpartition(".")[2] for name in _TABLES.values()]
  trained = tables[:1] if config.tie_embeddings else tables
  return {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "inference_mode": True,
    "r": config.lora_rank,
    "lora_alpha": config.lora_alpha,
    "lora_dropout": 0.0,
    "bias": "none",
    "fan_in_fan_out": False,
    "target_modules": [f"{name}_proj" for name in config.lora_targets.split(",")],
    "trainable_token_indices": {table: list(config.lora_tokens) for table in trained},
  }


def tensors(config: PolicyConfig, params: dict[str, Any]) -> Iterator[tuple[str, Array]]:
  """Yields name and value of each tensor of `adapter_model.safetensors`."""
  for name, table in _TABLES.items():
    if name in params:
      yield f"{_PREFIX}{table}.token_adapter.trainable_tokens_delta", params[name]
  for weight in layout.layer_weights(config):
    *path, leaf = weight.path
    if leaf != "kernel" or not config.adapter(path[-1])[0]:
      continue
    for index in range(config.num_layers):
      node = params["layers" if config.scan_layers else f"layer_{index}"]
      for key in path:
        node = node[key]
      a, b = (node[x][index] if config.scan_layers else node[x] for x in ("lora_a", "lora_b"))
      name = _PREFIX + layout.layer_name(index, weight.name).removesuffix(".weight")
      yield f"{name}.lora_A.weight", a.reshape(-1, config.lora_rank).T
      yield f"{name}.lora_B.weight", b.reshape(config.lora_rank, -1).T

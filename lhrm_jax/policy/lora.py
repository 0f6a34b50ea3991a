"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) within the tree of parameters.

A projection with an adapter holds `lora_a [*in, r]` and `lora_b [r, *out]` beside its frozen
kernel, and adds `alpha / r * x a b`. The rows of the tags in the tables are trained too, as
`embedding_rows` and `head_rows`: new tags start with equal rows, and no projection could tell them
apart.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.policy.config import PolicyConfig

Params = dict[str, Any]

_TABLES = {"embedding_rows": "embedding", "head_rows": "head"}
_TRAINED = ("lora_a", "lora_b", *_TABLES)


def split(tree: Params) -> tuple[Params, Params]:
  """Splits parameters, or a tree like them, into those that are trained and the frozen ones.

  Without adapters, everything is trained.
  """
  trained = _keep(tree, True)
  return (trained, _keep(tree, False)) if trained else (tree, {})


def join(trained: Params, frozen: Params) -> Params:
  """Joins what `split` took apart; shares the arrays."""
  if not frozen:
    return trained
  both = trained.keys() & frozen.keys()
  return {**frozen, **trained, **{key: join(trained[key], frozen[key]) for key in both}}


def _keep(tree: Params, adapters: bool) -> Params:
  """The part of a tree with adapters, or without; empty branches are left out."""
  found = {}
  for key, node in tree.items():
    if isinstance(node, dict):
      if inner := _keep(node, adapters):
        found[key] = inner
    elif (key in _TRAINED) == adapters:
      found[key] = node
  return found


def merge(config: PolicyConfig, params: Params) -> tuple[PolicyConfig, Params]:
  """Adds the adapters to their kernels, in float32; returns a policy without adapters."""
  if not config.lora_rank:
    return config, params
  default = PolicyConfig.__dataclass_fields__
  names = ("lora_rank", "lora_alpha", "lora_targets", "lora_tokens")
  plain = dataclasses.replace(config, **{name: default[name].default for name in names})
  return plain, _merge(config, params)


@functools.partial(jax.jit, static_argnums=0)
def _merge(config: PolicyConfig, params: Params) -> Params:
  def product(a: Array, b: Array) -> Array:
    rank = b.shape[0]
    flat = jnp.matmul(a.reshape(-1, rank), b.reshape(rank, -1), precision="highest")
    return flat.reshape(*a.shape[:-1], *b.shape[1:])

  def of_node(node: Params) -> Params:
    found = {}
    for key, x in node.items():
      if isinstance(x, dict):
        found[key] = of_node(x)
      elif key not in _TRAINED:
        found[key] = x.astype(jnp.float32)
    if "lora_a" in node:
      delta = jax.vmap(product) if config.scan_layers else product
      scale = config.lora_alpha / config.lora_rank
      found["kernel"] += scale * delta(node["lora_a"], node["lora_b"])
    return found

  merged, ids = of_node(params), jnp.array(config.lora_tokens, jnp.int32)
  for rows, table in _TABLES.items():
    if rows in params:
      merged[table] = merged[table].at[ids].set(params[rows])
  return merged

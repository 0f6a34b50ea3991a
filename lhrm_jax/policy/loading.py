"""Builds our parameters from a checkpoint, one tensor at a time, straight into their shardings."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from lhrm_jax.policy import layout
from lhrm_jax.policy.config import PolicyConfig
from lhrm_jax.text import printable


class Checkpoint(Protocol):
  """Tensors under Hugging Face's names and in its layout, from any source.

  Attributes:
    where: the source, for messages.
  """

  where: str

  def names(self) -> frozenset[str]:
    """Names of all tensors."""
    ...

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor, without reading it."""
    ...

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor, in any floating dtype, and keeps no reference to it."""
    ...


@dataclasses.dataclass(frozen=True)
class TableRows:
  """Growth of an embedding table, or a head, beyond its checkpoint.

  Attributes:
    trained: number of rows whose mean initialises the new tokens.
    new_ids: ids of the new tokens, within the checkpoint's table or beyond it.
    total: number of rows of the grown table; those without a token are zero.
  """

  trained: int
  new_ids: tuple[int, ...]
  total: int

  def grow(self, table: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Grows a stored table `[rows, d]` to `[total, d]`."""
    if self.total == len(table) and not self.new_ids:
      return table
    grown = np.zeros((self.total, table.shape[1]), dtype)
    grown[: len(table)] = table
    if self.new_ids:
      with np.errstate(invalid="ignore", over="ignore"):  # reported by `_cast`
        grown[list(self.new_ids)] = table[: self.trained].mean(axis=0, dtype=np.float32)
    return grown


def check_tensors(config: PolicyConfig, checkpoint: Checkpoint) -> None:
  """Compares a checkpoint's names and shapes with those of `config`.

  Raises:
    ValueError: a tensor is missing, unexpected or of another shape; all are named.
  """
  if config.num_layers > len(checkpoint.names()):  # before a list of millions of names is made
    raise ValueError(
      f"{checkpoint.where}: the config says {config.num_layers} layers, the weights are "
      f"{len(checkpoint.names())} tensors."
    )
  expected = dict(layout.stored_shapes(config))
  found = {name for name in checkpoint.names() if not _is_derived(name, config)}
  problems = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - found)]
  problems += [f"unexpected {name}" for name in sorted(found - expected.keys())]
  for name in sorted(found & expected.keys()):
    shape = checkpoint.shape(name)
    if shape != expected[name]:
      problems.append(f"{name} is {shape}, expected {expected[name]}")
  if problems:
    shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
    raise ValueError(
      f"{checkpoint.where} doesn't hold the tensors its config asks for: "
      f"{printable('; '.join(shown))}."
    )


def with_stored_head(config: PolicyConfig, checkpoint: Checkpoint) -> PolicyConfig:
  """The config, with an untied head if the checkpoint holds one that differs from its embedding.

  As in transformers, the tensors have precedence over `tie_word_embeddings`.
  """
  if not config.tie_embeddings or not {layout.EMBEDDING, layout.HEAD} <= checkpoint.names():
    return config
  if checkpoint.shape(layout.EMBEDDING) == checkpoint.shape(layout.HEAD):
    embedding, head = (checkpoint.read(name) for name in (layout.EMBEDDING, layout.HEAD))
    if np.array_equal(embedding, head):
      return config
  return dataclasses.replace(config, tie_embeddings=False)


def _cast(weight: np.ndarray, dtype: np.dtype, checkpoint: Checkpoint, name: str) -> np.ndarray:
  """A weight in the parameters' dtype.

  Raises:
    ValueError: a value is NaN or infinite: one poisons every logit.
  """
  with np.errstate(invalid="ignore", over="ignore"):
    values = np.asarray(weight, dtype)
    # Extremes instead of a mask: no second array as large as the tensor.
    finite = not values.size or (np.isfinite(values.min()) and np.isfinite(values.max()))
  if not finite:
    raise ValueError(
      f"{checkpoint.where}: {name} holds NaN or infinite weights: the file is damaged, or its "
      "training had diverged."
    )
  return values


def _is_derived(name: str, config: PolicyConfig) -> bool:
  """Whether a tensor is one that older writers stored although the config implies it."""
  tied_head = config.tie_embeddings and name == layout.HEAD
  return tied_head or name.endswith("rotary_emb.inv_freq")


def build_params(
  config: PolicyConfig,
  checkpoint: Checkpoint,
  rows: TableRows,
  dtype: str,
  shardings: Any | None = None,
) -> dict[str, Any]:
  """Reads every tensor of `checkpoint` into a tree like `policy.init`'s.

  The host holds its own shards of the result and one more tensor at a time: a stacked parameter is
  allocated on its devices and filled in place, layer by layer.

  Args:
    config: config with the grown `vocab_size`; `scan_layers` decides the layout.
    checkpoint: a checkpoint that passed `check_tensors`.
    rows: growth of the tables.
    dtype: dtype of the parameters.
    shardings: tree like the parameters with a `Sharding` at each leaf; `None` puts everything on
      the first device.

  Returns:
    Nested dict of arrays.

  Raises:
    ValueError: a weight is NaN or infinite, or becomes so in `dtype`.
  """
  dtype = jnp.dtype(dtype)
  params: dict[str, Any] = {}

  def sharding_of(path: tuple[str, ...]) -> Sharding:
    if shardings is None:
      return SingleDeviceSharding(jax.devices()[0])
    node = shardings
    for key in path:
      node = node[key]
    return node

  for weight in layout.outer_weights(config):
    stored = checkpoint.read(weight.name)
    if weight.name in (layout.EMBEDDING, layout.HEAD):
      stored = rows.grow(stored, dtype)
    value = _cast(weight.from_stored(stored), dtype, checkpoint, weight.name)
    _insert(params, weight.path, _put(value, sharding_of(weight.path)))
  for weight in layout.layer_weights(config):

    def read(index: int, weight: layout.Weight = weight) -> np.ndarray:
      name = layout.layer_name(index, weight.name)
      return _cast(weight.from_stored(checkpoint.read(name)), dtype, checkpoint, name)

    if config.scan_layers:
      path = ("layers", *weight.path)
      shape = (config.num_layers, *weight.shape)
      _insert(params, path, _stack(read, shape, dtype, sharding_of(path)))
    else:
      for index in range(config.num_layers):
        path = (f"layer_{index}", *weight.path)
        _insert(params, path, _put(read(index), sharding_of(path)))
  return params


def _insert(tree: dict[str, Any], path: tuple[str, ...], leaf: Array) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = leaf


def _put(value: np.ndarray, sharding: Sharding) -> Array:
  """Places `value` on the devices of `sharding`; each receives its own shard only."""
  # Contiguous: JAX would copy a transposed view again for every shard.
  value = np.ascontiguousarray(value)
  return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _stack(
  read: Callable[[int], np.ndarray],
  shape: tuple[int, ...],
  dtype: np.dtype,
  sharding: Sharding,
) -> Array:
  """A parameter of shape `[L, ...]` whose layers come from `read(0), ..., read(L - 1)`."""
  empty, write = _stack_programs(shape, dtype, sharding)
  filled = empty()
  one_layer = sharding
  if isinstance(sharding, NamedSharding):
    one_layer = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
  for index in range(shape[0]):
    filled = write(filled, _put(read(index), one_layer), index)
    filled.block_until_ready()  # else the host runs ahead with every layer it read still in memory
  return filled


@functools.lru_cache(maxsize=64)  # a second model of the same sizes compiles nothing
def _stack_programs(shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding):
  """Makes an empty stack, and one with a layer written in place (the argument is donated)."""
  empty = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)
  write = jax.jit(
    lambda stack, layer, index: jax.lax.dynamic_update_index_in_dim(stack, layer, index, 0),
    donate_argnums=0,
    out_shardings=sharding,
  )
  return empty, write

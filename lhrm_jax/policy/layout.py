"""Maps the tensors of a Hugging Face checkpoint to our tree of parameters, and back.

One table serves import, export and GGUF files. A checkpoint stores a linear map as `[out, in]` with
the heads folded into one axis; ours has an axis for each.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from lhrm_jax.policy.config import PolicyConfig

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class Weight:
  """One tensor of a checkpoint and its place in the tree.

  Attributes:
    name: name in the checkpoint; of a layer's tensor without `model.layers.N.`.
    path: path in our tree; of a layer's parameter without the layer's key.
    split: shape of the stored tensor with the heads unfolded.
    axes: axis of `split` that each of our axes is.
    stored_shape: shape of the tensor in the checkpoint.
  """

  name: str
  path: tuple[str, ...]
  split: tuple[int, ...]
  axes: tuple[int, ...]
  stored_shape: tuple[int, ...]

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of our parameter, without a stack's leading axis."""
    return tuple(self.split[axis] for axis in self.axes)

  def from_stored(self, stored: np.ndarray) -> np.ndarray:
    """A view of a stored tensor in our layout."""
    return stored.reshape(self.split).transpose(self.axes)

  def to_stored(self, ours: np.ndarray) -> np.ndarray:
    """Our parameter in the checkpoint's layout."""
    return ours.transpose(np.argsort(self.axes)).reshape(self.stored_shape)


def outer_weights(config: PolicyConfig) -> tuple[Weight, ...]:
  """The tensors outside the layers: embedding, final norm and, where untied, the head."""
  table = (config.vocab_size, config.hidden_size)
  weights = [
    _weight(EMBEDDING, "embedding", table),
    _weight("model.norm.weight", "final_norm/scale", (config.hidden_size,)),
  ]
  if not config.tie_embeddings:
    weights.append(_weight(HEAD, "head", table))
  return tuple(weights)


def layer_weights(config: PolicyConfig) -> tuple[Weight, ...]:
  """The tensors of one decoder block."""
  c = config
  d, f, h, w = c.hidden_size, c.intermediate_size, c.num_heads, c.head_dim
  weights = [
    _weight("input_layernorm.weight", "attention_norm/scale", (d,)),
    _weight("post_attention_layernorm.weight", "mlp_norm/scale", (d,)),
    _weight("self_attn.o_proj.weight", "attention/o/kernel", (d, h, w), (1, 2, 0), lead=1),
    _weight("mlp.gate_proj.weight", "mlp/gate/kernel", (f, d), (1, 0)),
    _weight("mlp.up_proj.weight", "mlp/up/kernel", (f, d), (1, 0)),
    _weight("mlp.down_proj.weight", "mlp/down/kernel", (d, f), (1, 0)),
  ]
  for x, n in {"q": h, "k": c.num_kv_heads, "v": c.num_kv_heads}.items():
    name, path = f"self_attn.{x}_proj", f"attention/{x}"
    weights.append(_weight(f"{name}.weight", f"{path}/kernel", (n, w, d), (2, 0, 1), lead=2))
    if c.qkv_bias:
      weights.append(_weight(f"{name}.bias", f"{path}/bias", (n, w), lead=2))
  if c.qk_norm:
    for x in "qk":
      weights.append(_weight(f"self_attn.{x}_norm.weight", f"attention/{x}_norm/scale", (w,)))
  return tuple(weights)


def layer_name(index: int, name: str) -> str:
  """The full name of a layer's tensor in a checkpoint."""
  return f"model.layers.{index}.{name}"


def stored_shapes(config: PolicyConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
  """Name and shape of every tensor that a checkpoint of `config` holds."""
  for weight in outer_weights(config):
    yield weight.name, weight.stored_shape
  for index in range(config.num_layers):
    for weight in layer_weights(config):
      yield layer_name(index, weight.name), weight.stored_shape


def _weight(
  name: str,
  path: str,
  split: tuple[int, ...],
  axes: tuple[int, ...] | None = None,
  lead: int | None = None,
) -> Weight:
  """A `Weight` whose checkpoint folds `split[:lead]` into one axis and the rest into another."""
  stored = split
  if lead is not None:
    folded = (math.prod(split[:lead]), math.prod(split[lead:]))
    stored = folded if lead < len(split) else folded[:1]
  return Weight(name, tuple(path.split("/")), split, axes or tuple(range(len(split))), stored)

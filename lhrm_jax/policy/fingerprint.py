"""A short name for a policy's parameters: equal parameters, equal name, on any mesh."""

import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def fingerprint(params: dict[str, Any]) -> str:
  """16 hexadecimal digits that change with any bit of the parameters.

  Each array becomes a weighted sum of its bits modulo 2^32. Whole numbers add up to the same in any
  order, so neither the devices nor the way they share the arrays out matter.
  """
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(_sums(params)))
  named = sorted((jax.tree_util.keystr(path), int(value)) for path, value in leaves)
  return hashlib.sha256(repr(named).encode()).hexdigest()[:16]


@jax.jit
def _sums(params: Any) -> Any:
  return jax.tree.map(_weighted_bits, params)


def _weighted_bits(x: Array) -> Array:
  bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
  # Each entry's place in the array, by axis: a reshape would gather what devices share.
  place = jnp.zeros((), jnp.uint32)
  for axis in range(x.ndim):
    stride = jnp.uint32(math.prod(x.shape[axis + 1 :]) % 2**32)
    place += stride * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)

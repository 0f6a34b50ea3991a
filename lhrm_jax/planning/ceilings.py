"""What one device can do at most: its datasheet's rates, or measured ones."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lhrm_jax.planning.chips import CHIPS


@dataclasses.dataclass(frozen=True)
class Ceilings:
  """What one device can do at most.

  Attributes:
    flops: FLOP/s of matrix products in the dtype asked for.
    bandwidth: bytes/s to and from its memory.
    source: "datasheet", or "measured" here by a matrix product and a copy.
  """

  flops: float
  bandwidth: float
  source: str

  def seconds(self, flops: float, moved: float) -> float:
    """Roofline: the least time for so many operations and bytes (doi:10.1145/1498765.1498785)."""
    return max(flops / self.flops, moved / self.bandwidth)


# Dense bf16 FLOP/s and bytes/s of memory by the start of jax's `device_kind`, from the makers'
# datasheets. The longest matching name wins.
DATASHEETS = {
  "NVIDIA A100-SXM4-40GB": (312e12, 1.555e12),
  "NVIDIA A100": (312e12, 2.039e12),
  "NVIDIA H100 PCIe": (756e12, 2.0e12),
  "NVIDIA H100 NVL": (835e12, 3.9e12),
  "NVIDIA H100": (989.4e12, 3.35e12),
  "NVIDIA H200": (989.4e12, 4.8e12),
  **{
    kind: (CHIPS[name].flops, CHIPS[name].bandwidth)
    for kind, name in {
      "TPU v4": "v4",
      "TPU v5 lite": "v5e",
      "TPU v5e": "v5e",
      "TPU v5": "v5p",
      "TPU v6 lite": "v6e",
      "TPU v6e": "v6e",
    }.items()
  },
}


def ceilings(dtype: str, device: jax.Device | None = None) -> Ceilings:
  """Ceilings of a device: its datasheet's where we know it, else measured, once per process."""
  device = device or jax.devices()[0]
  names = [name for name in DATASHEETS if device.device_kind.startswith(name)]
  if not names:
    return _measured_ceilings(dtype)
  flops, bandwidth = DATASHEETS[max(names, key=len)]
  # JAX multiplies float32 matrices in TF32 on NVIDIA, at half the rate; on TPU as bfloat16.
  half = dtype == "float32" and device.platform == "gpu"
  return Ceilings(flops / 2 if half else flops, bandwidth, "datasheet")


@functools.cache
def _measured_ceilings(dtype: str) -> Ceilings:
  return Ceilings(measured_peak_flops(dtype), measured_bandwidth(), "measured")


def measured_peak_flops(dtype: str, size: int = 1024) -> float:
  """FLOP/s of a square matrix product on the default device; the best of a few timings."""
  x = jnp.ones((size, size), jnp.dtype(dtype))
  products = 4
  multiply = jax.jit(lambda x: jax.lax.fori_loop(0, products, lambda _, y: (y @ x) / size, x))
  return products * 2 * size**3 / _best_seconds(lambda _: multiply(x))


def measured_bandwidth(megabytes: int = 256) -> float:
  """Bytes/s of reading an array too large for any cache and writing it back, changed."""
  x = jnp.zeros(megabytes * 2**20 // 4, jnp.float32)
  moved = 2 * x.nbytes
  # Donated: on a CPU, fresh pages for a new result would cost several times the copy.
  return moved / _best_seconds(jax.jit(lambda x: x + 1, donate_argnums=0), x)


def _best_seconds(fn: Callable[[Any], jax.Array], x: Any = None, repeats: int = 3) -> float:
  """The shortest of a few calls after the first, each given what the one before returned."""
  x = fn(x).block_until_ready()
  best = float("inf")
  for _ in range(repeats):
    start = time.perf_counter()
    x = fn(x).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return best


def all_devices(one: Ceilings) -> Ceilings:
  """Ceilings of all devices together. Virtual CPU devices share one machine, measured whole."""
  shared = jax.devices()[0].platform == "cpu"
  count = jax.process_count() if shared else jax.device_count()
  return Ceilings(count * one.flops, count * one.bandwidth, one.source)

"""Peak rates of a device: its datasheet's, or measured ones."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lhrm_jax.planning.chips import chip_of


@dataclasses.dataclass(frozen=True)
class Ceilings:
  """Peak rates of one device, or of several together.

  Attributes:
    flops: FLOP/s of matrix products in the dtype asked for.
    bandwidth: bytes/s to and from memory.
    source: "datasheet", or "measured" here by a matrix product and a copy.
  """

  flops: float
  bandwidth: float
  source: str

  def seconds(self, flops: float, moved: float) -> float:
    """Roofline: least time for these FLOPs and bytes (doi:10.1145/1498765.1498785)."""
    return max(flops / self.flops, moved / self.bandwidth)


def ceilings(dtype: str, device: jax.Device | None = None) -> Ceilings:
  """Ceilings of a device: its datasheet's if there is one, else measured, once per process."""
  device = device or jax.devices()[0]
  chip = chip_of(device.device_kind)
  if chip is None:
    return _measured_ceilings(dtype)
  # JAX multiplies float32 matrices in TF32 on NVIDIA, at half the rate; on TPU as bfloat16.
  half = dtype == "float32" and device.platform == "gpu"
  return Ceilings(chip.flops / 2 if half else chip.flops, chip.bandwidth, "datasheet")


@functools.cache
def _measured_ceilings(dtype: str) -> Ceilings:
  return Ceilings(measured_peak_flops(dtype), measured_bandwidth(), "measured")


def measured_peak_flops(dtype: str, size: int = 1024) -> float:
  """FLOP/s of a square matrix product on the default device, the best of a few runs."""
  x = jnp.ones((size, size), jnp.dtype(dtype))
  products = 4
  multiply = jax.jit(lambda x: jax.lax.fori_loop(0, products, lambda _, y: (y @ x) / size, x))
  return products * 2 * size**3 / _best_seconds(lambda _: multiply(x))


def measured_bandwidth(megabytes: int = 256) -> float:
  """Bytes/s of reading an array too large for any cache and writing it back changed."""
  x = jnp.zeros(megabytes * 2**20 // 4, jnp.float32)
  moved = 2 * x.nbytes
  # Donated: on a CPU, fresh pages for a new result would cost several times the copy.
  return moved / _best_seconds(jax.jit(lambda x: x + 1, donate_argnums=0), x)


def _best_seconds(fn: Callable[[Any], jax.Array], x: Any = None, repeats: int = 3) -> float:
  """Seconds of the fastest of `repeats` warm calls, each given the result of the one before."""
  x = fn(x).block_until_ready()
  best = float("inf")
  for _ in range(repeats):
    start = time.perf_counter()
    x = fn(x).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return best


def all_devices(one: Ceilings) -> Ceilings:
  """Ceilings of all devices of the job. Virtual CPU devices share one machine, measured whole."""
  shared = jax.devices()[0].platform == "cpu"
  count = jax.process_count() if shared else jax.device_count()
  return Ceilings(count * one.flops, count * one.bandwidth, one.source)

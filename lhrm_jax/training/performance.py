"""Instruments: seconds per part of a step, compilations, throughput, utilisation."""

import collections
import contextlib
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from lhrm_jax.sampling import Rollouts

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Stopwatch:
  """Adds up wall seconds by name. Dispatch is asynchronous: block before leaving a block."""

  def __init__(self):
    self._seconds: dict[str, float] = collections.defaultdict(float)

  @contextlib.contextmanager
  def time(self, name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
      yield
    finally:
      self._seconds[name] += time.perf_counter() - start

  def take(self) -> dict[str, float]:
    """Seconds by name since the last call."""
    seconds = dict(self._seconds)
    self._seconds.clear()
    return seconds


class CompileCounter:
  """Counts the programs XLA has been asked to compile in this process since it was made."""

  def __init__(self):
    self.count = 0
    jax.monitoring.register_event_duration_secs_listener(self._on_event)

  def _on_event(self, event: str, _seconds: float, **_) -> None:
    if event == _COMPILE_EVENT:
      self.count += 1


def measured_peak_flops(dtype: str, size: int = 1024) -> float:
  """FLOP/s of a square matrix product on the default device: the ceiling that MFU is held against.

  The best of three timings of a few chained products, in under a second on a laptop.
  """
  x = jnp.ones((size, size), jnp.dtype(dtype))
  products = 4
  multiply = jax.jit(lambda x: jax.lax.fori_loop(0, products, lambda _, y: (y @ x) / size, x))
  multiply(x).block_until_ready()
  best = float("inf")
  for _ in range(3):
    start = time.perf_counter()
    multiply(x).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return products * 2 * size**3 / best


def model_flops(params: int, forward_tokens: int, trained_tokens: int) -> float:
  """FLOPs of the model's own arithmetic: 2 per parameter and token forward, 6 with the backward."""
  return 2.0 * params * forward_tokens + 6.0 * params * trained_tokens


class Instruments:
  """What an HGPO step cost.

  Attributes:
    clock: seconds by part of the step.
    compiles: programs compiled since the start.
  """

  def __init__(self, params: int, dtype: str):
    """Args:
    params: parameters of the policy.
    dtype: it computes in; the ceiling of MFU is a matrix product in it, measured here.
    """
    self._params, self._peak = params, measured_peak_flops(dtype)
    self.clock, self.compiles = Stopwatch(), CompileCounter()

  def take(self, rollouts: Rollouts, updates: int, seconds: float) -> dict[str, float]:
    """Metrics of one step.

    Args:
      rollouts: of the step, on the host. Each prompt counts once, as it is computed.
      updates: made from them.
      seconds: the step took.
    """
    responses = int(rollouts.lengths.sum())
    tokens = responses + int(rollouts.prompts.lengths.sum())
    # Forward in sampling and for the reference; forward and backward in every update.
    flops = model_flops(self._params, 2 * tokens, updates * tokens)
    return {
      **{f"time/{name}": value for name, value in self.clock.take().items()},
      "perf/tokens_per_second": responses / seconds,
      "perf/mfu": flops / seconds / self._peak,
      "perf/compiles": self.compiles.count,
    }

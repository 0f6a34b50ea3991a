"""Instruments: seconds per part of a step, compilations, throughput, utilisation, profiles."""

import collections
import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax.parallel.chips import CHIPS
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import Rollouts

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"

# Parts of a step in which the host waits for the device; in the others the device idles.
DEVICE_PARTS = ("rollout", "logprob", "update")


@dataclasses.dataclass(frozen=True)
class Span:
  """A block of time: its name, and when it began and ended, in seconds."""

  name: str
  began: float
  ended: float


class Stopwatch:
  """Adds up wall seconds by name. Dispatch is asynchronous: block before leaving a block."""

  def __init__(self):
    self._spans: list[Span] = []

  @contextlib.contextmanager
  def time(self, name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
      yield
    finally:
      self._spans.append(Span(name, start, time.perf_counter()))

  def take(self) -> list[Span]:
    """What was timed since the last call, in the order it ended."""
    spans, self._spans = self._spans, []
    return spans


def seconds_by_name(spans: list[Span]) -> dict[str, float]:
  """Seconds of each name, summed."""
  seconds: dict[str, float] = collections.defaultdict(float)
  for span in spans:
    seconds[span.name] += span.ended - span.began
  return dict(seconds)


class CompileCounter:
  """Counts the programs XLA has been asked to compile in this process since it was made.

  Attributes:
    count: programs.
    seconds: spent on them; next to nothing for those found in the compilation cache.
  """

  def __init__(self):
    self.count, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._on_event)

  def _on_event(self, event: str, seconds: float, **_) -> None:
    if event == _COMPILE_EVENT:
      self.count += 1
      self.seconds += seconds


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


def matrix_params(config: PolicyConfig) -> tuple[int, int]:
  """Parameters that every token is multiplied with: those of all blocks, and those of the head."""
  c = config
  attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads)
  mlp = 3 * c.hidden_size * c.intermediate_size
  return c.num_layers * (attention + mlp), c.vocab_size * c.hidden_size


def forward_flops(config: PolicyConfig, tokens: float, attended: float, predicted: float) -> float:
  """FLOPs of the model's own arithmetic, nothing recomputed and no padding.

  Args:
    config: of the policy.
    tokens: run through the blocks.
    attended: pairs of a token and a token that it sees, summed over tokens.
    predicted: tokens that the head is applied to.
  """
  blocks, head = matrix_params(config)
  attention = 4 * config.num_layers * config.num_heads * config.head_dim
  return 2.0 * blocks * tokens + attention * attended + 2.0 * head * predicted


def rollout_flops(config: PolicyConfig, rollouts: Rollouts) -> float:
  """FLOPs of one forward pass over rollouts on the host, each prompt once (`forward_flops`)."""
  lengths = rollouts.lengths.astype(np.float64)  # [B, M, G]
  prompts = rollouts.prompts.lengths.astype(np.float64)  # [B]
  attended = np.sum(prompts * (prompts + 1) / 2)
  attended += np.sum(lengths * (lengths + 1) / 2 + lengths * prompts[:, None, None])
  return forward_flops(config, lengths.sum() + prompts.sum(), attended, lengths.sum())


def decode_bytes(config: PolicyConfig, rollouts: Rollouts, steps: float) -> float:
  """Bytes that decoding must read: all weights each step, and the keys and values it attends to.

  A prompt's keys and values are read once a step, while any of its responses lives.

  Args:
    config: of the policy.
    rollouts: decoded, on the host.
    steps: forward passes made.
  """
  size = jnp.dtype(config.dtype).itemsize
  lengths = rollouts.lengths.astype(np.float64)
  per_slot = 2 * config.num_layers * config.num_kv_heads * config.head_dim * size
  own = np.sum(lengths * (lengths - 1) / 2)
  shared = np.sum(rollouts.prompts.lengths * lengths.max(axis=(1, 2)))
  return steps * sum(matrix_params(config)) * size + per_slot * (own + shared)


def peak_memory() -> int | None:
  """Most bytes in use at one time on the first device so far; `None` where it does not say."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("peak_bytes_in_use")


class Instruments:
  """What an HGPO step cost.

  Attributes:
    clock: seconds by part of the step.
    compiles: programs compiled since the start.
    timeline: of the step taken last; seconds count from its start.
  """

  def __init__(self, config: PolicyConfig):
    """Args:
    config: of the policy; utilisation is held against what the devices can do in its dtype.
    """
    self._config, self._ceilings = config, all_devices(ceilings(config.dtype))
    self.clock, self.compiles = Stopwatch(), CompileCounter()
    self.timeline: list[Span] = []

  def take(
    self, rollouts: Rollouts, epochs: int, began: float, *, scored_old: bool = False
  ) -> dict[str, float]:
    """Metrics of one step that ends now.

    Args:
      rollouts: of the step, on the host. Each prompt counts once, as it is computed.
      epochs: times that each went through an update.
      began: when the step did, by `time.perf_counter`.
      scored_old: whether the policy that sampled scored them again.
    """
    seconds = time.perf_counter() - began
    spans = self.clock.take()
    self.timeline = [Span(s.name, s.began - began, s.ended - began) for s in spans]
    parts = seconds_by_name(spans)
    # Forward in sampling, for the reference, and for old log-probabilities where they are needed;
    # forward and backward (twice the work) in every update.
    passes = 2 + scored_old + 3 * epochs
    flops = passes * rollout_flops(self._config, rollouts)
    metrics = {
      **{f"time/{name}": value for name, value in parts.items()},
      "time/step": seconds,
      "time/idle_share": 1.0 - sum(parts.get(name, 0.0) for name in DEVICE_PARTS) / seconds,
      "perf/tokens_per_second": float(rollouts.lengths.sum()) / seconds,
      "perf/mfu": flops / seconds / self._ceilings.flops,
      "perf/compiles": self.compiles.count,
      "perf/compile_seconds": self.compiles.seconds,
    }
    if parts.get("rollout"):
      moved = decode_bytes(self._config, rollouts, float(rollouts.lengths.max()))
      metrics["perf/decode_bandwidth_utilisation"] = (
        moved / parts["rollout"] / self._ceilings.bandwidth
      )
    if rollouts.decode_steps is not None and rollouts.decode_steps.any():
      metrics["perf/live_slots"] = float(rollouts.live_slots)
    peak = peak_memory()
    if peak is not None:
      metrics["perf/peak_memory_gib"] = peak / 2**30
    return metrics


class Profiler:
  """Writes a profile of some steps, which XProf and TensorBoard's profile tab open.

  Use as a context manager, and call `step` as each step begins.
  """

  def __init__(self, folder: pathlib.Path | str, steps: str):
    """Args:
    folder: gets `plugins/profile/...`.
    steps: "10:12" for steps 10 and 11, "10" for step 10 alone, "" for none.

    Raises:
      ValueError: `steps` reads otherwise.
    """
    self._folder = str(folder)
    self._steps = parse_steps(steps)
    self._annotation: jax.profiler.StepTraceAnnotation | None = None

  def step(self, step: int) -> None:
    """Step number `step` begins, and the one before it ends."""
    running = self._leave()
    if step in self._steps:
      if not running:
        jax.profiler.start_trace(self._folder)
      self._annotation = jax.profiler.StepTraceAnnotation("step", step_num=step)
      self._annotation.__enter__()
    elif running:
      jax.profiler.stop_trace()

  def __enter__(self) -> "Profiler":
    return self

  def __exit__(self, *_) -> None:
    if self._leave():
      jax.profiler.stop_trace()

  def _leave(self) -> bool:
    """Ends the step that is being profiled, if one is."""
    if self._annotation is None:
      return False
    self._annotation.__exit__(None, None, None)
    self._annotation = None
    return True


def parse_steps(steps: str) -> range:
  """The steps that "10:12", "10" or "" names.

  Raises:
    ValueError: it reads otherwise.
  """
  if not steps:
    return range(0)
  first, _, stop = steps.partition(":")
  try:
    chosen = range(int(first), int(stop) if stop else int(first) + 1)
  except ValueError:
    chosen = range(0)
  if not chosen or chosen.start < 0:
    raise ValueError(
      f"profile_steps={steps!r} names no steps: give the first and the one after the last, as in "
      "10:12, or one step, as in 10."
    )
  return chosen

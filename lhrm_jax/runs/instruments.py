"""Measures seconds per part of a step, compilations, throughput and utilisation; profiles."""

import collections
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import jax

from lhrm_jax.planning.ceilings import all_devices, ceilings
from lhrm_jax.planning.flops import decode_bytes, rollout_flops, update_passes
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import Rollouts

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"

# Over the whole run: what was sampled, replaced queries included, and all FLOPs.
_TOTALS = ("rollout/tokens_total", "rollout/samples_total", "perf/flops_total")
# Parts of a step in which the host waits for the device; in the others the device idles.
DEVICE_PARTS = ("rollout", "logprob", "update")


@dataclasses.dataclass(frozen=True)
class Span:
  """A named interval, with its start and end in seconds."""

  name: str
  began: float
  ended: float


class Stopwatch:
  """Times named blocks. Dispatch is asynchronous: wait for arrays before leaving a block."""

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
    """Returns the spans timed since the last call, in the order they ended."""
    spans, self._spans = self._spans, []
    return spans

  def means(self, steps: int, seconds: float) -> dict[str, float]:
    """Returns seconds per step since the last call, of each block and of the whole step.

    Args:
      steps: number of steps.
      seconds: time that they took.
    """
    parts = seconds_by_name(self.take())
    return {f"time/{name}": total / steps for name, total in {**parts, "step": seconds}.items()}


def seconds_by_name(spans: list[Span]) -> dict[str, float]:
  """Returns the summed seconds of each name."""
  seconds: dict[str, float] = collections.defaultdict(float)
  for span in spans:
    seconds[span.name] += span.ended - span.began
  return dict(seconds)


class CompileCounter:
  """Counts the programs that XLA compiles in this process.

  Attributes:
    count: number of programs.
    seconds: compile time in seconds; close to 0 for programs found in the compilation cache.
  """

  def __init__(self):
    self.count, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._on_event)

  def _on_event(self, event: str, seconds: float, **_) -> None:
    if event == _COMPILE_EVENT:
      self.count += 1
      self.seconds += seconds


def peak_memory() -> int | None:
  """Returns the first device's peak bytes in use so far; `None` where they are not reported."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get("peak_bytes_in_use")


class Instruments:
  """Measures the cost of HGPO steps.

  Attributes:
    clock: stopwatch of the parts of a step.
    compiles: counter of the programs compiled so far.
  """

  def __init__(self, config: PolicyConfig, logged: Sequence[Mapping[str, float]] = ()):
    """Args:
    config: static part of the policy; utilisation is relative to the peak in its dtype.
    logged: metrics of earlier steps of a resumed run, whose totals are continued.
    """
    last = next((row for row in reversed(logged) if _TOTALS[0] in row), {})
    self._totals = {name: last.get(name, 0) for name in _TOTALS}
    self._flops = 0.0  # of the step
    self._config, self._ceilings = config, all_devices(ceilings(config.dtype))
    self.clock, self.compiles = Stopwatch(), CompileCounter()

  def sampled(self, rollouts: Rollouts) -> None:
    """Counts rollouts on the host as sampled, whether or not an update uses them."""
    self._flops += rollout_flops(self._config, rollouts)
    for name, more in zip(_TOTALS, (rollouts.lengths.sum(), rollouts.lengths.size), strict=False):
      self._totals[name] += int(more)

  def take(
    self, rollouts: Rollouts, epochs: int, began: float, *, scored_old: bool = False
  ) -> dict[str, float]:
    """Returns metrics of the step that ends now.

    Args:
      rollouts: rollouts of the update, on the host. Each prompt counts once.
      epochs: number of updates that each went through.
      began: start of the step, by `time.perf_counter`.
      scored_old: whether the trainer scored the rollouts under the sampling policy.
    """
    seconds = time.perf_counter() - began
    parts = seconds_by_name(self.clock.take())
    # Beside sampling, forward for the reference, and for old log-probabilities where they are
    # needed; forward and backward in every update.
    passes = 1 + scored_old + update_passes(self._config) * epochs
    flops = self._flops + passes * rollout_flops(self._config, rollouts)
    self._flops = 0.0
    self._totals[_TOTALS[-1]] += flops
    metrics = {
      **self._totals,
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
  """Writes a profile of some steps, for XProf and TensorBoard's profile tab.

  Use it as a context manager, and call `step` as each step begins.
  """

  def __init__(self, folder: pathlib.Path | str, steps: str):
    """Args:
    folder: folder that `plugins/profile/...` is written into.
    steps: "10:12" for steps 10 and 11, "10" for step 10 alone, "" for none.

    Raises:
      ValueError: `steps` is malformed.
    """
    self._folder = str(folder)
    self._steps = parse_steps(steps)
    self._annotation: jax.profiler.StepTraceAnnotation | None = None

  def step(self, step: int) -> None:
    """Marks the start of step `step` and the end of the one before."""
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
    """Ends the step being profiled, if any; returns whether there was one."""
    if self._annotation is None:
      return False
    self._annotation.__exit__(None, None, None)
    self._annotation = None
    return True


def parse_steps(steps: str) -> range:
  """Parses "10:12", "10" or "" into a range of steps.

  Raises:
    ValueError: it is malformed.
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
      f"profile_steps={steps!r} names no steps: give the first step and the one after the last, as "
      "in 10:12, or one step, as in 10."
    )
  return chosen

"""JAX's platform, and how it compiles there."""

import importlib.metadata
import os
from collections.abc import MutableMapping
from importlib.util import find_spec

import jax

_FEW_CORES = 4
_PARTS = "xla_cpu_parallel_codegen_split_count"
_MERGED = "xla_gpu_dot_merger_threshold_mb"


def settle_platform(environment: MutableMapping[str, str] = os.environ) -> None:
  """Keeps JAX to the CPU where there is nothing else, and sets how XLA compiles for CPU or GPU.

  libtpu is installed on machines without TPU chips as the compiler of `experiments.plan`; started
  there, it only logs errors. JAX looks for chips when it is imported and, where it sees some, sets
  `jax_platforms` itself; that, JAX_PLATFORMS and JAX_FORCE_TPU_INIT are respected. On a machine
  with another JAX plug-in (a GPU's) JAX chooses. Call before anything touches a device.
  """
  chosen, others = jax.config.jax_platforms, _other_plugins()
  if not chosen and "JAX_FORCE_TPU_INIT" not in environment and not others:
    chosen = "cpu"
    if find_spec("libtpu"):
      jax.config.update("jax_platforms", chosen)
  flags = environment.get("XLA_FLAGS", "").strip()
  if flags and not flags.startswith("-"):
    return  # a file that holds them
  # XLA cuts a program into 32 parts and compiles them in parallel, for which a few cores only pay:
  # on two, the programs of a small policy's first step took 37 s so, and 26 in one part.
  if chosen == "cpu" and _cores() <= _FEW_CORES:
    _set(environment, _PARTS, 1)
  # XLA multiplies by gate and up at once, and to do so concatenates them for every token that is
  # decoded: on an H100, 34 of a layer's 160 us.
  if others:
    _set(environment, _MERGED, 0)


def _set(environment: MutableMapping[str, str], name: str, value: int) -> None:
  """Adds a flag to XLA's, unless the user has set it."""
  flags = environment.get("XLA_FLAGS", "")
  if f"--{name}" not in flags:
    environment["XLA_FLAGS"] = f"{flags} --{name}={value}".strip()


def _cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # not on macOS
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _other_plugins() -> bool:
  """Whether a JAX plug-in is installed; libtpu is not one, JAX knows it by name."""
  found = find_spec("jax_plugins") is not None
  return found or bool(importlib.metadata.entry_points(group="jax_plugins"))

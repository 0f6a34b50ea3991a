"""Shared by all benchmarks: timing, description of the machine, rooflines, JSON output."""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax import parallel, policy
from lhrm_jax.planning.ceilings import Ceilings, ceilings
from lhrm_jax.planning.flops import matrix_params
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import Prompts, Rollouts
from lhrm_jax.sampling.rollouts import STOPPED

parallel.settle_platform()  # not for the whole package: drivers of other libraries have no jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

# The tiny Qwen2 that all libraries are compared on, and the published shapes that GPUs run.
SHAPES = {
  "tiny": PolicyConfig(
    vocab_size=512, hidden_size=256, intermediate_size=1024, num_layers=4, num_heads=4,
    num_kv_heads=2, qkv_bias=True, scan_layers=False,
  ),
  "qwen2.5-0.5b": PolicyConfig(
    vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_layers=24, num_heads=14,
    num_kv_heads=2, qkv_bias=True, rope_theta=1e6, max_positions=32_768, dtype="bfloat16",
    remat="full",
  ),
  "qwen2.5-1.5b": PolicyConfig(
    vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_layers=28, num_heads=12,
    num_kv_heads=2, qkv_bias=True, rope_theta=1e6, max_positions=131_072, dtype="bfloat16",
    remat="full",
  ),
}  # fmt: skip


def machine(dtype: str = "float32") -> dict[str, Any]:
  """Hardware, versions, and the ceilings that figures are compared with."""
  device = jax.devices()[0]
  return {
    "device": f"{jax.device_count()} x {device.device_kind}",
    "cpu": _cpu_name(),
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "python": platform.python_version(),
    **{package: importlib.metadata.version(package) for package in _PACKAGES},
    "ceilings": dataclasses.asdict(ceilings(dtype)),
  }


def seconds(fn: Callable[[], Any], repeats: int = 5, warmup: int = 1) -> list[float]:
  """Wall seconds of each of `repeats` calls, after `warmup` calls that compile.

  `fn` returns arrays, which are waited for.
  """
  for _ in range(warmup):
    jax.block_until_ready(fn())
  taken = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(fn())
    taken.append(time.perf_counter() - start)
  return taken


def figure(taken: Sequence[float], flops: float, moved: float, ceiling: Ceilings) -> dict[str, Any]:
  """A measured time beside its roofline.

  Args:
    taken: seconds of each repetition.
    flops: FLOPs that the task needs, without padding or recomputation.
    moved: bytes of memory that it must read or write.
    ceiling: peak rates of the device.

  Returns:
    Median, least and most seconds; FLOPs and bytes; the least time that the ceilings allow, which
    of the two sets it, and the share of that speed which was reached.
  """
  median, least = statistics.median(taken), ceiling.seconds(flops, moved)
  return {
    "seconds": median,
    "seconds_min": min(taken),
    "seconds_max": max(taken),
    "repeats": len(taken),
    "flops": flops,
    "bytes": moved,
    "roofline_seconds": least,
    "bound": "compute" if flops / ceiling.flops >= moved / ceiling.bandwidth else "memory",
    "roofline_share": least / median,
  }


def hybrid_lengths(
  prompts: int, samples: int, longest: int, *, ragged: float = 0.0, seed: int = 0
) -> np.ndarray:
  """`[B, 2, G]` int32 response lengths of a hybrid group.

  Thinking takes `longest` tokens, answering directly an eighth of that; each is then shortened by a
  random share of up to `ragged`.
  """
  shorter = np.random.default_rng(seed).uniform(0, ragged, (prompts, 2, samples))
  lengths = np.array([longest, longest // 8])[None, :, None] * (1 - shorter)
  return np.maximum(lengths, 2).astype(np.int32)


def full_lengths(prompts: int, samples: int, longest: int) -> np.ndarray:
  """`[B, 2, G]` int32 response lengths, all equal: no row ends early."""
  return np.full((prompts, 2, samples), longest, np.int32)


def ragged_lengths(prompts: int, samples: int, longest: int) -> np.ndarray:
  """`hybrid_lengths`, each up to a quarter shorter."""
  return hybrid_lengths(prompts, samples, longest, ragged=0.25)


def lognormal_lengths(prompts: int, samples: int, longest: int, *, seed: int = 0) -> np.ndarray:
  """`[B, 2, G]` int32 response lengths, log-normal with a deviation of a half.

  The medians are a quarter of `longest` for thinking and a 24th for direct answers.
  """
  spread = np.exp(0.5 * np.random.default_rng(seed).standard_normal((prompts, 2, samples)))
  medians = np.array([longest / 4, longest / 24])[None, :, None]
  return np.clip(np.rint(medians * spread), 2, longest).astype(np.int32)


MIXES = {
  "hybrid": hybrid_lengths,
  "ragged": ragged_lengths,
  "lognormal": lognormal_lengths,
  "full": full_lengths,
}


def random_prompts(vocab_size: int, prompts: int, length: int, seed: int = 0) -> Prompts:
  """`prompts` prompts of exactly `length` random tokens."""
  tokens = np.random.default_rng(seed).integers(8, vocab_size, (prompts, length), np.int32)
  return Prompts(tokens, np.full(prompts, length, np.int32), np.arange(prompts, dtype=np.int32))


def random_rollouts(
  config: PolicyConfig, prompts: Prompts, lengths: np.ndarray, longest: int = 0
) -> Rollouts:
  """Responses of given `lengths [B, M, G]` to `prompts`, of random tokens, as if sampled.

  `longest` is the most tokens that a response might have had; by default what the longest has.
  """
  random, longest = np.random.default_rng(1), longest or int(lengths.max())
  responses = random.integers(8, config.vocab_size, (*lengths.shape, longest), np.int32)
  logprobs = np.full(responses.shape, -np.log(config.vocab_size), np.float32)
  finish_reason = np.full(lengths.shape, STOPPED, np.int32)
  return Rollouts(prompts, responses, lengths, logprobs, finish_reason, np.int32(0))


def weight_bytes(config: PolicyConfig) -> float:
  """Bytes of the matrices in the compute dtype: what one forward pass reads at least."""
  return float(sum(matrix_params(config)) * jnp.dtype(config.dtype).itemsize)


def sampling_params(config: PolicyConfig) -> policy.Params:
  """Random parameters in the compute dtype, a copy on each device."""

  def init() -> policy.Params:
    return policy.for_sampling(config, policy.init(config, jax.random.key(0)))

  return jax.jit(init, out_shardings=parallel.replicated(parallel.make_mesh()))()


def add_shape_arguments(parser: argparse.ArgumentParser) -> None:
  """The command-line arguments that sampling and whole steps share."""
  parser.add_argument("--shape", choices=SHAPES, default="tiny")
  parser.add_argument("--prompts", type=int, default=8)
  parser.add_argument("--samples", type=int, default=4, help="responses per mode")
  parser.add_argument("--prompt-tokens", type=int, default=32)
  parser.add_argument("--response-tokens", type=int, default=128, help="longest response")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--out", type=pathlib.Path, help="JSON file to write the figures to")


def mixes(args: argparse.Namespace) -> dict[str, np.ndarray]:
  """Lengths `[B, 2, G]` of the mixes in the given shape."""
  shape = args.prompts, args.samples, args.response_tokens
  return {name: MIXES[name](*shape) for name in ("hybrid", "lognormal", "full")}


def write(report: dict[str, Any], path: pathlib.Path | None) -> None:
  """Prints the report as JSON, and writes it to `path` where one is given."""
  print(json.dumps(report, indent=2), flush=True)
  if path:
    save(report, path)


def save(report: dict[str, Any], path: pathlib.Path) -> None:
  """Writes the report to `path` as JSON."""
  path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _cpu_name() -> str:
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
  except OSError:
    return platform.processor()
  names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.processor()

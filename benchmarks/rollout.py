"""Measures sampling: prefill, decoding, share of live slots.

    python -m benchmarks.rollout --out rollout.json

Lengths are forced: a hybrid mix, a log-normal one, and all rows at full length. `--slots 0 16 32`
decodes each mix with all rows at once, then with 16 and 32 at a time, refilled. Then the prefill of
long prompts alone, for growing numbers of responses to each.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import measuring
from benchmarks.update import OPENING
from lhrm_jax import policy
from lhrm_jax.planning.ceilings import all_devices, ceilings
from lhrm_jax.planning.flops import decode_bytes, forward_flops
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs.instruments import CompileCounter, Stopwatch, seconds_by_name
from lhrm_jax.sampling import Prompts, Rollouts, SamplerSpec, sample

_NO_EOS = -1  # lengths are forced


def spec(samples: int, max_tokens: int, slots: int = 0) -> SamplerSpec:
  """Paired sampling in which only its limit ends a response."""
  return SamplerSpec(
    samples, max_tokens, paired=True, opening=OPENING, eos_ids=(_NO_EOS,), pad_id=0, slots=slots
  )


def prefill_work(config: PolicyConfig, prompts: Prompts) -> tuple[float, float]:
  """FLOPs and bytes of running the prompts, and the head at the last token of each."""
  lengths = np.asarray(prompts.lengths, np.float64)
  attended = np.sum(lengths * (lengths + 1) / 2)
  flops = forward_flops(config, lengths.sum(), attended, len(lengths))
  return flops, measuring.weight_bytes(config)


def decode_work(config: PolicyConfig, rollouts: Rollouts) -> tuple[float, float]:
  """FLOPs and bytes of decoding rollouts on the host; tags come from the prefill."""
  decoded = rollouts.lengths.astype(np.float64) - 1  # [B, M, G]
  prompts = np.asarray(rollouts.prompts.lengths, np.float64)[:, None, None]
  attended = np.sum(decoded * (decoded + 1) / 2 + decoded * prompts)
  flops = forward_flops(config, decoded.sum(), attended, decoded.sum())
  return flops, decode_bytes(config, rollouts, float(decoded.max()))


def run(config: PolicyConfig, params: policy.Params, prompts: Prompts, lengths: np.ndarray,
        max_tokens: int, repeats: int, slots: int = 0,
        ) -> tuple[Rollouts, dict[str, list[float]], int]:  # fmt: skip
  """Samples responses of these lengths `[B, 2, G]`, once to warm up and then `repeats` times.

  A device decodes `slots` of them at a time, or all of its own where that is 0.

  Returns:
    The last rollouts, on the host; seconds of "prefill" and "decode" in each repetition; number of
    programs compiled after the first.
  """
  clock, compiles, warm = Stopwatch(), CompileCounter(), 0
  taken: dict[str, list[float]] = {"prefill": [], "decode": []}
  for repeat in range(repeats + 1):
    rollouts = sample(
      config, spec(lengths.shape[2], max_tokens, slots), params, prompts, jax.random.key(repeat),
      limits=lengths, clock=clock,
    )  # fmt: skip
    parts = seconds_by_name(clock.take())
    if repeat:
      for name, of_part in taken.items():
        of_part.append(parts[name])
    else:
      warm = compiles.count
  return jax.device_get(rollouts), taken, compiles.count - warm


def measure(config: PolicyConfig, params: policy.Params, prompts: Prompts, lengths: np.ndarray,
            max_tokens: int, repeats: int, slots: int = 0) -> dict[str, Any]:  # fmt: skip
  """Times sampling of responses of these lengths, each part beside its roofline; see `run`."""
  rollouts, taken, compiled = run(config, params, prompts, lengths, max_tokens, repeats, slots)
  ceiling = all_devices(ceilings(config.dtype))
  prefill = measuring.figure(taken["prefill"], *prefill_work(config, prompts), ceiling)
  decode = measuring.figure(taken["decode"], *decode_work(config, rollouts), ceiling)
  seconds = statistics.median(map(sum, zip(*taken.values(), strict=True)))
  tokens = int(rollouts.lengths.sum())
  return {
    "prefill": prefill,
    "decode": decode,
    "seconds": seconds,
    "response_tokens": tokens,
    "tokens_per_second": tokens / seconds,
    "decode_tokens_per_second": (tokens - rollouts.lengths.size) / decode["seconds"],
    "live_slots": float(rollouts.live_slots),
    "compiles_after_warmup": compiled,
  }


def prefill_by_samples(config: PolicyConfig, params: policy.Params, prompts: Prompts,
                       samples: list[int], repeats: int) -> dict[str, Any]:  # fmt: skip
  """Seconds to prefill prompts for growing numbers of responses, measured in turn."""
  flops, moved = prefill_work(config, prompts)
  ceiling = all_devices(ceilings(config.dtype))
  taken: dict[int, list[float]] = {g: [] for g in samples}
  shape = len(prompts.ids), 2
  for repeat in range(repeats + 1):
    for g, of_group in taken.items():
      _, parts, _ = run(config, params, prompts, np.full((*shape, g), 4, np.int32), 4, 1)
      if repeat:
        of_group += parts["prefill"]
  figures = {g: measuring.figure(seconds, flops, moved, ceiling) for g, seconds in taken.items()}
  medians = [figure["seconds"] for figure in figures.values()]
  return {
    "prompt_tokens": int(prompts.tokens.shape[1]),
    **{f"samples_{g}": figure for g, figure in figures.items()},
    "slowest_over_fastest": max(medians) / min(medians),
    "last_over_first": medians[-1] / medians[0],
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  measuring.add_shape_arguments(parser)
  parser.add_argument("--slots", type=int, nargs="+", default=[0], help="0 for all rows")
  parser.add_argument("--long-prompt", type=int, default=512, help="tokens; its prefill, G by G")
  parser.add_argument("--group-sizes", type=int, nargs="+", default=[1, 2, 4, 8])
  args = parser.parse_args(argv)

  config = measuring.SHAPES[args.shape]
  params = measuring.sampling_params(config)
  prompts = measuring.random_prompts(config.vocab_size, args.prompts, args.prompt_tokens)
  report = {"machine": measuring.machine(config.dtype), "arguments": vars(args) | {"out": None}}
  for name, lengths in measuring.mixes(args).items():
    for slots in args.slots:
      report[f"{name}_slots_{slots}" if slots else name] = measure(
        config, params, prompts, lengths, args.response_tokens, args.repeats, slots
      )
  prompts = measuring.random_prompts(config.vocab_size, args.prompts, args.long_prompt)
  report["prefill_by_samples"] = prefill_by_samples(
    config, params, prompts, args.group_sizes, args.repeats
  )
  measuring.write(report, args.out)


if __name__ == "__main__":
  main()

"""Measures how cost grows: with prompt and response length, G, batch, vocabulary and model size.

    python -m benchmarks.scaling --out scaling.json

One quantity grows at a time from a small base; all rows run at full length. For each part of a step
the exponent `e` in `seconds ~ quantity^e` is fitted by least squares on logarithms, beside that of
the roofline, which is inherent in the task.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import measuring, step
from lhrm_jax.planning.flops import matrix_params
from lhrm_jax.policy import PolicyConfig

PARTS = ("prefill", "decode", "logprob", "update", "step")


# Scanned over layers: each point is compiled.
_TINY = dataclasses.replace(measuring.SHAPES["tiny"], scan_layers=True)


@dataclasses.dataclass(frozen=True)
class Point:
  """Shapes of one measurement; `samples` are per mode."""

  config: PolicyConfig = _TINY
  prompts: int = 4
  samples: int = 4
  prompt_tokens: int = 64
  response_tokens: int = 64


def _with(name: str) -> Callable[[Point, int], Point]:
  return lambda point, value: dataclasses.replace(point, **{name: value})


def _with_vocab(point: Point, size: int) -> Point:
  return dataclasses.replace(point, config=dataclasses.replace(point.config, vocab_size=size))


def _with_width(point: Point, width: int) -> Point:
  """A model of this width: more heads of the same size, an MLP four times as wide."""
  heads = width // point.config.head_dim
  config = dataclasses.replace(
    point.config, hidden_size=width, intermediate_size=4 * width, num_heads=heads,
    num_kv_heads=heads // 2,
  )  # fmt: skip
  return dataclasses.replace(point, config=config)


# How each quantity is set, and its values; those of `params` are widths.
AXES: dict[str, tuple[Callable[[Point, int], Point], tuple[int, ...]]] = {
  "prompt_tokens": (_with("prompt_tokens"), (64, 128, 256, 512)),
  "response_tokens": (_with("response_tokens"), (64, 128, 256, 512)),
  "samples": (_with("samples"), (1, 2, 4, 8)),
  "prompts": (_with("prompts"), (2, 4, 8, 16)),
  "vocab_size": (_with_vocab, (512, 2048, 8192, 32_768)),
  "params": (_with_width, (128, 256, 512)),
}


def exponent(quantities: Sequence[float], costs: Sequence[float]) -> float:
  """Slope of log cost over log quantity, by least squares."""
  return float(np.polyfit(np.log(quantities), np.log(costs), 1)[0])


def measure(point: Point, repeats: int) -> dict[str, Any]:
  """Figures of each part at one point."""
  config = point.config
  take_step = step.make_step(config, point.samples, point.response_tokens)
  prompts = measuring.random_prompts(config.vocab_size, point.prompts, point.prompt_tokens)
  lengths = measuring.full_lengths(point.prompts, point.samples, point.response_tokens)
  return step.measure(config, take_step, prompts, lengths, repeats)


def grow(name: str, points: int, repeats: int, base: Point) -> dict[str, Any]:
  """Figures along one axis, and the exponents."""
  change, values = AXES[name]
  quantities, figures = [], []
  for value in values[:points]:
    point = change(base, value)
    quantities.append(sum(matrix_params(point.config)) if name == "params" else value)
    figures.append(measure(point, repeats))
    seconds = {part: round(figures[-1][part]["seconds"], 4) for part in PARTS}
    print(f"  {name} {quantities[-1]:,}: {seconds}", file=sys.stderr, flush=True)
  return {
    "values": quantities,
    "points": [{part: figure[part] for part in PARTS} for figure in figures],
    "exponents": {
      part: {
        "measured": exponent(quantities, [figure[part]["seconds"] for figure in figures]),
        "roofline": exponent(quantities, [figure[part]["roofline_seconds"] for figure in figures]),
      }
      for part in PARTS
    },
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
  parser.add_argument("--points", type=int, default=4, help="number of values of each axis")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--tiny", action="store_true", help="one layer, few tokens: to try it out")
  parser.add_argument("--out", type=pathlib.Path, help="JSON file to write the figures to")
  args = parser.parse_args(argv)
  if args.points < 2:
    parser.error("--points must be at least 2: no exponent follows from one.")

  base = Point()
  if args.tiny:
    config = dataclasses.replace(base.config, num_layers=1)
    base = Point(config, prompts=1, samples=1, prompt_tokens=8, response_tokens=8)
  base_fields = dataclasses.asdict(base)
  report = {
    "machine": measuring.machine(base.config.dtype),
    "arguments": vars(args) | {"out": None},
    "base": base_fields,
  }
  for name in args.axes:
    report[name] = grow(name, args.points, args.repeats, base)
    if args.out:  # an interrupted run keeps its figures
      measuring.save(report, args.out)
  measuring.write(report, args.out)


if __name__ == "__main__":
  main()

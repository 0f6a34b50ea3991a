"""Measures the update: reference log-probabilities and one optimiser step.

    python -m benchmarks.update --out update.json

Rollouts of several mixes of lengths are packed into rows, some of which are computed at a time.
Packing on the host is part of the update's time. Tokens are random: speed does not depend on them.
"""

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import measuring
from lhrm_jax import parallel
from lhrm_jax.objectives import hgpo
from lhrm_jax.planning.ceilings import all_devices, ceilings
from lhrm_jax.planning.flops import matrix_params, rollout_flops
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import Rollouts
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hgpo import HGPOBatch, HGPOConfig, make_hgpo_program, pack_hgpo
from lhrm_jax.training.rollout_logprobs import make_score

OPENING = (1, 2)


def update_bytes(config: PolicyConfig) -> float:
  """Bytes that an update must move: the weights, forward and backward, and AdamW's arrays.

  AdamW reads parameters, both moments and the gradient, and writes the first three; the gradient
  was written before. All are float32.
  """
  params = sum(matrix_params(config))
  return params * (2 * jnp.dtype(config.dtype).itemsize + 8 * 4)


def measure(
  config: PolicyConfig, rollouts: Rollouts, *, rows: int, length: int, repeats: int
) -> dict[str, Any]:
  """Times scoring and update of these rollouts, each beside its roofline.

  Args:
    config: of the policy.
    rollouts: on the host.
    rows: see `PackingConfig.micro_batch_rows`.
    length: see `PackingConfig.packed_length`.
    repeats: timed runs.
  """
  schedule = optax.constant_schedule(1e-6)
  optimizer = train_state.make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
  mesh = parallel.make_mesh()
  state = train_state.create(config, optimizer, mesh, jax.random.key(0))
  c = HGPOConfig(packed_length=length, micro_batch_rows=rows)
  score = make_score(config, OPENING, 1.0, c)
  step = make_hgpo_program(config, c, OPENING, optimizer, schedule, mesh)
  scores = jax.random.bernoulli(jax.random.key(1), 0.5, rollouts.lengths.shape)
  advantages = hgpo.advantages(scores.astype(jnp.float32), alpha=1.0, delta=0.2)

  began = time.perf_counter()
  batch = HGPOBatch(rollouts, advantages, score(state.params, rollouts))
  score_compile_seconds = time.perf_counter() - began
  began = time.perf_counter()
  packed = pack_hgpo(config, c, mesh, batch)
  pack_seconds = time.perf_counter() - began
  began = time.perf_counter()
  compiled = step.lower(state, packed).compile()
  compile_seconds = time.perf_counter() - began

  def update():
    nonlocal state
    state, metrics = compiled(state, {}, pack_hgpo(config, c, mesh, batch))  # no frozen parameters
    return metrics

  ceiling = all_devices(ceilings(config.dtype))
  flops = rollout_flops(config, rollouts)
  scoring = measuring.seconds(lambda: score(state.params, rollouts), repeats)
  updating = measuring.seconds(update, repeats)
  tokens = int(rollouts.lengths.sum())
  logprob = measuring.figure(scoring, flops, measuring.weight_bytes(config), ceiling)
  updated = measuring.figure(updating, 3 * flops, update_bytes(config), ceiling)
  metrics = update()
  return {
    "logprob": logprob,
    "update": updated,
    "tokens_per_second": tokens / (logprob["seconds"] + updated["seconds"]),
    "mfu": updated["flops"] / updated["seconds"] / ceiling.flops,
    "padding_share": float(metrics["perf/padding_share"]),
    "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    "rows": list(packed.rows.packed.tokens.shape),
    "pack_seconds": pack_seconds,
    "compile_seconds": compile_seconds,
    "score_first_seconds": score_compile_seconds,
    "loss": float(metrics["loss"]),
    "grad_norm": float(metrics["grad_norm"]),
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--shape", choices=measuring.SHAPES, default="tiny")
  parser.add_argument("--prompts", type=int, default=8)
  parser.add_argument("--samples", type=int, default=4, help="responses per mode")
  parser.add_argument("--prompt-tokens", type=int, default=32)
  parser.add_argument("--response-tokens", type=int, default=128, help="of the longest")
  parser.add_argument(
    "--mixes", nargs="+", choices=measuring.MIXES, default=["hybrid", "lognormal"]
  )
  parser.add_argument("--rows", type=int, nargs="+", default=[0], help="rows at a time")
  parser.add_argument("--length", type=int, default=0, help="slots of a row")
  parser.add_argument("--remat", help="none, dots or full; the shape's own by default")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--out", type=pathlib.Path, help="where the figures go, as JSON")
  args = parser.parse_args(argv)

  config = measuring.SHAPES[args.shape]
  if args.remat:
    config = dataclasses.replace(config, remat=args.remat)
  prompts = measuring.random_prompts(config.vocab_size, args.prompts, args.prompt_tokens)
  report = {"machine": measuring.machine(config.dtype), "arguments": vars(args) | {"out": None}}
  for mix in args.mixes:
    lengths = measuring.MIXES[mix](args.prompts, args.samples, args.response_tokens)
    rollouts = measuring.random_rollouts(config, prompts, lengths, args.response_tokens)
    for rows in args.rows:
      report[f"{mix}_rows_{rows}"] = measure(
        config, rollouts, rows=rows, length=args.length, repeats=args.repeats
      )
  measuring.write(report, args.out)


if __name__ == "__main__":
  main()

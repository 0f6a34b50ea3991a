"""Measures a whole HGPO step: sampling, reference log-probabilities, advantages and update.

    python -m benchmarks.step --out step.json

The parts are those of `experiments/hgpo.py`, in its order, the rollouts fetched to the host in
between; only the score is a stand-in. Lengths are forced: a hybrid and a log-normal mix, and all
rows at full length.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measuring, rollout, update
from lhrm_jax import parallel, policy
from lhrm_jax.objectives import hgpo
from lhrm_jax.planning.ceilings import all_devices, ceilings
from lhrm_jax.planning.flops import rollout_flops
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.runs.instruments import CompileCounter, Stopwatch, seconds_by_name
from lhrm_jax.sampling import Prompts, Rollouts, sample
from lhrm_jax.training import state as train_state
from lhrm_jax.training.ahead import CompiledAhead, example_batch, example_rollouts
from lhrm_jax.training.hgpo import HGPOBatch, HGPOConfig, make_hgpo_step
from lhrm_jax.training.rollout_logprobs import make_score

PARTS = ("prefill", "decode", "fetch", "logprob", "update")


@dataclasses.dataclass(frozen=True)
class Step:
  """One step's outcome.

  Attributes:
    seconds: of the whole step.
    parts: seconds of each of `PARTS`.
    rollouts: on the host.
    metrics: of the update.
  """

  seconds: float
  parts: dict[str, float]
  rollouts: Rollouts
  metrics: dict[str, float]


def make_step(
  config: PolicyConfig,
  samples: int,
  max_tokens: int,
  *,
  rows: int = 0,
  learning_rate: float = 1e-6,
  beta: float = 0.001,
) -> Callable[[Prompts, np.ndarray], Step]:
  """`step(prompts, limits [B, 2, G])`, over all devices; the learning policy stays inside.

  Args:
    config: of the policy, which begins at random.
    samples: responses per mode, `G`.
    max_tokens: longest response.
    rows: see `PackingConfig.micro_batch_rows`.
    learning_rate: constant.
    beta: weight of the KL penalty.
  """
  schedule = optax.constant_schedule(learning_rate)
  optimizer = train_state.make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
  mesh = parallel.make_mesh()
  state = train_state.create(config, optimizer, mesh, jax.random.key(0))
  reference = jax.tree.map(jnp.copy, state.params)
  cast = jax.jit(policy.for_sampling, static_argnums=0)
  spec = rollout.spec(samples, max_tokens)
  c = HGPOConfig(micro_batch_rows=rows, beta=beta, samples_per_mode=samples)
  score = make_score(config, update.OPENING, 1.0, c)
  learn = make_hgpo_step(config, c, update.OPENING, optimizer, schedule, mesh)
  advantages_of = jax.jit(lambda scores: hgpo.advantages(scores, alpha=1.0, delta=0.2))
  clock, steps = Stopwatch(), 0

  def step(prompts: Prompts, limits: np.ndarray) -> Step:
    nonlocal state, steps, score, learn
    began = time.perf_counter()
    if not steps:  # compiled while the first rollouts are sampled, as a job does
      example = example_rollouts(c, *prompts.tokens.shape, max_tokens)
      score = CompiledAhead(score, reference, example)
      learn = CompiledAhead(learn, state, example_batch(c, example))
    weights = state.params if config.dtype == "float32" else cast(config, state.params)
    sampled = sample(
      config, spec, weights, prompts, jax.random.key(steps), limits=limits, clock=clock
    )
    with clock.time("fetch"):
      sampled = jax.device_get(sampled)
      scores = np.where(sampled.mask, sampled.responses, 0).sum(-1) % 2
    with clock.time("logprob"):
      ref = score(reference, sampled)
    with clock.time("update"):
      advantages = jax.device_get(advantages_of(scores.astype(np.float32)))
      state, metrics = learn(state, HGPOBatch(sampled, advantages, ref))
      metrics = {name: float(value) for name, value in metrics.items()}
    steps += 1
    seconds = time.perf_counter() - began
    return Step(seconds, seconds_by_name(clock.take()), sampled, metrics)

  return step


def measure(
  config: PolicyConfig, step: Callable[[Prompts, np.ndarray], Step], prompts: Prompts,
  limits: np.ndarray, repeats: int,
) -> dict[str, Any]:  # fmt: skip
  """Times steps on these lengths, after one to warm up: the whole and its parts with rooflines."""
  compiles = CompileCounter()
  step(prompts, limits)
  warm = compiles.count
  steps = [step(prompts, limits) for _ in range(repeats)]
  last, ceiling = steps[-1], all_devices(ceilings(config.dtype))

  flops = rollout_flops(config, last.rollouts)
  work = {
    "prefill": rollout.prefill_work(config, prompts),
    "decode": rollout.decode_work(config, last.rollouts),
    "logprob": (flops, measuring.weight_bytes(config)),
    "update": (3 * flops, update.update_bytes(config)),
  }
  parts = {
    name: measuring.figure([s.parts[name] for s in steps], *amounts, ceiling)
    for name, amounts in work.items()
  }
  whole = measuring.figure([s.seconds for s in steps], *map(sum, zip(*work.values(), strict=True)),
                           ceiling)  # fmt: skip
  # Parts follow one another: none hides behind another's bound.
  least = sum(part["roofline_seconds"] for part in parts.values())
  whole |= {"roofline_seconds": least, "roofline_share": least / whole["seconds"]}
  tokens = int(last.rollouts.lengths.sum())
  return {
    "step": whole,
    **parts,
    "fetch_seconds": float(np.median([s.parts["fetch"] for s in steps])),
    "response_tokens": tokens,
    "tokens_per_second": tokens / whole["seconds"],
    "samples_per_second": last.rollouts.lengths.size / whole["seconds"],
    "mfu": whole["flops"] / whole["seconds"] / ceiling.flops,
    "live_slots": float(last.rollouts.live_slots),
    "padding_share": last.metrics["perf/padding_share"],
    "compiles_after_warmup": compiles.count - warm,
    "loss": last.metrics["loss"],
    "grad_norm": last.metrics["grad_norm"],
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  measuring.add_shape_arguments(parser)
  parser.add_argument("--rows", type=int, default=0, help="packed rows at a time")
  args = parser.parse_args(argv)

  config = measuring.SHAPES[args.shape]
  prompts = measuring.random_prompts(config.vocab_size, args.prompts, args.prompt_tokens)
  report = {"machine": measuring.machine(config.dtype), "arguments": vars(args) | {"out": None}}
  step = make_step(config, args.samples, args.response_tokens, rows=args.rows)
  for name, lengths in measuring.mixes(args).items():
    report[name] = measure(config, step, prompts, lengths, args.repeats)
  measuring.write(report, args.out)


if __name__ == "__main__":
  main()

"""Full training beside low-rank adapters: time of an HFT step, memory, loss after equal steps.

    python -m benchmarks.adapters --config experiments/configs/smollm2_135m_cpu_hft.py \\
        --ranks 0 16 --learning-rates 5e-4 2e-3 --steps 20 --out adapters.json

Rank 0 trains everything. Each rank runs in a process of its own, on the same demonstrations in the
same order, at a constant learning rate.
"""

import argparse
import importlib.util
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import optax

from benchmarks import measuring
from lhrm_jax import policy
from lhrm_jax.runs import setup
from lhrm_jax.runs.demonstrations import demonstration_batch, row_shape
from lhrm_jax.runs.starting_policy import fresh_state
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hft import make_hft_step


def measure(config_file: pathlib.Path, rank: int, learning_rate: float, steps: int) -> dict:
  """One run of `steps` steps; seconds are those after the first, which compiles."""
  spec = importlib.util.spec_from_file_location("config", config_file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  if rank:
    config.policy.lora_rank, config.policy.lora_alpha = rank, 2.0 * rank
  run = setup.make(config)
  schedule, c = optax.constant_schedule(learning_rate), run.config.hft
  optimizer = train_state.make_optimizer(
    schedule, weight_decay=c.weight_decay, clip_norm=c.clip_norm, b2=c.b2
  )
  state = fresh_state(run, optimizer)
  trained = policy.lora.split(state.params)[0]
  step = make_hft_step(
    run.policy_config, optimizer, schedule, run.mesh, row_shape(run.config, run.mesh).at_a_time
  )
  batch = demonstration_batch(run, 0)[0]
  memory = step.trace(state, batch).lower().compile().memory_analysis()
  losses, seconds = [], []
  for i in range(steps):
    batch = demonstration_batch(run, i)[0]
    began = time.perf_counter()
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
    seconds.append(time.perf_counter() - began)
  return {
    "rank": rank,
    "learning_rate": learning_rate,
    "trained": policy.count_params(trained),
    "parameters": policy.count_params(state.params),
    "optimizer_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)),
    "temporary_bytes": memory.temp_size_in_bytes,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "seconds": statistics.median(seconds[1:]),
    "losses": losses,
  }


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", type=pathlib.Path, required=True, help="config of an HFT run")
  parser.add_argument("--ranks", type=int, nargs="+", default=[0, 16])
  parser.add_argument("--learning-rates", type=float, nargs="+", default=[5e-4, 2e-3])
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # in this process
  args = parser.parse_args(argv)
  if len(args.ranks) != len(args.learning_rates):
    parser.error("--ranks and --learning-rates go together, one for each")
  if args.one:
    found = measure(args.config, args.ranks[0], args.learning_rates[0], args.steps)
    args.out.write_text(json.dumps(found), encoding="utf-8")
    return
  results: dict[str, Any] = {"machine": measuring.machine(), "steps": args.steps, "runs": []}
  for rank, rate in zip(args.ranks, args.learning_rates, strict=True):
    subprocess.run(
      [sys.executable, "-m", "benchmarks.adapters", "--one", "--config", str(args.config),
       "--ranks", str(rank), "--learning-rates", str(rate), "--steps", str(args.steps),
       "--out", str(args.out)],
      check=True,
    )  # fmt: skip
    results["runs"].append(json.loads(args.out.read_text(encoding="utf-8")))
  args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def adapters_table(results: dict[str, Any]) -> str:
  """Time, memory and loss by rank."""
  lines = [
    "| trained | parameters trained | seconds per step | peak memory, MiB | of it temporary | "
    "optimiser, MiB | mean loss of the last five steps |",
    "|---|---|---|---|---|---|---|",
  ]
  for run in results["runs"]:
    name = f"adapters of rank {run['rank']}" if run["rank"] else "everything"
    mib = [
      f"{run[key] / 2**20:,.0f}" for key in ("peak_bytes", "temporary_bytes", "optimizer_bytes")
    ]
    lines.append(
      f"| {name}, learning rate {run['learning_rate']:g} | {run['trained']:,} | "
      f"{run['seconds']:.2f} | {' | '.join(mib)} | {statistics.mean(run['losses'][-5:]):.3f} |"
    )
  machine = results["machine"]
  return "\n".join([
    *lines, "",
    f"{results['steps']} steps on the same demonstrations; {machine['cores']} cores of "
    f"{machine['cpu']}, jax {machine['jax']}.",
  ])  # fmt: skip


if __name__ == "__main__":
  main()

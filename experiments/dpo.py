"""HFT-DPO, the paper's first baseline: preference pairs across modes, from rollouts sampled once.

  python -m experiments.dpo --config experiments/configs/arithmetic_dpo.py \\
      --config.init_from=runs/arithmetic/checkpoints/hft --config.rollouts.path=runs/rollouts \\
      --workdir runs/dpo

The rollouts are `experiments.rollouts`' of the same policy.
"""

import time

import optax

from lhrm_jax import policy
from lhrm_jax.runs import command_line, mode_choice, offline, setup
from lhrm_jax.runs.config import from_config_dict
from lhrm_jax.runs.metric_writer import read_metrics
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.progress import ProgressBar
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.stage import Stage
from lhrm_jax.runs.starting_policy import starting_policy
from lhrm_jax.training import state as train_state
from lhrm_jax.training.dpo import make_dpo_step


def train(
  run: setup.Setup, stage: Stage, reference: policy.Params, report: Reporting
) -> tuple[int, policy.Params]:
  """Runs DPO from `reference`, or what is left of it; returns its last step and parameters."""
  c, mesh, writer = run.config.dpo, run.mesh, report.writer

  # ---- Rollouts -> preference pairs -> log-probabilities under the reference
  preferred = offline.preferences(run, reference)
  report.note(
    f"DPO: {len(preferred.pairs):,} pairs from {preferred.spent.samples:,} responses; thinking is "
    f"preferred in {preferred.facts['pairs/chosen_think_frac']:.1%} of them."
  )

  # ---- Policy and optimiser
  schedule = optax.constant_schedule(c.learning_rate)
  optimizer = train_state.make_optimizer(
    schedule, weight_decay=c.weight_decay, clip_norm=c.clip_norm, b2=c.b2
  )
  state = stage.begin(
    optimizer, lambda: train_state.restart(run.policy_config, optimizer, mesh, reference)
  )
  stage.save_start(state)
  update = make_dpo_step(run.policy_config, c, optimizer, schedule, mesh)
  logged = read_metrics(stage.workdir, setup.DPO)
  watch = mode_choice.ThinkRateWatch(run, report.evaluator, writer, logged, setup.DPO)

  # ---- Loop: pairs -> update -> metrics, checkpoint
  with stage.profiler as profiler, ProgressBar("DPO", c.steps) as bar:
    if watch.due(0):
      watch.measure(0, state.params)
    for step in range(stage.start, c.steps):
      began, done = time.perf_counter(), step + 1
      profiler.step(done)
      batches = offline.pair_batches(run, preferred, step)
      state, metrics = update(state, batches)
      stage.guard.check(done, metrics, state.params, batches)
      metrics = {name: float(value) for name, value in metrics.items()}
      metrics |= preferred.facts | preferred.spent.metrics(done)
      metrics |= {"epoch": done * c.pairs_per_step / len(preferred.pairs)}
      metrics |= {"time/step": time.perf_counter() - began}
      writer.scalars(setup.DPO, done, metrics)
      evaluated = watch.measure(done, state.params) if watch.due(done) else {}
      shown = {name: metrics[name] for name in ("loss", "rewards/accuracies")}
      bar.update(done, shown | watch.latest)
      stage.end_step(state, done, finished=done == c.steps, metrics=evaluated)
  stage.wait()
  return max(stage.start, c.steps), state.params


def main(_) -> None:
  config = from_config_dict(setup.with_absolute_paths(_CONFIG.value))
  offline.check(config, _WORKDIR.value, setup.DPO)
  with (
    Preemption() as preemption,
    RunFolder(_WORKDIR.value, config, stages=(setup.DPO,)) as folder,
  ):
    run = setup.make(config, folder.policy if folder.newest else None)
    setup.check_rows(run, ())
    folder.describe(run)
    with Reporting(run, folder, preemption, stages=(setup.DPO,)) as report:
      reference = starting_policy(run, folder, setup.DPO)
      report.evaluate(setup.HFT, 0, reference)
      stage = Stage(setup.DPO, run, folder, report.writer, preemption)
      step, params = train(run, stage, reference, report)
      report.took(setup.DPO, stage.seconds())
      report.evaluate(setup.DPO, step, params)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

"""HFT-RFT, the paper's second baseline: fine-tuning on the best of rollouts sampled once.

  python -m experiments.rft --config experiments/configs/arithmetic_rft.py \\
      --config.init_from=runs/arithmetic/checkpoints/hft --config.rollouts.path=runs/rollouts \\
      --workdir runs/rft

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
from lhrm_jax.training.hft import make_hft_step


def train(
  run: setup.Setup, stage: Stage, start: policy.Params, report: Reporting
) -> tuple[int, policy.Params]:
  """Runs RFT from `start`, or what is left of it; returns its last step and parameters."""
  c, mesh, writer = run.config.rft, run.mesh, report.writer

  # ---- Rollouts -> best responses
  best = offline.best_responses(run, start)
  report.note(
    f"RFT: {best.facts['responses/total']:,} responses of {best.spent.samples:,}; "
    f"{best.facts['responses/think_frac']:.1%} of them think."
  )

  # ---- Policy and optimiser
  schedule = optax.constant_schedule(c.learning_rate)
  optimizer = train_state.make_optimizer(
    schedule, weight_decay=c.weight_decay, clip_norm=c.clip_norm, b2=c.b2
  )
  state = stage.begin(
    optimizer, lambda: train_state.restart(run.policy_config, optimizer, mesh, start)
  )
  stage.save_start(state)
  update = make_hft_step(run.policy_config, optimizer, schedule, mesh)
  logged = read_metrics(stage.workdir, setup.RFT)
  watch = mode_choice.ThinkRateWatch(run, report.evaluator, writer, logged, setup.RFT)

  # ---- Loop: responses -> update -> metrics, checkpoint
  with stage.profiler as profiler, ProgressBar("RFT", c.steps) as bar:
    if watch.due(0):
      watch.measure(0, state.params)
    for step in range(stage.start, c.steps):
      began, done = time.perf_counter(), step + 1
      profiler.step(done)
      batches = offline.response_batches(run, best, step)
      state, metrics = update(state, batches)
      stage.guard.check(done, metrics, state.params, batches)
      metrics = {name: float(value) for name, value in metrics.items()}
      metrics |= best.facts | best.spent.metrics(done)
      metrics |= {"epoch": done * c.responses_per_step / best.facts["responses/total"]}
      metrics |= {"time/step": time.perf_counter() - began}
      writer.scalars(setup.RFT, done, metrics)
      evaluated = watch.measure(done, state.params) if watch.due(done) else {}
      bar.update(done, {"loss": metrics["loss"]} | watch.latest)
      stage.end_step(state, done, finished=done == c.steps, metrics=evaluated)
  stage.wait()
  return max(stage.start, c.steps), state.params


def main(_) -> None:
  config = from_config_dict(setup.with_absolute_paths(_CONFIG.value))
  offline.check(config, _WORKDIR.value, setup.RFT)
  with (
    Preemption() as preemption,
    RunFolder(_WORKDIR.value, config, stages=(setup.RFT,)) as folder,
  ):
    run = setup.make(config, folder.policy if folder.newest else None)
    setup.check_rows(run, ())
    folder.describe(run)
    with Reporting(run, folder, preemption, stages=(setup.RFT,)) as report:
      start = starting_policy(run, folder, setup.RFT)
      report.evaluate(setup.HFT, 0, start)
      stage = Stage(setup.RFT, run, folder, report.writer, preemption)
      step, params = train(run, stage, start, report)
      report.took(setup.RFT, stage.seconds())
      report.evaluate(setup.RFT, step, params)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

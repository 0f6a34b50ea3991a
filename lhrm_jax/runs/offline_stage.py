"""The loop and the job of the methods that train on rollouts sampled before: DPO and RFT."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import optax
from ml_collections import ConfigDict

from lhrm_jax import policy
from lhrm_jax.runs import instruments, mode_choice, offline, setup
from lhrm_jax.runs.budget import Budget
from lhrm_jax.runs.config import HFT, Config, from_config_dict
from lhrm_jax.runs.metric_writer import read_metrics
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.progress import ProgressBar
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.stage import Stage
from lhrm_jax.runs.starting_policy import starting_policy
from lhrm_jax.training import state as train_state
from lhrm_jax.training.ahead import CompiledAhead
from lhrm_jax.training.state import TrainState
from lhrm_jax.training.update import JittedStep

Train = Callable[[setup.Setup, Stage, policy.Params, Reporting], tuple[int, policy.Params]]


class Data(Protocol):
  """What a method trains on.

  Attributes:
    spent: cost of the rollouts and of what was computed from them.
    facts: metrics of the data.
    epochs_per_step: passes over the data that a step makes.
  """

  spent: Budget
  facts: dict[str, float]
  epochs_per_step: float


def begin(
  run: setup.Setup, stage: Stage, start: policy.Params
) -> tuple[optax.GradientTransformation, optax.Schedule, TrainState]:
  """Optimiser, its schedule and the state to resume with, from `start` if there is no other."""
  c = getattr(run.config, stage.name)
  schedule = train_state.make_schedule(c, c.steps)
  optimizer = train_state.make_optimizer(
    schedule, weight_decay=c.weight_decay, clip_norm=c.clip_norm, b2=c.b2
  )
  state = stage.begin(
    optimizer, lambda: train_state.restart(run.policy_config, optimizer, run.mesh, start)
  )
  stage.save_start(state)
  return optimizer, schedule, state


def run_steps(
  run: setup.Setup,
  stage: Stage,
  report: Reporting,
  state: TrainState,
  update: JittedStep,
  data: Data,
  batch_of: Callable[[int], offline.Batch],
  shown: Sequence[str] = ("loss",),
) -> tuple[int, policy.Params]:
  """Batch -> update -> metrics, checkpoint; returns the last step and its parameters.

  Args:
    run: objects of the job.
    stage: the stage that trains.
    report: whose evaluator and writer are used.
    state: before the first step that is left.
    update: of a step's rows.
    data: what is trained on.
    batch_of: batch of a step, counted from 0.
    shown: metrics shown in the progress bar.
  """
  c, writer = getattr(run.config, stage.name), report.writer
  logged = read_metrics(stage.workdir, stage.name)
  watch = mode_choice.ThinkRateWatch(run, report.evaluator, writer, logged, stage.name)
  spent, clock = data.spent.resumed(logged), instruments.Stopwatch()
  if stage.start < c.steps:
    update = CompiledAhead(update, state, batch_of(stage.start).rows)
  with stage.profiler as profiler, ProgressBar(stage.name.upper(), c.steps) as bar:
    if stage.start == 0 and watch.due(0):
      watch.measure(0, state.params)
    for step in range(stage.start, c.steps):
      began, done = time.perf_counter(), step + 1
      profiler.step(done)
      with clock.time("data"):
        batch = batch_of(step)
      with clock.time("update"):
        state, metrics = update(state, batch.rows)
        stage.guard.check(done, metrics, state.params, batch.rows)
      metrics = {name: float(value) for name, value in metrics.items()}
      spent.flops += batch.flops
      metrics |= data.facts | spent.metrics(done) | {"epoch": done * data.epochs_per_step}
      metrics |= clock.means(1, time.perf_counter() - began) | stage.first_step()
      writer.scalars(stage.name, done, metrics)
      evaluated = watch.measure(done, state.params) if watch.due(done) else {}
      bar.update(done, {name: metrics[name] for name in shown} | watch.latest)
      stage.end_step(state, done, finished=done == c.steps, metrics=evaluated)
  stage.wait()
  return max(stage.start, c.steps), state.params


def job(
  name: str, train: Train, config: ConfigDict | Config, workdir: str, preemption: Preemption
) -> None:
  """Runs or resumes a stage that trains on the rollouts of the config, with its report.

  Args:
    name: of the stage.
    train: runs it from the policy that it is given; returns its last step and parameters.
    config: of the run.
    workdir: its folder.
    preemption: listens for signals.
  """
  config = from_config_dict(config)
  offline.check(config, workdir, name)
  with RunFolder(workdir, config, stages=(name,)) as folder:
    run = setup.make(config, folder.policy if folder.newest else None)
    setup.check_rows(run, ())
    folder.describe(run)
    with Reporting(run, folder, preemption, stages=(name,)) as report:
      start = starting_policy(run, folder, name)
      report.evaluate(HFT, 0, start)
      stage = Stage(name, run, folder, report.writer, preemption)
      step, params = train(run, stage, start, report)
      report.took(name, stage.seconds())
      report.evaluate(name, step, params)

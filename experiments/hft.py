"""Stage I, Hybrid Fine-Tuning: one policy learns a thinking and a no-thinking mode.

python -m experiments.hft --config experiments/configs/arithmetic.py --workdir runs/hft
"""

import functools
import time

from ml_collections import ConfigDict

from lhrm_jax import parallel, policy
from lhrm_jax.data.read_ahead import ReadAhead
from lhrm_jax.runs import command_line, early_stop, instruments, repeats, setup
from lhrm_jax.runs.config import HFT, Config
from lhrm_jax.runs.demonstrations import demonstration_batch, row_shape
from lhrm_jax.runs.paths import with_absolute_paths
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.progress import ProgressBar
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.stage import Stage
from lhrm_jax.runs.starting_policy import fresh_state
from lhrm_jax.training import state as train_state
from lhrm_jax.training.ahead import CompiledAhead
from lhrm_jax.training.hft import make_hft_step

_LOG_EVERY = 10


def train(run: setup.Setup, stage: Stage, report: Reporting) -> tuple[int, policy.Params]:
  """Runs or resumes Hybrid Fine-Tuning; returns its last step and parameters."""
  c, writer, evaluator = run.config.hft, report.writer, report.evaluator

  # ---- Policy and optimiser
  schedule = train_state.make_schedule(c, c.steps)
  optimizer = train_state.make_optimizer(
    schedule, weight_decay=c.weight_decay, clip_norm=c.clip_norm, b2=c.b2
  )
  early_stop.check(evaluator, c.until)
  rows = row_shape(run.config, run.mesh)
  update = make_hft_step(run.policy_config, optimizer, schedule, run.mesh, rows.at_a_time)
  if stage.start < c.steps and not stage.finished:  # compiled while the policy is made or read
    shapes = train_state.abstract(run.policy_config, optimizer, run.mesh)
    update = CompiledAhead(update, shapes, demonstration_batch(run, stage.start)[0])
  state = stage.begin(optimizer, lambda: fresh_state(run, optimizer))
  if parallel.is_writer():
    trained = policy.lora.split(state.params)[0]
    counts = [f"{policy.count_params(x):,}" for x in (trained, state.params)]
    print(f"HFT: {' of '.join(dict.fromkeys(counts))} parameters", flush=True)

  # ---- Loop: demonstrations -> update -> metrics, checkpoint
  may_stop, shown, done = bool(c.until.think or c.until.no_think), {}, stage.start
  first_step: dict[str, float] = {}
  clock, began, since = instruments.Stopwatch(), time.perf_counter(), done
  with (
    stage.profiler as profiler,
    ProgressBar("HFT", c.steps, at_most=may_stop) as bar,
    ReadAhead(functools.partial(demonstration_batch, run), c.steps) as ahead,
  ):
    while done < c.steps and not stage.finished:
      profiler.step(done + 1)
      with clock.time("data"):  # read and packed while the devices worked on the steps before
        batch, long = ahead.take(done)
      with clock.time("update"):
        state, metrics = update(state, batch)
        done += 1
        stage.guard.check(done, metrics, state.params, batch)
        del batch  # released here, or the next wait for data would include it
      first_step |= stage.first_step()
      if done % _LOG_EVERY == 0 or done == c.steps:
        scalars = {name: float(value) for name, value in metrics.items()}
        scalars["data/long_demonstrations"] = long
        scalars |= repeats.epochs(run.config, run.task, HFT, done)
        scalars |= clock.means(done - since, time.perf_counter() - began) | first_step
        began, since, first_step = time.perf_counter(), done, {}
        writer.scalars(HFT, done, scalars)
        shown["loss"] = scalars["loss"]
      finished, accuracy = done == c.steps, {}
      if done % c.until.check_every == 0:
        weights = run.sampling_params(state.params)
        accuracy = early_stop.forced_accuracy(evaluator, weights, c.until)
        shown |= accuracy
        accuracy = {f"eval/{mode}": value for mode, value in accuracy.items()}
        writer.scalars(HFT, done, accuracy)
        finished = finished or early_stop.reached(accuracy, c.until)
      bar.update(done, shown)
      if finished and done < c.steps:
        bar.say(early_stop.stopped_early(done, c, accuracy))
      stage.end_step(state, done, finished=finished, metrics=accuracy)
  stage.wait()
  return done, state.params


def job(config: ConfigDict | Config, workdir: str, preemption: Preemption) -> None:
  """Hybrid Fine-Tuning of a config in a run folder, with its evaluation and report."""
  with RunFolder(workdir, config, stages=(HFT,)) as folder:
    run = setup.make(config, folder.policy if folder.newest else None)
    setup.check_rows(run, (HFT,))
    folder.describe(run)
    with Reporting(run, folder, preemption, stages=(HFT,)) as report:
      stage = Stage(HFT, run, folder, report.writer, preemption)
      step, params = train(run, stage, report)
      report.took(HFT, stage.seconds())
      report.evaluate(HFT, step, params)


def main(_) -> None:
  with Preemption() as preemption:
    job(with_absolute_paths(_CONFIG.value), _WORKDIR.value, preemption)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

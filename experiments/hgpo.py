"""Both stages: Hybrid Fine-Tuning as a cold start, then Hybrid Group Policy Optimization.

  python -m experiments.hgpo --config experiments/configs/arithmetic.py --workdir runs/arithmetic

With --config.init_from=RUN the cold start is skipped; --config.hgpo.steps=0 ends after it.
"""

import functools
import sys
import time

from ml_collections import ConfigDict

from experiments import hft
from lhrm_jax import parallel, policy
from lhrm_jax.data.read_ahead import ReadAhead
from lhrm_jax.runs import (
  command_line,
  gates,
  instruments,
  mode_choice,
  repeats,
  rollouts,
  setup,
  validation,
)
from lhrm_jax.runs.config import HFT, HGPO, Config
from lhrm_jax.runs.metric_writer import read_metrics
from lhrm_jax.runs.paths import with_absolute_paths
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.progress import ProgressBar
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.runs.rollout_log import RolloutLog
from lhrm_jax.runs.rollout_source import RolloutSource
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.stage import Stage
from lhrm_jax.runs.starting_policy import cold_start
from lhrm_jax.training import state as train_state
from lhrm_jax.training.ahead import CompiledAhead, example_batch, example_rollouts
from lhrm_jax.training.hgpo import HGPOBatch, HGPOStep, make_hgpo_step, mini_batches
from lhrm_jax.training.rollout_logprobs import Score, make_score
from lhrm_jax.training.rollout_metrics import rollout_metrics
from lhrm_jax.training.state import TrainState
from lhrm_jax.training.update import run_updates

_STAGES = (HFT, HGPO)


def train(
  run: setup.Setup, stage: Stage, start: policy.Params, report: Reporting
) -> tuple[int, policy.Params]:
  """Runs or resumes HGPO from `start`; returns its last step and parameters."""
  c, mesh, opening = run.config.hgpo, run.mesh, run.tokenizer.tag_ids.opening

  # ---- Policy, reference, optimiser
  schedule = train_state.make_schedule(c, c.steps, c.updates)
  optimizer = train_state.make_optimizer(
    schedule, weight_decay=c.weight_decay, clip_norm=c.clip_norm, b2=c.b2
  )
  state = stage.begin(
    optimizer, lambda: train_state.restart(run.policy_config, optimizer, mesh, start)
  )
  reference = stage.reference(start)
  stage.save_start(state)
  update = make_hgpo_step(run.policy_config, c, opening, optimizer, schedule, mesh)
  score = make_score(run.policy_config, opening, c.temperature, c)
  if stage.start < c.steps:
    update, score = _compiled_ahead(run, update, score, state, reference)

  # ---- What is watched
  logged = read_metrics(stage.workdir, HGPO)
  watch = mode_choice.ThinkRateWatch(run, report.evaluator, report.writer, logged)
  bounds = gates.of_config(run.config.gates, logged)
  log = RolloutLog(stage.workdir, report.writer)
  measured = instruments.Instruments(run.policy_config, logged)
  clock = measured.clock

  # ---- Loop: prompts -> rollouts -> scores -> advantages -> update -> metrics, log, checkpoint
  with (
    rollouts.make_scorer(run) as scorer,
    stage.profiler as profiler,
    ProgressBar("HGPO", c.steps) as bar,
    ReadAhead(functools.partial(rollouts.draw_prompts, run), c.steps) as prompts,
  ):
    source = RolloutSource(run, scorer, measured, stage.workdir, start)
    if stage.start == 0 and watch.due(0):
      watch.measure(0, state.params)
    for step in range(stage.start, c.steps):
      began, done = time.perf_counter(), step + 1
      profiler.step(done)
      with clock.time("data"):
        drawn = prompts.take(step)
      params = run.sampling_params(state.params)
      pending = source.start(params, drawn, step)
      sampled = parallel.gather_rows(mesh, pending.scored.rollouts, c.prompts_per_step)
      with clock.time("logprob"):  # hides the scoring of the last chunk
        # On the only update from these rollouts, the policy that learns is the one that sampled.
        policies = (reference, state.params) if c.updates > 1 else (reference,)
        ref, *old = [score(policy_, sampled) for policy_ in policies]
      scored, refilled = source.finish(pending, params, drawn, step)
      if refilled.get("refill/queries"):
        with clock.time("logprob"):
          ref, *old = [score(policy_, scored.rollouts) for policy_ in policies]
      del params

      with clock.time("update"):
        batch = HGPOBatch(scored.rollouts, scored.advantages, ref, *old)
        parts = mini_batches(batch, c.updates_per_rollout)
        check = functools.partial(stage.guard.check, done)
        state, metrics = run_updates(update, state, parts * c.epochs, check)
      first_step = stage.first_step()

      with clock.time("log"):
        metrics |= rollout_metrics(scored, c) | scored.judged.metrics() | refilled
        metrics["data/long_prompts"] = drawn.long
        metrics |= repeats.epochs(run.config, run.task, HGPO, done)
        log.write(done, scored)
        metrics |= {"updates": done * c.updates} | first_step
      metrics |= bounds.check(done, metrics)
      metrics |= measured.take(scored.rollouts, c.epochs, began, scored_old=c.updates > 1)
      metrics["time/reward_total"] = scorer.take_seconds()
      report.writer.scalars(HGPO, done, metrics)
      evaluated = watch.measure(done, state.params) if watch.due(done) else {}
      bar.update(done, {name: metrics[name] for name in ("loss", "reward")} | watch.latest)
      # Last, once all of the step is logged; its time is in the next step's metrics.
      with clock.time("checkpoint"):
        if c.reference_every and done % c.reference_every == 0:
          reference = train_state.copy_of(state.params)
        moved = None if reference is start else reference
        stage.end_step(state, done, finished=done == c.steps, metrics=evaluated, reference=moved)
  stage.wait()
  return max(stage.start, c.steps), state.params


def _compiled_ahead(
  run: setup.Setup, update: HGPOStep, score: Score, state: TrainState, reference: policy.Params
) -> tuple[CompiledAhead, CompiledAhead]:
  """The update and the scoring, compiled while the first rollouts are sampled."""
  c, data = run.config.hgpo, run.config.data
  example = example_rollouts(
    c, c.prompts_per_step, data.max_prompt_tokens, data.max_response_tokens
  )
  part = mini_batches(example_batch(c, example), c.updates_per_rollout)[0]
  return CompiledAhead(update, state, part), CompiledAhead(score, reference, example)


def job(config: ConfigDict | Config, workdir: str, preemption: Preemption) -> None:
  """Both stages of a config in a run folder, with their evaluations and report."""
  with RunFolder(workdir, config, stages=_STAGES) as folder:
    run = setup.make(config, folder.policy if folder.newest else None)
    setup.check_rows(run, (HGPO,) if run.config.init_from else _STAGES)
    if parallel.is_writer():
      for warning in validation.warnings(run.config):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    folder.describe(run)
    with Reporting(run, folder, preemption, stages=_STAGES) as report:

      def fine_tune() -> tuple[int, policy.Params]:
        stage = Stage(HFT, run, folder, report.writer, preemption)
        reached = hft.train(run, stage, report)
        report.took(HFT, stage.seconds())
        return reached

      step, params = cold_start(run, folder, report, fine_tune)
      report.evaluate(HFT, step, params)
      if run.config.hgpo.steps:
        if (note := mode_choice.note(run.config)) is not None:
          report.note(note)
        stage = Stage(HGPO, run, folder, report.writer, preemption)
        step, params = train(run, stage, params, report)
        report.took(HGPO, stage.seconds())
        report.evaluate(HGPO, step, params)


def main(_) -> None:
  with Preemption() as preemption:
    job(with_absolute_paths(_CONFIG.value), _WORKDIR.value, preemption)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

"""Stage I, Hybrid Fine-Tuning: one policy learns a thinking and a no-thinking mode.

python -m experiments.hft --config experiments/configs/arithmetic.py --workdir runs/hft
"""

import sys
from collections.abc import Sequence

import jax
import numpy as np
import optax

from lhrm_jax import parallel, policy
from lhrm_jax.data import limits
from lhrm_jax.data.batches import TokenBatch, pad
from lhrm_jax.data.packing import pack_micro_batches
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.evaluation import Evaluator
from lhrm_jax.runs import command_line, reporting, setup
from lhrm_jax.runs.metric_writer import MetricWriter
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.progress import ProgressBar
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.stage import Stage
from lhrm_jax.text import tags
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hft import make_hft_step
from lhrm_jax.training.state import TrainState

_LOG_EVERY = 10


def train(
  run: setup.Setup, stage: Stage, writer: MetricWriter, evaluator: Evaluator
) -> tuple[int, policy.Params]:
  """Runs Hybrid Fine-Tuning, or what is left of it; returns its last step and parameters."""
  c = run.config.hft

  # ---- Policy and optimiser
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, c.learning_rate, c.warmup_steps, max(c.steps, c.warmup_steps + 1), 0.1 * c.learning_rate
  )
  optimizer = train_state.make_optimizer(
    schedule, weight_decay=c.weight_decay, clip_norm=c.clip_norm, b2=c.b2
  )
  no_think_rows([row.level for row in evaluator.rows], c.until)  # now, not after the first steps
  state = stage.begin(optimizer, lambda: fresh_state(run, optimizer))
  update = make_hft_step(run.policy_config, optimizer, schedule, run.mesh)

  # ---- Loop
  if parallel.is_writer():
    if stage.start < c.steps <= c.warmup_steps and not stage.finished:
      print(warm_up_warning(c.steps, c.warmup_steps), file=sys.stderr, flush=True)
    print(f"HFT: {policy.count_params(state.params):,} parameters", flush=True)
  may_stop = bool(c.until.think or c.until.no_think)
  with stage.profiler as profiler, ProgressBar("HFT", c.steps, at_most=may_stop) as bar:
    shown: dict[str, float] = {}
    done = stage.start
    batches, long = demonstration_batches(run, done)
    while done < c.steps and not stage.finished:
      profiler.step(done + 1)
      used, used_long, (state, metrics) = batches, long, update(state, batches)
      done += 1
      batches, long = demonstration_batches(run, done)  # the next step's, while the devices work
      stage.guard.check(done, metrics, state.params, used)
      if done % _LOG_EVERY == 0 or done == c.steps:
        scalars = {name: float(value) for name, value in metrics.items()}
        scalars["data/long_demonstrations"] = used_long
        writer.scalars(setup.HFT, done, scalars)
        shown["loss"] = scalars["loss"]
      finished, accuracy = done == c.steps, {}
      if done % c.until.check_every == 0:
        weights = run.sampling_params(state.params)
        accuracy = forced_accuracy(evaluator, weights, c.until)
        shown |= accuracy
        accuracy = {f"eval/{mode}": value for mode, value in accuracy.items()}
        writer.scalars(setup.HFT, done, accuracy)
        finished = finished or reached(accuracy, c.until)
      bar.update(done, shown)
      if finished and done < c.steps:
        bar.say(stopped_early(done, c, accuracy))
      stage.end_step(state, done, finished=finished, metrics=accuracy)
  stage.wait()
  return done, state.params


def warm_up_warning(steps: int, warmup_steps: int) -> str:
  """For a run that ends before its learning rate has reached `hft.learning_rate`."""
  return (
    f"warning: hft.steps={steps} end within hft.warmup_steps={warmup_steps}: the learning rate "
    f"gets no further than {steps - 1}/{warmup_steps} of hft.learning_rate. Lower "
    "hft.warmup_steps or raise hft.steps."
  )


def fresh_state(run: setup.Setup, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step: random parameters, or those of `init_from`."""
  if run.params is None:
    key = jax.random.key(run.config.seed)
    return train_state.create(run.policy_config, optimizer, run.mesh, key)
  return train_state.restart(run.policy_config, optimizer, run.mesh, run.params)


def demonstration_batches(run: setup.Setup, step: int) -> tuple[tuple[TokenBatch, ...], int]:
  """The micro-batches of one step, over the mesh, and how many demonstrations were too long.

  A function of the seed and the step alone.

  Raises:
    UserError: a demonstration is too long, or the tokenizer can't read it.
  """
  c, data, tokenizer = run.config.hft, run.config.data, run.tokenizer
  # A sequence's last token is a target only, so a row of n places holds n + 1 tokens.
  if c.packed_length:
    widths = (c.packed_length, c.packed_length)
  else:
    responses = (data.max_response_tokens, data.max_no_think_tokens)
    widths = tuple(data.max_prompt_tokens + response - 1 for response in responses)
  # A packed row may be longer than the policy's positions; no single sequence may.
  longest = tuple(min(width + 1, run.policy_config.max_positions) for width in widths)
  with as_user_error(ValueError):
    drawn = limits.draw_demonstrations(
      run.task, tokenizer, run.config.seed, step, (c.think_per_step, c.no_think_per_step),
      max_tokens=longest, long_demonstrations=data.long_demonstrations,
    )  # fmt: skip
  if c.packed_length:
    batches = pack_micro_batches(
      [*drawn.think, *drawn.no_think], c.packed_length, c.micro_batch_rows,
      pad_id=tokenizer.pad_id,
    )  # fmt: skip
  else:
    batches = tuple(
      pad(sequences, width, pad_id=tokenizer.pad_id)
      for sequences, width in zip((drawn.think, drawn.no_think), widths, strict=True)
      if sequences
    )
  return parallel.shard_rows(run.mesh, batches), drawn.long


def forced_accuracy(evaluator: Evaluator, params: policy.Params, until) -> dict:
  """Accuracy of forced thinking on all prompts, and of forced no-think on some levels."""
  scores = evaluator.forced(params).scores[..., 0]  # [K, 2]
  chosen = no_think_rows([row.level for row in evaluator.rows], until)
  return {
    "think": float(scores[:, tags.THINK].mean()),
    "no_think": float(scores[chosen, tags.NO_THINK].mean()),
  }


def no_think_rows(levels: Sequence[int], until) -> np.ndarray:
  """Which evaluation rows tell the accuracy of forced no-think, `[K]` bool.

  Those of `until.no_think_levels`; all where no row has a level.

  Raises:
    UserError: `until.no_think` waits for these levels, and no row has one of them.
  """
  levels = np.asarray(levels)
  chosen = np.isin(levels, until.no_think_levels)
  if chosen.any():
    return chosen
  if levels.any() and until.no_think:
    have = ", ".join(map(str, sorted(set(levels.tolist()))))
    raise UserError(
      f"hft.until.no_think={until.no_think:g} would never be reached: no evaluation prompt "
      f"is of hft.until.no_think_levels={tuple(until.no_think_levels)}. Their levels are {have}."
    )
  return np.ones(levels.shape, bool)


def reached(accuracy: dict, until) -> bool:
  """Whether both accuracies that end the cold start were asked for and are reached."""
  if not (until.think or until.no_think):
    return False
  think, no_think = accuracy["eval/think"], accuracy["eval/no_think"]
  return think >= until.think and no_think >= until.no_think


def stopped_early(done: int, c, accuracy: dict[str, float]) -> str:
  """Says why a cold start ended before its last step."""
  reached = " and ".join(
    f"{mode} {accuracy[f'eval/{mode}']:.3f} of {getattr(c.until, mode):g}" for mode in tags.MODES
  )
  return (
    f"HFT ends at step {done} of {c.steps}: the accuracies of hft.until are reached ({reached})."
  )


def main(_) -> None:
  config = setup.with_absolute_paths(_CONFIG.value)
  with (
    Preemption() as preemption,
    RunFolder(_WORKDIR.value, config, stages=(setup.HFT,)) as folder,
  ):
    run = setup.make(config, folder.policy if folder.newest else None)
    setup.check_rows(run, (setup.HFT,))
    folder.describe(run)
    with reporting.Reporting(run, folder, preemption, stages=(setup.HFT,)) as report:
      stage = Stage(setup.HFT, run, folder, report.writer, preemption)
      step, params = train(run, stage, report.writer, report.evaluator)
      report.took(setup.HFT, stage.seconds())
      report.evaluate(setup.HFT, step, params)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

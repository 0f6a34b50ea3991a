"""Both stages: Hybrid Fine-Tuning as a cold start, then Hybrid Group Policy Optimization.

  python -m experiments.hgpo --config experiments/configs/arithmetic.py --workdir runs/arithmetic

With --config.init_from=RUN the cold start is skipped; --config.hgpo.steps=0 ends after it.
"""

import functools
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments import hft
from lhrm_jax import parallel, policy
from lhrm_jax.data.batches import encode_prompts
from lhrm_jax.data.limits import draw_prompts
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.errors import as_user_error
from lhrm_jax.evaluation import Evaluator, figures
from lhrm_jax.objectives import advantages as advantage_registry
from lhrm_jax.objectives import hgpo as hgpo_maths
from lhrm_jax.objectives import mode_choice
from lhrm_jax.rewards import registry, rules, scoring
from lhrm_jax.runs import checkpoints, command_line, reporting, setup, validation
from lhrm_jax.runs.gates import Gates
from lhrm_jax.runs.gates import standard as standard_gates
from lhrm_jax.runs.instruments import Instruments, Stopwatch
from lhrm_jax.runs.metric_writer import MetricWriter, read_metrics
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.progress import ProgressBar
from lhrm_jax.runs.rollout_log import as_markdown, write_rollouts
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.stage import Stage
from lhrm_jax.sampling import Prompts, Rollouts, SamplerSpec, concatenate, sample
from lhrm_jax.text import Tokenizer
from lhrm_jax.training import state as train_state
from lhrm_jax.training.hgpo import (
  HGPOBatch,
  HGPOSpec,
  make_hgpo_step,
  make_score,
  mini_batches,
)
from lhrm_jax.training.rollout_metrics import rollout_metrics

_SHOW_ROLLOUTS_EVERY = 10


def train(
  run: setup.Setup,
  stage: Stage,
  reference: policy.Params,
  workdir: pathlib.Path,
  writer: MetricWriter,
  evaluator: Evaluator,
) -> tuple[int, policy.Params]:
  """Runs HGPO from `reference`, or what is left of it; returns its last step and parameters."""
  c, tokenizer = run.config.hgpo, run.tokenizer
  opening = tokenizer.tag_ids.opening

  # ---- Policy, reference, optimiser
  schedule = optax.constant_schedule(c.learning_rate)
  optimizer = train_state.make_optimizer(
    schedule, weight_decay=c.weight_decay, clip_norm=c.clip_norm, b2=c.b2
  )
  state = stage.begin(
    optimizer, lambda: train_state.restart(run.policy_config, optimizer, run.mesh, reference)
  )
  stage.save_start(state)
  spec = hgpo_spec(c, opening)
  update = make_hgpo_step(run.policy_config, spec, optimizer, schedule, run.mesh)
  score_policy = make_score(run.policy_config, opening, c.temperature, c.length_buckets, run.mesh)

  updates = c.updates_per_rollout * c.epochs  # from one step's rollouts

  # ---- The three seams: rollout, reward, advantage
  rollout_fn = make_rollout_fn(run)
  make_scorer = functools.partial(
    scoring.Scorer, run.reward_fn, tag_ids=tokenizer.tag_ids, **run.scoring_options()
  )
  advantage_fn = make_advantage_fn(run)

  mine = parallel.local_rows(run.mesh, c.prompts_per_step)

  # ---- Instruments
  instruments = Instruments(run.policy_config)
  clock = instruments.clock
  logged = read_metrics(workdir, setup.HGPO)
  history = [row for row in logged if "mode/think_rate" in row]
  gates = Gates(standard_gates(run.config.gates), stop=run.config.gates.stop)
  gates.replay(logged)
  shown: dict[str, float] = {}
  stream_key = jax.random.fold_in(jax.random.key(run.config.seed), 1)

  def watch(step: int) -> dict[str, float]:
    metrics = free_metrics(evaluator, run.sampling_params(state.params))
    history.append({"step": step, **metrics})
    writer.scalars(setup.HGPO, step, metrics)
    picture = figures.to_pixels(figures.think_rate_over_time(history))
    writer.figure(setup.HGPO, "mode/think_rate_by_level", picture, step)
    shown["think rate"] = metrics["mode/think_rate"]
    return metrics

  with make_scorer() as scorer, stage.profiler as profiler, ProgressBar("HGPO", c.steps) as bar:
    if c.eval_every and not history:
      watch(0)
    for step in range(stage.start, c.steps):
      began = time.perf_counter()
      profiler.step(step + 1)
      # ---- Prompts -> tokens; each host samples and scores its own
      with as_user_error(ValueError):
        rows, long_prompts = draw_prompts(
          run.task, tokenizer, run.config.seed, step, c.prompts_per_step,
          max_tokens=run.config.data.max_prompt_tokens, long_prompts=run.config.data.long_prompts,
        )  # fmt: skip
        first_id = step * c.prompts_per_step
        encoded = encode_prompts(tokenizer, rows, first_id, run.config.data.max_prompt_tokens)
      prompts = Prompts(*(x[mine] for x in encoded))
      my_rows = [rows[i] for i in mine]

      # ---- Rollouts, their scores under way
      key = jax.random.fold_in(stream_key, step)
      weights = run.sampling_params(state.params)
      sample_chunk = functools.partial(rollout_fn, weights, key=key, policy_version=step)
      sampled, texts, pending = sample_and_score(
        sample_chunk, scorer, tokenizer, my_rows, prompts.split(c.sampling_chunks), clock
      )
      sampled = jax.device_get(sampled)
      rollouts = parallel.global_batch(run.mesh, sampled, c.prompts_per_step)

      # ---- Scores; the reference's log-probabilities hide the scoring of the last chunk
      with clock.time("logprob"):
        ref = score_policy(reference, rollouts)
        # Where these rollouts make one update only, the policy that learns is the one that sampled.
        old = score_policy(state.params, rollouts) if updates > 1 else None
        jax.block_until_ready(ref)
      with clock.time("reward"):
        scored = scorer.wait(pending)
        scores = parallel.gather_rows(run.mesh, scored.scores, c.prompts_per_step)

      # ---- Advantages
      advantages, rewards = advantage_fn(jnp.asarray(scores))

      # ---- Update
      with clock.time("update"):
        my_advantages = jax.tree.map(lambda x: np.asarray(x)[mine], advantages)
        placed = parallel.global_batch(run.mesh, my_advantages, c.prompts_per_step)
        batch = HGPOBatch(rollouts, placed, ref, old)
        parts = mini_batches(batch, c.updates_per_rollout, run.mesh) if updates > 1 else (batch,)
        of_updates = []
        for part in parts * c.epochs:
          state, metrics = update(state, part)
          of_updates.append({name: float(value) for name, value in metrics.items()})
          stage.guard.check(step + 1, of_updates[-1], state.params, part)
        metrics = over_updates(of_updates)

      # ---- Metrics, rollouts, checkpoint
      done = step + 1
      with clock.time("log"):
        r_inter = rewards[0] if rewards else winning_mode(run, scores)
        on_host = parallel.gather_rows(run.mesh, sampled, c.prompts_per_step)
        texts = gather_texts(mine, texts, c.prompts_per_step)
        metrics |= rollout_metrics(on_host, scores, r_inter, tokenizer.tag_ids, texts, c.delta)
        metrics |= scored.metrics()
        metrics["data/long_prompts"] = long_prompts
        if parallel.is_writer():
          write_rollouts(
            workdir / "rollouts" / "train.jsonl", done, rows, on_host, texts, scores, rewards,
            jax.device_get(advantages), tokenizer.tag_ids,
          )  # fmt: skip
        if step % _SHOW_ROLLOUTS_EVERY == 0:
          writer.text(setup.HGPO, "rollouts", as_markdown(rows, texts, scores), done)
      metrics |= gates.check(done, metrics)
      metrics |= instruments.take(on_host, c.epochs, began, scored_old=updates > 1)
      metrics["time/reward_total"] = scorer.take_seconds()
      writer.scalars(setup.HGPO, done, metrics)
      shown |= {"loss": metrics["loss"], "reward": metrics["reward"]}
      evaluated = {}
      if c.eval_every and (done % c.eval_every == 0 or done == c.steps):
        evaluated = watch(done)
      bar.update(done, shown)
      # Last, when all of the step is in the logs; its time is in the next step's metrics.
      with clock.time("checkpoint"):
        stage.end_step(state, done, finished=done == c.steps, metrics=evaluated)
  stage.wait()
  return max(stage.start, c.steps), state.params


def sample_and_score(
  sample_chunk: Callable[[Prompts], Rollouts],
  scorer: scoring.Scorer,
  tokenizer: Tokenizer,
  rows: Sequence[PromptRow],
  chunks: Sequence[Prompts],
  clock: Stopwatch,
) -> tuple[Rollouts, list[str], list[Future[scoring.Scored]]]:
  """Samples chunk after chunk; each is scored while the next one is sampled.

  Returns:
    All rollouts, their texts, and the futures of their scores, chunk by chunk.
  """
  parts, texts, pending = [], [], []
  for chunk in chunks:
    with clock.time("rollout"):
      parts.append(sample_chunk(chunk))
      on_host = jax.device_get(parts[-1])
      part_texts = scoring.decode(tokenizer, on_host)
    with clock.time("reward"):
      first = len(pending) * len(chunk.ids)
      of_chunk = rows[first : first + len(chunk.ids)]
      pending.append(scorer.start(of_chunk, on_host, part_texts))
    texts += part_texts
  return concatenate(parts), texts, pending


def gather_texts(mine: Sequence[int], texts: Sequence[str], prompts: int) -> list[str]:
  """The texts of all prompts in order, from those of each process's prompts `mine`."""
  per_prompt = len(texts) // len(mine)
  found: list[list[str]] = [[] for _ in range(prompts)]
  for indices, part in parallel.gather_objects((list(mine), list(texts))):
    for k, i in enumerate(indices):
      found[i] = part[k * per_prompt : (k + 1) * per_prompt]
  return [text for of_prompt in found for text in of_prompt]


def over_updates(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """A step's metrics from those of its updates: their mean, or what the name says."""
  merged = {name: float(np.mean([of[name] for of in metrics])) for name in metrics[0]}
  merged |= {name: max(of[name] for of in metrics) for name in merged if name.endswith("/max")}
  return merged | {name: metrics[-1][name] for name in ("skipped", "skipped_in_a_row")}


def hgpo_spec(c: ConfigDict, opening: tuple[int, int]) -> HGPOSpec:
  """The objective that the `hgpo` section of a config describes.

  Args:
    c: that section.
    opening: ids of the two opening tags.
  """
  discounted = c.advantage == "hgpo" and c.estimator == "reinforce_pp"
  return HGPOSpec(
    clip_low=c.clip_low, clip_high=c.clip_high, beta=c.beta, aggregation=c.aggregation,
    tag_weight=c.tag_weight, gamma=c.gamma if discounted else 1.0,
    every_token=discounted and c.literal, tag_normalisation=c.tag_normalisation,
    tag_kl=c.tag_kl, neither_penalty=c.neither_penalty, temperature=c.temperature,
    opening=opening, micro_batches=c.micro_batches, length_buckets=c.length_buckets,
    skip_zero_advantages=c.skip_zero_advantages,
  )  # fmt: skip


def make_rollout_fn(run: setup.Setup):
  """`rollout_fn(params, prompts, key) -> Rollouts`: paired, or with the mode left free."""
  c = run.config.hgpo
  paired = c.pairing == "paired"
  spec = SamplerSpec.of(
    run.tokenizer,
    # Free sampling gets as many responses per query, all of them the policy's choice.
    samples=c.samples_per_mode if paired else 2 * c.samples_per_mode,
    max_tokens=run.config.data.max_response_tokens,
    paired=paired,
  )
  return functools.partial(
    sample, run.policy_config, spec, temperature=c.temperature, top_p=c.top_p, top_k=c.top_k
  )


def make_advantage_fn(run: setup.Setup):
  """`scores [B, M, G]` to `Advantages`, and to (`r_inter`, `r_intra`) where the method has them.

  A score that is not finite spoils its advantages, so that the update is skipped: means and
  comparisons of modes could hide it.
  """
  c = run.config.hgpo
  named = advantage_registry.get(c.advantage)
  options = advantage_registry.options(c.advantage, c, c.advantage_options)

  def fn(scores):
    return jax.tree.map(lambda a: a + 0.0 * scores, named(scores, **options))

  if c.advantage != "hgpo":
    return lambda scores: (fn(scores), None)
  reward_options = {name: options[name] for name in ("delta", "tie", "skip_unsolved")}

  @jax.jit
  def hgpo(scores):
    return fn(scores), hgpo_maths.assign_rewards(scores, **reward_options)

  def on_host(scores):
    advantages, rewards = hgpo(scores)
    return advantages, tuple(np.asarray(r) for r in rewards)

  return on_host


def winning_mode(run: setup.Setup, scores: np.ndarray) -> np.ndarray | None:
  """`r_inter` `[B, 2, G]` for the metrics of an advantage that has none; `None` if unpaired.

  With the margin `hgpo.delta` where the advantage takes one, else with none.
  """
  c = run.config.hgpo
  if c.pairing != "paired":
    return None
  delta = c.delta if "delta" in advantage_registry.settings_of(c.advantage) else 0.0
  return np.asarray(hgpo_maths.assign_rewards(jnp.asarray(scores), delta=delta)[0])


def free_metrics(evaluator: Evaluator, params: policy.Params) -> dict[str, float]:
  """What the policy does when left free, on the evaluation prompts."""
  replies = evaluator.auto(params)
  values = evaluator.summarise(replies, 0)
  first = evaluator.summarise_first_token(evaluator.first_token_probs(params))
  metrics = {
    **{f"eval/failed/{reason}": count for reason, count in replies.failed.items()},
    "mode/think_rate": values["think_rate"],
    "eval/accuracy": values["accuracy"],
    "eval/mean_tokens": values["mean_tokens"],
    "eval/malformed_rate": values["malformed_rate"],
    "eval/neither_prob": first["neither"],
  }
  metrics |= {f"eval/{name}": rate for name, rate in values["form"].items()}
  for level, of_level in values["by_level"].items():
    metrics[f"mode/think_rate/level_{level}"] = of_level["think_rate"]
    metrics[f"eval/neither_prob/level_{level}"] = first["by_level"][level]["neither"]
  return metrics


def cold_start(
  run: setup.Setup, folder: RunFolder, report: reporting.Reporting, preemption: Preemption
) -> tuple[int, policy.Params]:
  """The policy that HGPO starts from and is held against, and the step it was made at."""
  if saved := folder.saved[setup.HGPO]:
    start = saved.path.with_name("0")  # what HGPO started from, wherever that came from
    params = checkpoints.restore_params(start, run.policy_config, run.mesh)
    before = folder.saved[setup.HFT]
    if before:
      report.took(setup.HFT, before.record["seconds"])
    return before.step if before else 0, params
  if run.params is not None:
    return 0, run.params
  stage = Stage(setup.HFT, run, folder, report.writer, preemption)
  reached = hft.train(run, stage, report.writer, report.evaluator)
  report.took(setup.HFT, stage.seconds())
  return reached


def mode_choice_note(config: ConfigDict) -> str | None:
  """What thinking must reach to be chosen, where scores are 0 or 1 and modes are paired."""
  c = config.hgpo
  plain = not (config.reward_weights or config.reward_by_source)
  binary = plain and registry.get(config.reward) in rules.BINARY
  if not (binary and c.advantage == "hgpo" and c.pairing == "paired"):
    return None
  return mode_choice.describe(
    delta=c.delta, samples=c.samples_per_mode, skip_unsolved=c.skip_unsolved
  )


def main(_) -> None:
  config = setup.with_absolute_paths(_CONFIG.value)
  with (
    Preemption() as preemption,
    RunFolder(_WORKDIR.value, config, stages=setup.STAGES) as folder,
  ):
    run = setup.make(config, folder.policy if folder.newest else None)
    setup.check_rows(run, setup.STAGES if run.params is None else (setup.HGPO,))
    if parallel.is_writer():
      for warning in validation.warnings(run.config):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    folder.describe(run)
    with reporting.Reporting(run, folder, preemption, stages=setup.STAGES) as report:
      step, params = cold_start(run, folder, report, preemption)
      report.evaluate(setup.HFT, step, params)
      if run.config.hgpo.steps:
        if (note := mode_choice_note(run.config)) is not None:
          report.note(note)
        stage = Stage(setup.HGPO, run, folder, report.writer, preemption)
        step, params = train(run, stage, params, folder.path, report.writer, report.evaluator)
        report.took(setup.HGPO, stage.seconds())
        report.evaluate(setup.HGPO, step, params)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

"""Samples a policy on the training prompts once, scores it, and keeps it all in files.

  python -m experiments.rollouts --config experiments/configs/arithmetic.py \\
      --config.init_from=runs/arithmetic/checkpoints/hft --workdir runs/rollouts

Samples what HGPO would at its start, by the same keys of `config.hgpo`, for as many steps. So the
methods that train offline, `experiments.dpo` and `experiments.rft`, have HGPO's budget. The same
command resumes: it samples the steps that are missing.
"""

import functools

import numpy as np
from ml_collections import ConfigDict

from lhrm_jax import parallel, policy
from lhrm_jax.errors import UserError
from lhrm_jax.rewards.rollout_files import write_rollouts
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.runs import command_line, instruments, rollouts, setup
from lhrm_jax.runs.config import HGPO, Config, from_config_dict
from lhrm_jax.runs.paths import with_absolute_paths
from lhrm_jax.runs.preemption import Preempted, Preemption
from lhrm_jax.runs.progress import ProgressBar
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.text import tags

_PARTS = "rollouts/step-*.jsonl"


def sample_steps(run: setup.Setup, folder: RunFolder, preemption: Preemption) -> None:
  """Samples every step that has no file yet; each appears whole or not at all."""
  c = run.config.hgpo
  params, sampled_by = run.sampling_params(run.params), policy.fingerprint(run.params)
  rollout_fn = rollouts.make_rollout_fn(run)
  clock = instruments.Stopwatch()
  paths = [
    folder.path / "rollouts" / f"step-{step:08d}.jsonl"
    for step in range(1, (run.config.rollouts.steps or c.steps) + 1)
  ]
  there = [path.exists() for path in paths]
  parallel.wait_for_all("rollout files")  # before the first process adds to them

  with rollouts.make_scorer(run) as scorer, ProgressBar("rollouts", len(paths)) as bar:
    for step, path in enumerate(paths):
      if there[step]:
        continue
      drawn = rollouts.draw_prompts(run, step)  # of all hosts; each samples and scores its own
      sample_chunk = functools.partial(rollout_fn, params, step=step)
      scored = rollouts.start(run, scorer, clock, drawn, sample_chunk).wait().gathered()
      if parallel.is_writer():
        unfinished = path.with_suffix(".tmp")
        unfinished.unlink(missing_ok=True)
        write_rollouts(unfinished, step + 1, scored, sampled_by)
        unfinished.rename(path)
      bar.update(step + 1, summary(scored))
      if preemption.reached(step + 1):
        raise Preempted(f"step {step + 1} is saved")
  if parallel.is_writer():
    print(f"Rollouts:    {folder.path / 'rollouts'}", flush=True)


def summary(scored: ScoredRollouts) -> dict[str, float]:
  """Mean score and length by mode."""
  shown = {}
  for mode, name in enumerate(tags.MODES):
    of_mode = scored.modes == mode
    if np.any(of_mode):
      shown |= {name: scored.scores[of_mode].mean(), "tokens": scored.lengths[of_mode].mean()}
  return shown


def job(config: ConfigDict | Config, workdir: str, preemption: Preemption) -> None:
  """Samples the policy that `init_from` names into a folder, or what is left of it."""
  config = from_config_dict(config)
  if not config.init_from:
    raise UserError("Name the policy to sample from: --config.init_from=RUN.")
  if not (config.rollouts.steps or config.hgpo.steps):
    raise UserError("hgpo.steps=0 leaves nothing to sample: set --config.rollouts.steps=N.")
  with RunFolder(workdir, config, stages=(), parts=_PARTS) as folder:
    run = setup.make(config)
    setup.check_rows(run, (HGPO,))
    folder.describe(run)
    sample_steps(run, folder, preemption)


def main(_) -> None:
  with Preemption() as preemption:
    job(with_absolute_paths(_CONFIG.value), _WORKDIR.value, preemption)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

"""HFT-DPO, the paper's first baseline: preference pairs across modes, from rollouts sampled once.

  python -m experiments.dpo --config experiments/configs/arithmetic_dpo.py \\
      --config.init_from=runs/arithmetic/checkpoints/hft --config.rollouts.path=runs/rollouts \\
      --workdir runs/dpo

The rollouts are `experiments.rollouts`' of the same policy.
"""

import functools

from lhrm_jax import policy
from lhrm_jax.runs import command_line, offline, offline_stage, setup
from lhrm_jax.runs.config import DPO
from lhrm_jax.runs.paths import with_absolute_paths
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.runs.stage import Stage
from lhrm_jax.training.dpo import make_dpo_step


def train(
  run: setup.Setup, stage: Stage, reference: policy.Params, report: Reporting
) -> tuple[int, policy.Params]:
  """Runs or resumes DPO from `reference`; returns its last step and parameters."""
  # ---- Rollouts -> preference pairs -> log-probabilities under the reference
  preferred = offline.preferences(run, reference)
  report.note(
    f"DPO: {len(preferred.pairs):,} pairs from {preferred.spent.samples:,} responses; thinking is "
    f"preferred in {preferred.facts['pairs/chosen_think_frac']:.1%} of them."
  )

  # ---- Policy and optimiser
  optimizer, schedule, state = offline_stage.begin(run, stage, reference)
  update = make_dpo_step(
    run.policy_config, run.config.dpo, optimizer, schedule, run.mesh, preferred.rows.at_a_time
  )

  # ---- Loop: pairs -> update -> metrics, checkpoint
  batch_of = functools.partial(offline.pair_batch, run, preferred)
  shown = ("loss", "rewards/accuracies")
  return offline_stage.run_steps(run, stage, report, state, update, preferred, batch_of, shown)


job = functools.partial(offline_stage.job, DPO, train)


def main(_) -> None:
  with Preemption() as preemption:
    job(with_absolute_paths(_CONFIG.value), _WORKDIR.value, preemption)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

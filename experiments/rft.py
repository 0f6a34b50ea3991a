"""HFT-RFT, the paper's second baseline: fine-tuning on the best of rollouts sampled once.

  python -m experiments.rft --config experiments/configs/arithmetic_rft.py \\
      --config.init_from=runs/arithmetic/checkpoints/hft --config.rollouts.path=runs/rollouts \\
      --workdir runs/rft

The rollouts are `experiments.rollouts`' of the same policy.
"""

import functools

from lhrm_jax import policy
from lhrm_jax.runs import command_line, offline, offline_stage, setup
from lhrm_jax.runs.config import RFT
from lhrm_jax.runs.paths import with_absolute_paths
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.runs.stage import Stage
from lhrm_jax.training.hft import make_hft_step


def train(
  run: setup.Setup, stage: Stage, start: policy.Params, report: Reporting
) -> tuple[int, policy.Params]:
  """Runs or resumes RFT from `start`; returns its last step and parameters."""
  # ---- Rollouts -> best responses
  best = offline.best_responses(run, start)
  report.note(
    f"RFT: {best.facts['responses/total']:,} responses of {best.spent.samples:,}; "
    f"{best.facts['responses/think_frac']:.1%} of them think."
  )

  # ---- Policy and optimiser
  optimizer, schedule, state = offline_stage.begin(run, stage, start)
  update = make_hft_step(run.policy_config, optimizer, schedule, run.mesh, best.rows.at_a_time)

  # ---- Loop: responses -> update -> metrics, checkpoint
  batch_of = functools.partial(offline.response_batch, run, best)
  return offline_stage.run_steps(run, stage, report, state, update, best, batch_of)


job = functools.partial(offline_stage.job, RFT, train)


def main(_) -> None:
  with Preemption() as preemption:
    job(with_absolute_paths(_CONFIG.value), _WORKDIR.value, preemption)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

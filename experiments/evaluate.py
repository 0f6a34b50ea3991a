"""Evaluates a trained policy: free choice, both forced modes, Hybrid Accuracy, report.

  python -m experiments.evaluate --config experiments/configs/arithmetic.py \\
      --config.init_from=runs/arithmetic --workdir runs/evaluation
"""

from lhrm_jax.errors import UserError
from lhrm_jax.runs import command_line, output_folders, reporting, setup
from lhrm_jax.runs.config import Config, from_config_dict
from lhrm_jax.runs.paths import with_absolute_paths
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.starting_policy import stage_and_step


def job(c: Config, workdir: str, preemption: Preemption) -> None:
  """Evaluation of what `init_from` names, with its report."""
  with RunFolder(workdir, c, stages=()) as folder:
    run = setup.make(c)
    setup.check_rows(run, ())
    folder.describe(run)
    with reporting.Reporting(run, folder, preemption, stages=()) as report:
      stage, step = stage_and_step(c.init_from)
      report.evaluate(stage, step, run.params)


def main(_) -> None:
  c = from_config_dict(with_absolute_paths(_CONFIG.value))
  if not c.init_from:
    raise UserError("Name the run to evaluate: --config.init_from=RUN.")
  workdir = _WORKDIR.value or output_folders.evaluation_folder(c.init_from)
  with Preemption() as preemption:
    job(c, workdir, preemption)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir(required=False)
  command_line.run(main)

"""Evaluates a trained policy: free choice, both forced modes, Hybrid Accuracy, report.

  python -m experiments.evaluate --config experiments/configs/arithmetic.py \\
      --config.init_from=runs/arithmetic --workdir runs/evaluation
"""

from experiments import command_line, reporting, setup


def main(_) -> None:
  if not _CONFIG.value.init_from:
    raise command_line.UserError("Name the run to evaluate: --config.init_from=RUN.")
  run = setup.make(_CONFIG.value)
  workdir = setup.prepare_workdir(_WORKDIR.value or f"{run.config.init_from}/evaluation", run)
  with reporting.Reporting(run, workdir, stages=()) as report:
    stage = setup.HFT  # what a pretrained model stands for here: nothing of HGPO in it
    if setup.run_folder(run.config.init_from):
      stage = setup.find_stage(run.config.init_from)[1].name
    report.evaluate(stage, run.params)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir(required=False)
  command_line.run(main)

"""Evaluates a trained policy: free choice, both forced modes, Hybrid Accuracy, report.

  python -m experiments.evaluate --config experiments/configs/arithmetic.py \\
      --config.init_from=runs/arithmetic --workdir runs/evaluation
"""

import pathlib
import re
import time

from lhrm_jax.errors import UserError
from lhrm_jax.runs import command_line, reporting, setup
from lhrm_jax.runs.config import from_config_dict
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.storage import urls


def main(_) -> None:
  c = from_config_dict(setup.with_absolute_paths(_CONFIG.value))
  if not c.init_from:
    raise UserError("Name the run to evaluate: --config.init_from=RUN.")
  workdir = _WORKDIR.value or default_workdir(c.init_from)
  with Preemption() as preemption, RunFolder(workdir, c, stages=()) as folder:
    run = setup.make(c)
    setup.check_rows(run, ())
    folder.describe(run)
    with reporting.Reporting(run, folder, preemption, stages=()) as report:
      stage, step = setup.HFT, 0  # what a pretrained model stands for: nothing of HGPO in it
      if setup.run_folder(c.init_from):
        checkpoint = setup.find_checkpoint(c.init_from)[1]
        stage, step = checkpoint.parent.name, int(checkpoint.name)
      report.evaluate(stage, step, run.params)


def default_workdir(init_from: str) -> str:
  """Where the results go if nobody says: into the run evaluated, or into `runs/`.

  Never below the path that `init_from` itself may stand for: that would then be a folder, and no
  model of the hub.
  """
  name = f"evaluation-of-{time.strftime('%Y%m%d-%H%M%S')}"
  if urls.is_url(init_from):
    return f"{init_from.rstrip('/').partition('/checkpoints/')[0]}/{name}"
  if run := setup.run_folder(init_from):
    return str(run / name)
  model = re.sub(r"[^A-Za-z0-9._-]+", "-", pathlib.Path(init_from).name)
  return str(pathlib.Path("runs") / f"{name}-of-{model}")


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir(required=False)
  command_line.run(main)

"""Trains routers on the training prompts, and compares them with the policy's own choice.

  python -m experiments.rollouts --config experiments/configs/arithmetic.py \\
      --config.init_from=runs/arithmetic --workdir runs/rollouts
  python -m experiments.routers --config experiments/configs/arithmetic.py \\
      --config.init_from=runs/arithmetic --config.rollouts.path=runs/rollouts --workdir runs/routers

Evaluates the policy first, unless --workdir holds its evaluation. Writes the trained routers into
WORKDIR/routers, for `experiments.route` and `lhrm_jax.routing.load`, and beside the evaluation's
samples routing.json (the comparison) and thresholds.json (thresholds on p(think) by think rate).
See docs/routing.md.
"""

from lhrm_jax import parallel, routing
from lhrm_jax.errors import UserError
from lhrm_jax.evaluation import routers
from lhrm_jax.runs import command_line, output_folders, setup, tradeoffs
from lhrm_jax.runs.config import Config, from_config_dict
from lhrm_jax.runs.paths import with_absolute_paths
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.reporting import Reporting
from lhrm_jax.runs.run_folder import RunFolder
from lhrm_jax.runs.starting_policy import stage_and_step

_PARTS = "evaluation/*/samples.jsonl"  # an evaluation that is there is kept


def job(c: Config, workdir: str, preemption: Preemption) -> None:
  """Evaluation of what `init_from` names, routers, and their comparison."""
  with RunFolder(workdir, c, stages=(), parts=_PARTS) as folder:
    run = setup.make(c)
    setup.check_rows(run, ())
    folder.describe(run)

    # ---- Training prompts -> examples -> routers
    rollouts = tradeoffs.training_rollouts(run)
    examples = tradeoffs.examples_of(rollouts, c.evaluation.margin)
    if parallel.is_writer():
      trained = tradeoffs.train_routers(examples, folder.path / "routers")

    with Reporting(run, folder, preemption, stages=()) as report:
      # ---- The policy's own choice, and its threshold
      stage, step = stage_and_step(c.init_from)
      report.evaluate(stage, step, run.params)
      thresholds = tradeoffs.thresholds_of(run, rollouts)

      # ---- Comparison on the evaluation's prompts, before the report that shows it
      if parallel.is_writer():
        beside = folder.path / "evaluation" / stage
        routing.save_thresholds(beside / tradeoffs.THRESHOLDS, thresholds)
        compared = tradeoffs.write_comparison(beside, trained, c.evaluation.margin, examples)
        print(f"{routers.table(compared)}\n", *compared["remarks"], sep="\n")
        print(f"Routers:     {folder.path / 'routers'}", flush=True)


def main(_) -> None:
  c = from_config_dict(with_absolute_paths(_CONFIG.value))
  if not c.init_from or not c.rollouts.path:
    raise UserError(
      "Name the policy, and its rollouts on the training prompts (experiments.rollouts): "
      "--config.init_from=RUN --config.rollouts.path=DIR."
    )
  workdir = _WORKDIR.value or output_folders.evaluation_folder(c.init_from)
  with Preemption() as preemption:
    job(c, workdir, preemption)


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir(required=False)
  command_line.run(main)

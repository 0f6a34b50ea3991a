"""Methods against each other: arms and seeds from one checkpoint per seed, in one process.

  python -m experiments.compare --config experiments/configs/compare_arithmetic.py \\
      --workdir runs/compare

Each arm and seed is a run folder of its own, WORKDIR/arms/ARM/SEED. The same command resumes: what
is finished is not run again. Without init_from the cold start of each seed is made first, in
WORKDIR/start/SEED; with it, {seed} in it stands for the seed. Arms that train offline share the
rollouts in WORKDIR/rollouts/SEED. WORKDIR/compare.html is the report.
"""

import pathlib

from experiments import dpo, evaluate, hft, hgpo, rft, rollouts
from lhrm_jax import parallel
from lhrm_jax.errors import UserError
from lhrm_jax.evaluation.comparison import compare as compared
from lhrm_jax.evaluation.comparison_report import write_comparison
from lhrm_jax.runs import command_line, compare, compare_records
from lhrm_jax.runs.config import HFT, plain
from lhrm_jax.runs.gates import GateError
from lhrm_jax.runs.nonfinite import NonFiniteError
from lhrm_jax.runs.paths import with_absolute_paths
from lhrm_jax.runs.preemption import Preemption
from lhrm_jax.runs.run_folder import warn
from lhrm_jax.runs.versions import current_versions
from lhrm_jax.storage import urls

# What trains an arm: functions of a config, a run folder and what listens for signals.
JOBS = {"hft": evaluate.job, "hgpo": hgpo.job, "dpo": dpo.job, "rft": rft.job}


def run_once(
  job, config, folder: pathlib.Path, preemption: Preemption, write=compare_records.write
) -> None:
  """Runs a job, or what is left of it, unless it is over."""
  if not compare_records.finished(folder, config):
    job(config, str(folder), preemption)
    if parallel.is_writer():
      write(folder, config)


def run_arm(plan: compare.Comparison, arm: compare.Arm, seed: int, workdir, preemption) -> None:
  """Runs one arm and seed, with the cold start before it where the comparison makes that."""
  folder, start = workdir / "arms" / arm.name / str(seed), plan.init_from(seed)
  if not start:
    made = workdir / "start" / str(seed)
    run_once(hft.job, plan.start(seed), made, preemption)
    start = str(made / "checkpoints" / HFT)
    # It was evaluated there: once for all arms, which count it as their step 0.
    step = None if arm.job == compare.EVALUATION_ONLY else 0
    evaluation = pathlib.Path("evaluation") / f"{HFT}.json"
    if parallel.is_writer():
      compare_records.share_evaluation(made / evaluation, folder / evaluation, step)
  sampled = ""
  if arm.job in compare.OFFLINE:
    samples = workdir / "rollouts" / str(seed)
    sampling = plan.start(seed, start)
    run_once(rollouts.job, sampling, samples, preemption, compare_records.write_config)
    sampled = str(samples)
  run_once(JOBS[arm.job], plan.config(arm, seed, start, sampled), folder, preemption)


def write_report(plan: compare.Comparison, workdir, failed: dict[str, str]) -> None:
  """Compares what is finished, and prints the tables."""
  records: dict[str, dict] = {arm.name: {} for arm in plan.arms}
  for arm in plan.arms:
    for seed in plan.seeds:
      found = compare_records.read(workdir / "arms" / arm.name / str(seed))
      if found and f"{arm.name}, seed {seed}" not in failed:
        records[arm.name][seed] = found
  if finished := {name: by_seed for name, by_seed in records.items() if by_seed}:
    arms = {arm.name: {"job": arm.job, "overrides": dict(arm.overrides)} for arm in plan.arms}
    page = write_comparison(
      workdir, compared(finished), arms=arms, failed=failed, config=plain(plan.base),
      versions=current_versions(),
    )  # fmt: skip
    tables = (workdir / "compare.md").read_text(encoding="utf-8")
    print(f"\n{tables}\nComparison:  {page}", flush=True)


def main(_) -> None:
  plan = compare.of_config(with_absolute_paths(_CONFIG.value), JOBS)
  if urls.is_url(_WORKDIR.value):
    raise UserError("--workdir is a URL, and a comparison is many run folders: name a folder here.")
  workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute()
  failed: dict[str, str] = {}
  with Preemption() as preemption:
    for seed in plan.seeds:
      for arm in plan.arms:
        if parallel.is_writer():
          print(f"\n==== {arm.name}, seed {seed}", flush=True)
        try:
          run_arm(plan, arm, seed, workdir, preemption)
        except (GateError, NonFiniteError) as error:  # of this arm alone
          warn(f"{arm.name}, seed {seed}: {error}")
          failed[f"{arm.name}, seed {seed}"] = str(error)
      if parallel.is_writer():
        write_report(plan, workdir, failed)
  if failed:
    raise UserError(f"{len(failed)} runs failed and are not in the tables: {'; '.join(failed)}.")


if __name__ == "__main__":
  _CONFIG = command_line.define_config()
  _WORKDIR = command_line.define_workdir()
  command_line.run(main)

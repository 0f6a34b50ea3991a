"""Writes the report of a run anew, or compares runs.

  python -m experiments.report runs/arithmetic
  python -m experiments.report runs/hgpo runs/grpo runs/thinkless --out runs/comparison

Of one run: its report/index.html, from its files. Of several: the last stage of each against that
of the first, prompt by prompt; --out gets compare.html, compare.md, compare.json and figures.
Nothing is sampled.
"""

import pathlib

from absl import flags

from lhrm_jax.errors import UserError
from lhrm_jax.evaluation.comparison import compare
from lhrm_jax.evaluation.comparison_report import write_comparison
from lhrm_jax.evaluation.report import write_report
from lhrm_jax.runs import command_line, loading, reading_runs


def report(run: pathlib.Path) -> pathlib.Path:
  """Report of one run."""
  summary = reading_runs.read_summary(run)
  kept = reading_runs.kept_evaluations(run, list(summary["stages"]))
  return write_report(run / "report", summary, reading_runs.all_metrics(run), kept)


def comparison(runs: list[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
  """Comparison of the first run with the others."""
  names = reading_runs.short_names(runs)
  # A policy each, paired by prompt: what seed trained it does not pair it with another.
  records = {name: {0: reading_runs.record(run)} for name, run in zip(names, runs, strict=True)}
  configs = [reading_runs.read_summary(run)["config"] for run in runs]
  try:
    found = compare(records)
  except ValueError as error:
    raise UserError(f"{error} Evaluate the runs with one config.") from error
  settings = zip(names, reading_runs.differences(configs), strict=True)
  out.mkdir(parents=True, exist_ok=True)
  return write_comparison(
    out, found, arms={name: {"job": "run", "overrides": of} for name, of in settings},
    failed={}, config=configs[0], versions=reading_runs.read_summary(runs[0])["versions"],
  )  # fmt: skip


def main(argv) -> None:
  runs = [pathlib.Path(name).expanduser().absolute() for name in argv[1:]]
  if not runs:
    raise UserError("Name a run, or several to compare: python -m experiments.report RUN1 RUN2")
  if len(runs) == 1:
    if _OUT.value:
      raise UserError("--out is for a comparison; the report of one run goes into the run.")
    print(f"Report:      {report(runs[0])}")
    return
  out = pathlib.Path(_OUT.value or runs[0].parent / "comparison").expanduser().absolute()
  if loading.is_run(out):
    raise UserError(f"--out {out} is a run's folder: choose another for the comparison.")
  page = comparison(runs, out)
  tables = (out / "compare.md").read_text(encoding="utf-8")
  print(f"\n{tables}\nComparison:  {page}")


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder of a comparison, beside RUN by default.")
  command_line.run(main, arguments="RUN [RUN ...]")

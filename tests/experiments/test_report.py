"""`experiments.report`: the report of a run anew, and runs against each other."""

import json
import pathlib
import shutil
import types

import pytest

from experiments import report
from lhrm_jax.errors import UserError
from lhrm_jax.runs import reading_runs, reporting
from tests.evaluation import report_runs

OLDER = pathlib.Path(__file__).parents[1] / "fixtures" / "run_before_typed_configs"


@pytest.fixture
def command(monkeypatch):
  """Runs the command in this process."""

  def run(*arguments, out=None):
    monkeypatch.setattr(report, "_OUT", types.SimpleNamespace(value=out), raising=False)
    report.main(["report", *map(str, arguments)])

  return run


def finished(folder: pathlib.Path, accuracy: float, **config) -> pathlib.Path:
  """A run that is over, as its files say."""
  summary = report_runs.run_summary(hgpo=report_runs.stage_summary(8, accuracy=accuracy))
  summary["config"] |= config
  (folder / "report").mkdir(parents=True)
  (folder / "report" / "summary.json").write_text(json.dumps(summary))
  by_prompt = report_runs.by_prompt(8)
  by_prompt["score"][0] = accuracy
  (folder / "evaluation").mkdir()
  reporting.keep_evaluation(
    folder / "evaluation" / "hgpo.json",
    {
      "summary": summary["stages"]["hgpo"],
      "samples": report_runs.excerpt(),
      "by_prompt": by_prompt,
    },
  )
  return folder


def test_a_run_of_an_older_version_gets_a_report(command, tmp_path, capsys):
  run = shutil.copytree(OLDER, tmp_path / "run")
  command(run)
  page = (run / "report" / "index.html").read_text()
  assert "After HGPO, as many tokens as always thinking" in page
  assert f"Report:      {run / 'report' / 'index.html'}" in capsys.readouterr().out


def test_runs_are_compared_prompt_by_prompt(command, tmp_path, capsys):
  runs = [finished(tmp_path / name / "0", 1.0, lr=lr) for name, lr in (("a", 1), ("<b>", 2))]
  command(*runs)
  out = tmp_path / "a" / "comparison"
  found = json.loads((out / "compare.json").read_text())
  assert list(found["arms"]) == ["a", "<b>"], "what tells the folders apart"
  assert found["arms"]["<b>"]["metrics"]["accuracy"]["difference"]["mean"] == 0
  assert found["settings"]["<b>"]["overrides"] == {"lr": 2}
  page = (out / "compare.html").read_text()
  assert "<b>" not in page and "&lt;b&gt;" in page and "lr=2" in page
  assert "| less a |" in capsys.readouterr().out


def test_a_user_learns_what_is_wrong(command, tmp_path):
  run = finished(tmp_path / "run", 1.0)
  with pytest.raises(UserError, match="neither a report nor an evaluation"):
    command(tmp_path / "nothing")
  with pytest.raises(UserError, match="named twice"):
    command(run, run)
  with pytest.raises(UserError, match="--out is for a comparison"):
    command(run, out="x")
  with pytest.raises(UserError, match="keeps no results prompt by prompt"):
    command(run, shutil.copytree(OLDER, tmp_path / "older"))
  other = finished(tmp_path / "other", 1.0)
  kept = reading_runs.kept_evaluations(other, ["hgpo"])["hgpo"]
  kept["by_prompt"]["level"][0] = 4
  reporting.keep_evaluation(other / "evaluation" / "hgpo.json", kept)
  with pytest.raises(UserError, match="different prompts"):
    command(run, other)
  (run / "report" / "summary.json").write_text("{")
  with pytest.raises(UserError, match=r"summary\.json is damaged"):
    command(run)

"""What a comparison says of records that were worked out by hand."""

import numpy as np
import pytest

from benchmarks import results
from lhrm_jax.evaluation.comparison import as_markdown, compare
from lhrm_jax.evaluation.comparison_report import write_comparison

LEVELS = [1, 1, 2, 2]
BETTER = [1, 1, 0, 0]
HACC = ("ceiling", "random", "always_think", "always_no_think", "expected_score",
        "regret_accuracy", "regret_tokens", "invalid_frac")  # fmt: skip


def record(score, mode, tokens=(2, 2, 6, 6), curve=(), sampled=100.0, **by_prompt):
  summary = {"hacc": dict.fromkeys(HACC, 0.5), "first_token": {"neither": 0.01}}
  points = [{"step": s, "sampled_tokens": t, "accuracy": a} for s, t, a in curve]
  of = {"level": LEVELS, "score": score, "tokens": list(tokens), "mode": mode, "better": BETTER}
  return {
    "summary": summary,
    "by_prompt": {**of, **by_prompt},
    "cost": {"sampled_tokens": sampled, "flops": 10 * sampled, "seconds": 1.0},
    "curve": points,
  }


def found():
  return compare({
    "first": {
      0: record([1, 1, 1, 0], [1, 1, 0, 0], curve=((0, 0, 0.0), (2, 100, 0.5)), sampled=100.0),
      1: record([1, 1, 1, 1], [1, 1, 0, 0], curve=((0, 0, 0.5), (2, 300, 1.0)), sampled=300.0),
    },
    "always": {
      1: record([1, 1, 0, 1], [0, 0, 0, 0], (6, 6, 6, 6), curve=((0, 0, 0.5), (2, 200, 0.7)),
                sampled=200.0),
    },
    "start": {0: record([0, 0, 0, 0], [-1, 0, 0, 0], sampled=0.0)},
  })  # fmt: skip


def test_metrics_are_means_over_seeds_and_prompts():
  first = found()["arms"]["first"]["metrics"]
  assert first["accuracy"]["mean"] == 7 / 8 and first["accuracy"]["by_seed"] == [0.75, 1]
  assert first["hacc"]["mean"] == 1 and first["hacc"]["interval"][0] < 1
  assert first["think_rate"]["mean"] == 0.5 and first["mean_tokens"]["mean"] == 4
  start = found()["arms"]["start"]["metrics"]
  assert start["hacc"]["mean"] == 0.5, "a reply without a mode has not chosen the better one"
  assert start["think_rate"]["mean"] == 0.75


def test_differences_are_paired_on_the_seeds_that_both_have():
  always = found()["arms"]["always"]["metrics"]
  assert always["accuracy"]["difference"]["mean"] == -0.25, "seed 1 against seed 1"
  assert always["think_rate"]["difference"]["mean"] == 0.5
  assert always["mean_tokens"]["difference"]["mean"] == 2
  assert "difference" not in found()["arms"]["first"]["metrics"]["accuracy"]


def test_levels_are_apart():
  levels = found()["arms"]["always"]["by_level"]
  assert levels["1"]["accuracy"]["mean"] == 1 and levels["2"]["accuracy"]["mean"] == 0.5
  assert levels["1"]["hacc"]["mean"] == 0 and levels["2"]["hacc"]["mean"] == 1


def test_costs_are_means_and_budgets_are_what_all_have_spent():
  result = found()
  assert result["arms"]["first"]["cost"] == {"sampled_tokens": 200, "flops": 2000, "seconds": 1}
  assert result["budget"] == 100, "the arm that trains nothing limits no budget"
  # Seed 0 has .5 after 100 tokens; seed 1 a third of the way from .5 to 1.
  assert result["arms"]["first"]["at_budget"]["accuracy"] == pytest.approx((0.5 + 2 / 3) / 2)
  assert result["arms"]["always"]["at_budget"]["accuracy"] == pytest.approx(0.6)
  assert result["arms"]["start"]["at_budget"] == {}
  last = result["arms"]["first"]["curve"][-1]
  assert last == {"step": 2, "sampled_tokens": 200, "accuracy": [0.75, 0.5, 1.0]}


def test_what_sampled_more_before_its_first_step_is_not_compared_at_less():
  offline = record([1] * 4, [0] * 4)
  offline["curve"] = [{"step": step, "sampled_tokens": 500, "accuracy": 0.5} for step in (0, 1)]
  result = compare({"first": {0: record([1] * 4, [0] * 4)}, "offline": {0: offline}})
  assert result["budget"] < 500
  assert result["arms"]["offline"]["at_budget"] == {}


def test_other_prompts_are_no_comparison():
  arms = {"a": {0: record([1] * 4, [0] * 4)}, "b": {0: record([1] * 4, [0] * 4, level=[1] * 4)}}
  with pytest.raises(ValueError, match="different prompts"):
    compare(arms)


def test_the_tables_show_every_arm_with_its_intervals():
  tables = as_markdown(found()).split("\n\n")
  results, differences, levels, budgets = tables
  assert [line.split(" | ")[0] for line in results.splitlines()[2:]] == [
    "| first", "| always", "| start",
  ]  # fmt: skip
  assert "| always | -0.250 (" in differences and "| first" not in differences
  assert levels.startswith("| think rate, level | 1 | 2 |")
  assert "after 100 sampled tokens" in budgets and "0.583" in budgets


def test_a_page_of_the_docs_shows_the_same_tables(tmp_path, monkeypatch):
  write_comparison(tmp_path, found(), arms={}, failed={}, config={}, versions={})
  (tmp_path / "compare.json").rename(tmp_path / "compare_arithmetic.json")
  monkeypatch.setattr(results, "RESULTS", tmp_path)
  page = results.rendered("<!-- results: compare-arithmetic -->\n<!-- end -->")
  assert as_markdown(found()) in page


def test_the_report_is_one_page_that_escapes_what_it_shows(tmp_path):
  about = {"arms": {"first": {"job": "hgpo", "overrides": {"k": "<b>"}}}, "failed": {"x": "<i>"}}
  result = found()
  result["arms"]["first"]["hacc"]["ceiling"] = np.nan
  page = write_comparison(tmp_path, result, **about, config={}, versions={}).read_text()
  assert page.count("<svg") == page.count('role="img"') == 4
  for outside in ("src=", "<script", "<link", "<b>", "<i>"):
    assert outside not in page
  assert "NaN" not in (tmp_path / "compare.json").read_text()
  assert {p.name for p in (tmp_path / "figures").iterdir()} == {
    "accuracy_against_tokens.png", "hybrid_accuracy.png", "think_rate_by_level.png",
    "accuracy_against_sampled_tokens.png",
  }  # fmt: skip


def test_runs_on_other_prompts_are_not_paired():
  """As with suites that have no levels."""
  arms = {name: {0: record([1] * 4, [1] * 4, prompt=[name] * 4)} for name in ("svamp", "asdiv")}
  with pytest.raises(ValueError, match="different prompts"):
    compare(arms)

"""The report of a run: its numbers, its blocks of replies, and that it trusts no text."""

import base64
import gzip
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest

from lhrm_jax.evaluation import drawing, figures, report_tables, sample_browser, sample_table
from lhrm_jax.evaluation.headline import headline
from lhrm_jax.evaluation.report import write_report
from lhrm_jax.evaluation.sample_table import longest_that_fits, shortened
from tests.evaluation import report_runs

PROMPTS = 24


class Page(html.parser.HTMLParser):
  """Elements of a page with their attributes, and the text of scripts by id."""

  def __init__(self, content: str):
    super().__init__()
    self.elements: list[tuple[str, dict]] = []
    self.open: list[tuple[str, dict]] = []
    self.scripts: list[tuple[dict, str]] = []
    self.unlabelled: list[dict] = []
    self.feed(content)

  def handle_starttag(self, tag, attributes):
    element = (tag, dict(attributes))
    self.elements.append(element)
    labelled = any(name == "label" for name, _ in self.open) or "aria-label" in element[1]
    if tag in ("input", "select") and not labelled:
      self.unlabelled.append(element[1])
    if tag not in ("meta", "input", "br", "path", "use", "link"):
      self.open.append(element)

  def handle_startendtag(self, tag, attributes):
    self.elements.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    while self.open and self.open.pop()[0] != tag:
      pass

  def handle_data(self, data):
    if self.open and self.open[-1][0] == "script":
      self.scripts.append((self.open[-1][1], data))

  def of(self, tag: str) -> list[dict]:
    return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> str:
  arguments = report_runs.write_run(tmp_path_factory.mktemp("run"), PROMPTS)
  return write_report(**arguments).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(content) -> Page:
  return Page(content)


def unpacked(page: Page, stage: str) -> tuple[dict, list]:
  """Columns and texts of a stage, as the browser of samples reads them."""
  blocks = {a["id"]: json.loads(gzip.decompress(base64.b64decode(text)))
            for a, text in page.scripts if a.get("type") == "application/gzip"}  # fmt: skip
  columns = blocks[f"{stage}-columns"]
  return columns, [t for i in range(len(columns["firsts"])) for t in blocks[f"{stage}-{i}"]]


def test_only_its_own_script_may_run_and_nothing_is_fetched(page):
  (policy,) = (a["content"] for a in page.of("meta") if a.get("http-equiv"))
  assert policy.startswith("default-src 'none'; script-src 'sha256-")
  (script,) = (text for attributes, text in page.scripts if "type" not in attributes)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert f"'sha256-{digest}'" in policy, "the script is not the one that may run"
  for tag, attributes in page.elements:
    assert tag not in ("link", "iframe", "object", "embed", "img", "base")
    assert not any(name.startswith("on") or name == "src" for name in attributes), attributes
  links = {a["href"] for a in page.of("a")}
  assert links - {"https://arxiv.org/abs/2505.14631"} <= {f"#{a['id']}" for _, a in page.elements
                                                          if "id" in a}  # fmt: skip


def test_no_text_of_a_model_or_a_user_becomes_markup(content):
  assert "harmed" not in content, "replies are compressed, so none of their text is in the page"
  assert "<the>" not in content and "A note on &lt;the&gt; task." in content
  assert "<accuracy>" not in content and "the policy&#39;s choice in &lt;accuracy&gt;" in content


def test_the_script_writes_text_and_never_markup(page):
  (script,) = (text for attributes, text in page.scripts if "type" not in attributes)
  for danger in (
    "innerHTML",
    "outerHTML",
    "insertAdjacent",
    "document.write",
    "eval(",
    "Function(",
  ):
    assert danger not in script


def test_every_reply_is_in_the_page_beside_its_prompt(page):
  columns, texts = unpacked(page, "hgpo")
  assert columns["prompts"]["id"] == list(range(PROMPTS))
  assert columns["replies"]["count"] == [6] * PROMPTS
  of_prompt = texts[7 * 5 : 7 * 6]  # a prompt and two replies in each of three passes
  assert of_prompt[0] == report_runs.HOSTILE[5], "lone surrogates and all"
  assert of_prompt[3:5] == [f"<think>{report_runs.HOSTILE[5]}</think>"] * 2
  assert columns["replies"]["pass"][:6] == [0, 0, 1, 1, 2, 2]
  flags = np.array(columns["replies"]["flags"]).reshape(PROMPTS, 6)
  assert (flags[5] == sample_table.MALFORMED + sample_table.CUT_OFF).all()
  assert (flags[6] == sample_table.LEAK).all() and not flags[:5].any()
  assert columns["prompts"]["chosen"][:2] == [0, 1]


def test_a_run_without_files_of_samples_shows_the_few_that_it_kept(page):
  columns, texts = unpacked(page, "hft")
  assert texts[:3] == [report_runs.HOSTILE[0], f"<think>{report_runs.HOSTILE[0]}</think>9",
                       "<no_think>8</no_think>"]  # fmt: skip
  assert columns["replies"]["score"][:2] == [1.0, 0.0] and columns["replies"]["tokens"][0] == -1


def test_controls_figures_and_tables_have_names(page):
  assert page.of("html") == [{"lang": "en"}] and not page.unlabelled
  ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
  assert len(ids) == len(set(ids))
  images = [a for _, a in page.elements if a.get("role") == "img"]
  assert len(images) == len(page.of("figure")) >= 7
  assert all(image["aria-labelledby"] in ids for image in images)
  assert len(page.of("caption")) == len(page.of("table"))
  assert {a["scope"] for a in page.of("th")} == {"col", "row"}
  levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
  assert levels[0] == 1 and max(np.diff(levels)) <= 1


def test_calibration_routers_and_dials_are_drawn_where_they_were_measured(content):
  assert "AUROC 0.90 (0.80 to 0.95)" in content and "expected calibration error 0.10" in content
  assert "prompt length" in content and "bias on the tag" in content
  assert "\u221210.0" in content and "\u221220.0 to +1.0" in content, (
    "points of the router less the policy's"
  )


def test_the_headline_says_what_is_saved_and_what_it_costs():
  found = headline("hgpo", report_runs.stage_summary(100))
  assert (
    found.title
    == "After HGPO, 50\u00a0% fewer tokens than always thinking, 2.0 points less accurate"
  )
  accuracy, tokens, think_rate, better = found.facts
  assert accuracy.value == "90.0\u00a0%" and accuracy.interval == "82.6 to 94.5\u00a0%", "Wilson's"
  against = ["\u22122.0 points vs. always", "+30.0 points vs. never"]
  assert accuracy.beside == against
  assert tokens.value == "40.0" and "80.0" in tokens.beside[0]
  assert think_rate.beside == ["12\u00a0% at level 1, 50\u00a0% at level 4"]
  assert better.value == "80.0\u00a0%" and "ceiling 95.0\u00a0%" in better.beside[0]


def test_the_headline_does_not_praise_what_saves_nothing():
  worse = headline("hft", report_runs.stage_summary(100, free_tokens=120.0, accuracy=0.93))
  assert worse.title.endswith("50\u00a0% more tokens than always thinking, 1.0 point more accurate")
  same = headline("hft", report_runs.stage_summary(100, free_tokens=80.0, accuracy=0.92))
  assert same.title.endswith("as many tokens as always thinking, the same accuracy")


def test_differences_have_the_intervals_that_the_evaluation_found():
  summary = report_runs.stage_summary(100)
  apart = {"accuracy": {"mean": -0.02, "interval": [-0.05, 0.01]}}
  summary["differences"] = {"auto-think": apart}
  assert (
    "\u22122.0 points vs. always (\u22125.0 to +1.0)" in headline("hgpo", summary).facts[0].beside
  )


def test_a_damaged_file_of_samples_is_a_note_and_no_crash(tmp_path):
  arguments = report_runs.write_run(tmp_path, 4, replies=1)
  file = tmp_path / "evaluation" / "hgpo" / "samples.jsonl"
  file.write_bytes(b"{}\n" + file.read_bytes())
  (file.parent / "routing.json").write_text("[")
  content = write_report(**arguments).read_text()
  assert "samples.jsonl:1 is damaged" in content and "leaves routing.json out" in content
  assert unpacked(Page(content), "hgpo")[1][0] == report_runs.HOSTILE[0], "the excerpt instead"
  file.write_text(json.dumps({**json.loads(file.read_bytes().splitlines()[1]), "score": []}) + "\n")
  assert "only a few replies after HGPO" in write_report(**arguments).read_text()


def test_long_texts_lose_their_middle_until_all_fit(tmp_path):
  assert longest_that_fits(np.array([2, 9, 3]), 14) is None
  # Two stay whole; 14 - 5 = 9 characters are left for the others.
  assert longest_that_fits(np.array([20, 2, 30, 3]), 23) == 9
  assert longest_that_fits(np.array([10, 10]), 9) == 4
  assert shortened("abcdefghij", 4) == "ab\n[... 6 characters left out ...]\nij"
  assert shortened("abcd", 4) == "abcd" == shortened("abcd", None)
  report_runs.write_samples(tmp_path, 10, long="x" * 1_000_000)
  table = sample_table.read(tmp_path, 20_000)
  longest = max(table.texts, key=len)
  assert len(longest) < 20_000 and longest.endswith("x</think>")
  assert sum(map(len, table.texts)) > 10_000 and "left out" in longest


def test_replies_sampled_with_a_dial_make_its_curve(tmp_path):
  report_runs.write_samples(tmp_path, 2)
  lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
  free = next(line for line in lines if line["pass"] == "free")
  turned = [
    {**free, "dial": {"budget": budget}, "score": score, "tokens": budget}
    for budget, score in ((64, 1.0), (64, 0.0), (8, 0.0))
  ]
  turned.append({**turned[0], "pass": "think"})  # its mode was not the policy's choice
  with (tmp_path / "samples.jsonl").open("a") as file:
    file.writelines(json.dumps(line) + "\n" for line in turned)
  table = sample_table.read(tmp_path, 10**6)
  assert len(table.texts) == len(lines), "they are no replies of the policy as trained"
  assert table.left_out == 4
  (dial,) = figures.dials(table)
  assert dial.name == "thinking budget" and dial.points == [(8, 0), (64, 0.5)]


def test_texts_are_split_into_blocks_that_the_columns_find(tmp_path, monkeypatch):
  monkeypatch.setattr(sample_browser, "_BLOCK", 100)
  report_runs.write_samples(tmp_path, 30)
  table = sample_table.read(tmp_path, 10**6)
  blocks = {name: json.loads(gzip.decompress(base64.b64decode(text)))
            for name, text in sample_browser.blocks(table, "hgpo", "after HGPO")}  # fmt: skip
  firsts = blocks["hgpo-columns"]["firsts"]
  assert len(blocks) == len(firsts) + 1 > 5 and firsts[0] == 0
  for i, first in enumerate(firsts):
    assert blocks[f"hgpo-{i}"][0] == table.prompts[first].prompt
  joined = [text for i in range(len(firsts)) for text in blocks[f"hgpo-{i}"]]
  assert joined[4:8] == [table.prompts[1].prompt, *table.texts[3:6]]


def test_labels_are_moved_apart_and_no_further():
  np.testing.assert_allclose(drawing.spread(np.array([0.1, 0.5, 0.9]), 0.2), [0.1, 0.5, 0.9])
  np.testing.assert_allclose(drawing.spread(np.array([0.5, 0.5, 0.9]), 0.2), [0.4, 0.6, 0.9])
  # The third is in the way of the first two once they are apart.
  moved = drawing.spread(np.array([0.5, 0.5, 0.6]), 0.3)
  np.testing.assert_allclose(moved, [0.2333, 0.5333, 0.8333], atol=1e-3)


def test_a_figure_takes_the_colours_of_the_page_and_ids_of_its_own():
  row = [{"step": s, "loss": float(s)} for s in range(3)]
  svgs = [drawing.to_svg(figures.curves(row, {"loss": "<loss>"}, "t", "y"), n) for n in "ab"]
  ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in svgs]
  assert ids[0] and not ids[0] & ids[1]
  assert "var(--ink)" in svgs[0] and drawing.INK not in svgs[0] and "&lt;loss&gt;" in svgs[0]
  assert "width=" not in svgs[0][: svgs[0].index(">")] and "viewBox" in svgs[0]


def test_prompts_of_one_level_are_grouped_otherwise():
  summary = report_runs.stage_summary(100)
  assert figures.grouping(summary) == ("by_level", "level")
  for mode in ("auto", "think", "no_think"):
    whole = dict(summary[mode], by_level={})
    summary[mode]["by_level"] = {"0": whole}
    summary[mode]["by_source"] = {"a source <of> some length": whole, "gsm8k": whole}
  assert figures.grouping(summary) == ("by_source", "source")
  svg = drawing.to_svg(figures.think_rate_by_level({"hgpo": summary}, {"0": 0.5}), "a")
  assert "gsm8k" in svg and "a source &lt;of&gt; so" in svg and "thinking is better" not in svg


def test_names_from_data_are_neither_formulas_nor_hidden_in_a_figure():
  summary, name = report_runs.stage_summary(100), "$\\frac{ \ud800 \u202e"
  for mode in ("auto", "think", "no_think"):
    summary[mode]["by_source"] = {name: dict(summary[mode]), "b": dict(summary[mode])}
    summary[mode]["by_level"] = {}
  dial = figures.Dial(name, [(0, 0.2), (50, 0.5)])
  for figure in (
    figures.think_rate_by_level({"hgpo": summary}),
    figures.by_level(summary, "title"),
    figures.accuracy_against_tokens({"hgpo": summary}, [dial]),
  ):
    assert drawing.to_png(figure)
    assert "$\\frac{ \\ud800" in drawing.to_svg(figure, "a")


def test_suites_repeated_replies_and_signs_of_reasoning_have_tables_where_they_were_measured():
  older = report_runs.stage_summary(100)
  stages = {"hgpo": report_runs.stage_summary(100)}
  for found in (report_tables.by_suite("hgpo", older), report_tables.repeated({"hgpo": older}),
                report_tables.mode_leak({"hgpo": older})):  # fmt: skip
    assert found is None, "an older run has none of these"
  new = stages["hgpo"]
  new["suites"] = {"gsm8k": report_runs.stage_summary(100), "aime": report_runs.stage_summary(30)}
  new["auto"] |= {
    "avg": {"k": 4, "mean": 0.75, "interval": [0.7, 0.8]}, "pass": {"1": 0.75, "4": 0.9},
    "maj": None, "percentiles": {"50": 30.0, "95": 900.0}, "truncated_rate": 0.015,
  }  # fmt: skip
  new["mode_leak"] = {"marker_rate": 0.02, "marker_interval": [0.01, 0.04], "drift": None}
  (first, second) = report_tables.by_suite("hgpo", new).rows
  assert first[:3] == ["gsm8k", "100", ("90.0\u00a0%", "82.6 to 94.5\u00a0%")]
  assert second[:2] == ["aime", "30"]
  (row,) = report_tables.repeated(stages).rows
  assert row[1:4] == ["4", ("75.0\u00a0%", "70.0 to 80.0\u00a0%"), "90.0\u00a0%"]
  assert row[4:] == ["n/a", "30.0", "900.0", "1.5\u00a0%"]
  rows = report_tables.mode_leak(stages).rows
  assert rows[0][1] == ("2.0\u00a0%", "1.0 to 4.0\u00a0%") and rows[-1][1] == ("n/a", "")


def test_the_cost_is_that_of_the_last_row_of_each_stage():
  rows = [
    {"step": s, "rollout/tokens_total": 1e6 * s, "perf/flops_total": 2e15 * s} for s in (1, 3)
  ]
  rows.append({"step": 4, "eval/accuracy": 0.5})  # an evaluation, which has no totals
  table = report_tables.cost({"hgpo": rows}, {"hgpo": 7200.0, "evaluation": 90.0})
  assert table.rows[0] == ["HGPO", "2.0 h", "4", "3.00e6", "6.00e15"]
  assert table.rows[1] == ["evaluation", "90.0 s", "", "", ""]

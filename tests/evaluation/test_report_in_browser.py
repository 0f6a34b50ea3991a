"""The report as a reader sees it, in Chromium: sizes, themes, keyboard, filters, many prompts."""

import shutil
import time

import pytest

from lhrm_jax.evaluation.comparison_report import write_comparison
from lhrm_jax.evaluation.report import write_report
from tests.evaluation import report_runs, test_comparison

CHROMIUM = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH (apt-get install chromium)"),
]
PROMPTS = 60
_WATCH = """
  window.problems = []; window.long = [];
  document.addEventListener('securitypolicyviolation', e => problems.push(e.violatedDirective));
  new PerformanceObserver(list => list.getEntries().forEach(e => long.push(e.duration)))
    .observe({type: 'longtask', buffered: true});
"""


@pytest.fixture(scope="module")
def browser():
  with playwright.sync_playwright() as started:
    chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  arguments = report_runs.write_run(tmp_path_factory.mktemp("run"), PROMPTS, long="wide " * 200_000)
  return write_report(**arguments)


@pytest.fixture
def opened(browser, report):
  """Opens the report; at the end, no script of a reply has run and nothing has failed."""
  pages, failures = [], []

  def open_page(path=report, width=1280, scheme="light", ready="article"):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.add_init_script(_WATCH)
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: message.type == "error" and failures.append(message.text))
    page.goto(path.as_uri())
    page.wait_for_selector(ready)
    pages.append(page)
    return page

  yield open_page
  for page in pages:
    assert page.evaluate("window.harmed") is None
    assert page.evaluate("problems") == []
    page.close()
  assert failures == []


def found(page) -> str:
  page.wait_for_function("!document.getElementById('found').textContent.startsWith('Search')")
  return page.inner_text("#found")


def wait_for(page, text: str) -> None:
  page.wait_for_function(
    "text => document.getElementById('found').textContent.startsWith(text)", arg=text
  )


def wait_for_first(page, prompt: int) -> None:
  title = f"Prompt {prompt}"
  page.wait_for_function(
    "t => document.querySelector('article h3').firstChild.data === t", arg=title
  )


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
  folder = tmp_path_factory.mktemp("comparison")
  return write_comparison(folder, test_comparison.found(), arms={}, failed={}, config={},
                          versions={})  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_it_is_read_without_sideways_scrolling_and_by_everyone(
  opened, report, comparison, kind, width, scheme
):
  axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
  path, ready = (report, "article") if kind == "report" else (comparison, "figure")
  page = opened(path, width, scheme, ready)
  page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  broken = axe.Axe().run(page).response["violations"]
  assert [(v["id"], v["nodes"][0]["html"][:200]) for v in broken] == []


def test_text_of_a_model_is_shown_as_it_is_with_what_hides_made_visible(opened):
  page = opened()
  texts = page.locator("article pre").all_inner_texts()
  assert report_runs.HOSTILE[0] in texts and report_runs.HOSTILE[6] in texts
  whole = "\n".join(texts)
  for escape in ("\\u202eto left\\u202c", "zero\\u200bwidth", "\\u001b[2J", "line\\u2028separator",
                 "lone \\ud800 surrogate"):  # fmt: skip
    assert escape in whole
  assert page.locator("article img, article script, article iframe, article svg").count() == 0


def test_a_megabyte_of_text_is_shown_in_parts(opened):
  page = opened()
  page.fill("#search", "of think to 59")
  wait_for_first(page, 59)
  block = page.locator("section.think .text")
  assert len(block.inner_text()) < 2000
  block.get_by_role("button").click()
  assert 50_000 < len(block.inner_text()) < 60_000
  assert page.evaluate("Math.max(0, ...long)") < 500


@pytest.mark.parametrize(("control", "value", "count"), [
  ("level", "2", 15), ("suite", "math500", 30), ("subject", "geometry <b>", 20),
  ("mode", "think", 30),
  ("outcome", "only think right", 30), ("outcome", "both modes right", 30),
  ("outcome", "free reply wrong", 0), ("form", "malformed", 1), ("form", "cut off", 1),
  ("form", "reasoning in no-think", 1),
])  # fmt: skip
def test_a_filter_leaves_what_it_says(opened, control, value, count):
  page = opened()
  page.select_option(f"#filter-{control}", label=value)
  wait_for(page, f"{count} prompt")
  assert page.locator("article").count() == min(count, 20)
  page.click("button[type=reset]")
  wait_for(page, "60 prompts")


def test_the_search_finds_prompts_answers_and_replies_and_marks_them(opened):
  page = opened()
  page.fill("#search", "What IS 41 plus")
  wait_for_first(page, 41)
  assert page.locator("article mark").first.inner_text() == "What is 41 plus"
  page.fill("#search", "reply 1 of no_think to 33")
  wait_for_first(page, 33)
  page.fill("#search", "118")  # the answer to prompt 59
  wait_for_first(page, 59)
  page.fill("#search", ".*")
  wait_for(page, "0 prompts")
  page.select_option("#filter-stage", label="after HFT")
  wait_for(page, "0 prompts of 7")


def test_pages_and_order(opened):
  page = opened()
  assert found(page) == "60 prompts of 60" and page.inner_text("#pages") == "of 3"
  page.click("#next")
  wait_for_first(page, 20)
  page.fill("#page", "99")
  page.keyboard.press("Enter")
  wait_for_first(page, 40)
  assert page.locator("#next").is_disabled() and page.input_value("#page") == "3"
  page.select_option("#filter-order", label="p(think), lowest first")
  wait_for_first(page, 1)


def test_it_works_by_keyboard(opened):
  page = opened()
  page.keyboard.press("Tab")
  assert page.evaluate("document.activeElement.textContent") == "Skip to the replies"
  page.keyboard.press("Enter")
  order = []
  for _ in range(11):
    page.keyboard.press("Tab")
    order.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", order[-1]
  assert order == [
    "search", "filter-stage", "filter-suite", "filter-level", "filter-subject", "filter-mode",
    "filter-outcome", "filter-form", "filter-order", "reset", "page",
  ]  # fmt: skip
  page.keyboard.press("Tab")
  page.keyboard.press("Enter")  # the next page
  wait_for_first(page, 20)
  step = page.locator("section.think button").first
  step.focus()
  page.keyboard.press("Enter")
  assert page.evaluate("document.activeElement.textContent") == "reply 2 of 2"
  assert "reply 1 of think to 20" in page.locator("section.think pre").first.inner_text()


def test_a_hundred_thousand_prompts_do_not_freeze_it(opened, tmp_path):
  arguments = report_runs.write_run(tmp_path, 100_000, replies=1)
  path = write_report(**arguments)
  began = time.perf_counter()
  page = opened(path)
  assert time.perf_counter() - began < 15, "seconds until the first replies are shown"
  began = time.perf_counter()
  page.select_option("#filter-level", label="2")
  wait_for(page, "25,000 prompts of 100,000")
  assert time.perf_counter() - began < 5
  page.click("button[type=reset]")
  wait_for(page, "100,000 prompts")
  began = time.perf_counter()
  page.fill("#search", "reply 0 of think to 99998")
  wait_for(page, "1 prompt of 100,000")
  assert time.perf_counter() - began < 15
  assert page.evaluate("Math.max(...long)") < 1500, "milliseconds without an answer to the user"

"""The page to chat with, in a browser: what it shows, and that text stays text."""

import json
import shutil

import pytest

from tests.serving.small_server import start, stop

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
  process, address = start(tmp_path_factory.mktemp("page"))
  yield address
  stop(process)


@pytest.fixture(scope="module")
def browser():
  chromium = shutil.which("chromium") or shutil.which("google-chrome")
  if chromium is None:
    pytest.skip("Chromium is not installed")
  with playwright.sync_playwright() as started:
    running = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    yield running
    running.close()


def stream(content: str, reasoning: str) -> bytes:
  routing = {"mode": "think", "p_think": 0.75, "lane": "core", "decided_by": "model"}
  chunks = [
    {"choices": [{"delta": {"content": ""}, "routing": routing}]},
    {"choices": [{"delta": {"reasoning": reasoning}}]},
    {"choices": [{"delta": {"content": content}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"completion_tokens": 9,
                              "completion_tokens_details": {"reasoning_tokens": 4}}},
  ]  # fmt: skip
  return "".join(f"data: {json.dumps(c)}\n\n" for c in chunks).encode() + b"data: [DONE]\n\n"


@pytest.mark.parametrize("width", [380, 1200])
def test_a_reply_is_shown_with_what_decided_it_and_its_text_stays_text(address, browser, width):
  page, requests, errors = browser.new_page(viewport={"width": width, "height": 800}), [], []
  page.on("request", lambda request: requests.append(request.url))
  page.on("pageerror", lambda error: errors.append(error))
  page.goto(address)
  page.wait_for_selector("h1:has-text('tiny')")
  page.select_option("#mode", "no_think")
  page.fill("#prompt", "Left to right, last digit: what is 3+4*7?")
  page.press("#prompt", "Enter")
  page.wait_for_selector(".facts:has-text('no_think · lane core · decided by the request')")
  page.route("**/v1/chat/completions", lambda route: route.fulfill(
    body=stream(HOSTILE, HOSTILE), content_type="text/event-stream",
  ))  # fmt: skip
  page.select_option("#mode", "")
  page.fill("#prompt", HOSTILE)
  page.click("#send")
  page.wait_for_selector(".facts:has-text('p(think) 0.750 · 9 tokens, 4 of them thought')")
  assert page.locator(".text").all_text_contents().count(HOSTILE) == 3
  assert page.title() == "Chat" and not page.locator("main img, main script").count()
  assert all(url.startswith(address) for url in requests) and not errors
  box = page.locator("body").bounding_box()
  assert box["width"] <= width and page.locator("#send").is_visible()
  page.close()

"""The judge seam against a real server, which prefers the answer with more exclamation marks."""

import http.server
import json
import threading

import pytest

from lhrm_jax import rewards
from lhrm_jax.evaluation import judge
from lhrm_jax.rewards import CannotJudge, Failed


@pytest.fixture
def server():
  """Requests so far under `asked`; `said` replaces the verdict, `statuses` come first."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
      server.asked.append((self.path, dict(self.headers), body))
      status = server.statuses.pop() if server.statuses else 200
      content = body["messages"][-1]["content"]
      first, second = (
        content.split(f"<answer_{i}>")[1].split("</answer_")[0].count("!") for i in (1, 2)
      )
      verdict = "1" if first > second else "2" if second > first else "TIE"
      said = server.said or f"Clear.\nVERDICT: {verdict}"
      reply = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
      self.send_response(status)
      if status == 302:
        self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
      self.end_headers()
      self.wfile.write(reply)

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  server.asked, server.said, server.statuses = [], "", []
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield server
  server.shutdown()
  server.server_close()


def of(server, **fields) -> judge.EndpointJudge:
  endpoint = f"http://127.0.0.1:{server.server_port}/v1"
  return judge.EndpointJudge(judge.JudgeConfig(endpoint=endpoint, model="m", **fields))


def test_both_orders_are_asked_and_only_the_answer_is_shown(server):
  replies = ["<think>secret plan!!!</think>Hi!!", "<no_think>Hi</no_think>", "<think>cut"]
  scores = of(server).score_batch(["Greet."] * 3, replies, ["Hello!"] * 3)
  assert scores == [1, 0, 0]
  assert len(server.asked) == 4  # nothing of the malformed one
  for path, _, body in server.asked:
    assert path == "/v1/chat/completions" and body["model"] == "m" and body["temperature"] == 0
    assert "secret" not in json.dumps(body) and "Greet." in body["messages"][-1]["content"]


def test_a_judge_that_prefers_a_place_calls_a_tie(server):
  server.said = "VERDICT: 1"
  assert of(server)("p", "<no_think>a</no_think>", "b") == 0.5


def test_the_last_verdict_counts_and_none_is_a_failure(server):
  server.said = "The reply claims VERDICT: 1 but\nverdict: tie"
  assert of(server)("p", "<no_think>a</no_think>", "b") == 0.5
  server.said = "I cannot say."
  assert of(server)("p", "<no_think>a</no_think>", "b").reason == "no_verdict"


def test_errors_of_the_server_are_retried_and_refusals_end_the_run(server, monkeypatch):
  monkeypatch.setattr(judge.time, "sleep", lambda seconds: None)
  server.statuses = [500, 429]
  assert of(server)("p", "<no_think>a!</no_think>", "b") == 1
  server.statuses = [500] * 3
  failed = of(server)("p", "<no_think>a</no_think>", "b")
  assert isinstance(failed, Failed) and failed.reason == "judge"
  server.statuses = [401]
  with pytest.raises(CannotJudge, match="answers 401"):
    of(server)("p", "<no_think>a</no_think>", "b")
  server.shutdown()
  server.server_close()
  with pytest.raises(CannotJudge, match="start the judge first"):
    of(server)("p", "<no_think>a</no_think>", "b")


def test_no_redirect_takes_the_key_and_the_replies_elsewhere(server):
  server.statuses = [302]
  with pytest.raises(CannotJudge, match="answers 302"):
    of(server)("p", "<no_think>a</no_think>", "b")
  assert [path for path, _, _ in server.asked] == ["/v1/chat/completions"]


def test_the_key_comes_from_the_environment(server, monkeypatch):
  monkeypatch.setenv("JUDGE_KEY", "k-123")
  of(server, key_variable="JUDGE_KEY")("p", "<no_think>a</no_think>", "b")
  assert server.asked[0][1]["Authorization"] == "Bearer k-123"


def test_a_reward_model_judges_by_the_difference_of_its_scores():
  """Raw scores are numbers of exclamation marks: 1 / (1 + e^-2) for two more."""

  def score_batch(prompts, responses, answers):
    return [float(response.count("!")) for response in responses]

  by_model = judge.by_reward_model(score_batch)
  found = by_model.score_batch(
    ["p"] * 3, ["<no_think>a!!!</no_think>", "<think>x</think>b!", "no tag!!"], ["c!"] * 3
  )
  assert found == pytest.approx([0.8808, 0.5, 0], abs=1e-4)
  assert by_model.on_device and rewards.name_of(by_model)

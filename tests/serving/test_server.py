"""The real server as a process, asked by OpenAI's own client."""

import asyncio
import concurrent.futures
import json
import re
import socket
import time

import httpx2 as httpx
import openai
import pytest

from experiments.configs.serve import get_config
from lhrm_jax.errors import UserError
from lhrm_jax.runs import served
from lhrm_jax.serving import server
from lhrm_jax.serving.guard import Guard
from lhrm_jax.text import tags
from tests.serving.small_server import BEARER, KEY, LONG, QUESTION, SHORT, start, stop


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def address(folder):
  process, address = start(folder, "--config.body_mib=0.1", "--config.body_seconds=1", key=KEY)
  yield address
  stop(process)
  assert (folder / "log").read_text() == "", "nothing is logged unless asked for"


@pytest.fixture(scope="module")
def client(address):
  with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
    yield client


def ask(client, model="tiny", messages=QUESTION, **options):
  return client.chat.completions.create(model=model, messages=messages, **options)


def gauge(address, name):
  """The sum of a metric over its labels that are named."""
  text = httpx.get(f"{address}/metrics", headers=BEARER).text
  return sum(float(v) for v in re.findall(rf"^{re.escape(name)}\S* (\S+)$", text, re.MULTILINE))


def until(condition):
  deadline = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_a_reply_has_its_parts_its_counts_and_what_decided_it(client):
  raw = client.chat.completions.with_raw_response.create(
    model="tiny", messages=QUESTION, temperature=0.0, max_tokens=6, logprobs=True, top_logprobs=2,
    extra_body={"chat_template_kwargs": {"enable_thinking": True}},
  )  # fmt: skip
  reply = raw.parse()
  (choice,), usage = reply.choices, reply.usage
  assert (choice.finish_reason, choice.message.content) == ("length", "")
  assert choice.message.reasoning and choice.message.reasoning == choice.message.reasoning_content
  assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (16, 6, 22)
  assert usage.completion_tokens_details.reasoning_tokens == 5
  tokens = choice.logprobs.content
  assert tokens[0].token == "<think>" and len(tokens) == 6
  assert "".join(t.token for t in tokens[1:]) == choice.message.reasoning
  assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in tokens)
  assert tokens[1].top_logprobs[0].token == tokens[1].token, "greedy"
  routing = reply.routing
  assert (routing["mode"], routing["lane"], routing["decided_by"]) == ("think", "core", "request")
  assert 0 < routing["p_think"] < 1 and routing["threshold"] is None
  assert raw.headers["x-lhrm-mode"] == "think" and raw.headers["x-lhrm-lane"] == "core"
  assert float(raw.headers["x-lhrm-p-think"]) == pytest.approx(routing["p_think"], abs=1e-6)


@pytest.mark.parametrize(
  ("model", "options", "mode", "by"),
  [
    ("tiny:think", {}, "think", "request"),
    ("tiny:no_think", {}, "no_think", "request"),
    ("tiny", {"reasoning_effort": "none"}, "no_think", "request"),
    ("tiny", {"extra_body": {"think_threshold": 0.0}}, "think", "threshold"),
    ("tiny", {"extra_body": {"think_threshold": 1.0}}, "no_think", "threshold"),
    ("tiny:auto-0", {}, "no_think", "threshold"),
    ("tiny:auto-1", {}, "think", "threshold"),
    ("tiny", {"extra_body": {"tag_bias": 60.0}}, "think", "model"),
  ],
)
def test_every_way_to_choose_the_mode_reaches_the_model(client, model, options, mode, by):
  routing = ask(client, model, max_tokens=3, seed=1, **options).routing
  assert (routing["mode"], routing["decided_by"]) == (mode, by)


def test_a_budget_ends_the_thought(client):
  reply = ask(client, temperature=0.0, max_tokens=20, extra_body={
    "thinking_token_budget": 4, "chat_template_kwargs": {"enable_thinking": True},
  })  # fmt: skip
  assert reply.usage.completion_tokens_details.reasoning_tokens == 4
  assert len(reply.choices[0].message.reasoning) > 0 and reply.choices[0].message.content


def test_a_stream_tells_the_same_as_a_whole_reply(client):
  options = {**LONG, "max_tokens": 30, "seed": 5, "n": 2, "temperature": 1.0, "logprobs": True}
  whole = client.chat.completions.create(**options)
  texts, tags, reasons = ({0: "", 1: ""} for _ in range(3))
  with client.chat.completions.create(
    **options, stream=True, stream_options={"include_usage": True}
  ) as stream:
    assert stream.response.headers["x-lhrm-mode"] == "think"
    *chunks, last = stream
  for chunk in chunks:
    for choice in chunk.choices:
      texts[choice.index] += choice.delta.content or getattr(choice.delta, "reasoning", "") or ""
      tags[choice.index] += (
        "".join(t.token for t in choice.logprobs.content) if choice.logprobs else ""
      )
      reasons[choice.index] = choice.finish_reason or reasons[choice.index]
  assert chunks[0].routing["mode"] == "think" and last.usage == whole.usage and not last.choices
  for choice in whole.choices:
    assert texts[choice.index] == choice.message.reasoning + choice.message.content
    assert reasons[choice.index] == choice.finish_reason
    assert tags[choice.index] == "".join(t.token for t in choice.logprobs.content)
  assert texts[0] != texts[1]


def test_a_stream_counts_in_every_chunk_on_demand(client):
  both = {"include_usage": True, "continuous_usage_stats": True}
  with client.chat.completions.create(**{**LONG, "max_tokens": 9}, stream=True,
                                      stream_options=both) as stream:  # fmt: skip
    counts = [chunk.usage.completion_tokens for chunk in stream]
  assert counts == sorted(counts) and counts[0] < counts[-1] == 9


def test_completions_continue_a_text_or_ids_with_tags_in_it(client):
  options = {"model": "tiny:think", "temperature": 0.0, "max_tokens": 8}
  of_text = client.completions.create(prompt=QUESTION[0]["content"], logprobs=1, **options)
  assert of_text.choices[0].text.startswith("<think>")
  assert "".join(of_text.choices[0].logprobs.tokens) == of_text.choices[0].text
  with client.completions.create(prompt=QUESTION[0]["content"], stream=True, **options) as stream:
    assert "".join(chunk.choices[0].text for chunk in stream) == of_text.choices[0].text
  of_ids = client.completions.create(prompt=[6, 7, 8], **options)
  assert of_ids.usage.prompt_tokens == 3
  with pytest.raises(openai.BadRequestError, match="token 99 is not one of 31"):
    client.completions.create(prompt=[6, 99], **options)


def test_the_same_request_gets_the_same_text_alone_and_under_load(client):
  wanted = {"model": "tiny", "messages": QUESTION, "seed": 11, "max_tokens": 60}
  alone = ask(client, **wanted).choices[0].message
  load = [{**wanted, "seed": seed, "max_tokens": 40} for seed in (1, 2, 3)]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    replies = list(pool.map(lambda options: ask(client, **options), [*load, wanted]))
  assert replies[-1].choices[0].message == alone
  assert len({reply.id for reply in replies}) == 4


def test_a_short_answer_does_not_wait_for_long_thoughts(client, address):
  streams = [client.chat.completions.create(**LONG, stream=True) for _ in range(2)]
  for stream in streams:
    next(stream)
  assert ask(client, **SHORT).choices[0].finish_reason == "stop"
  assert gauge(address, "lhrm_slots_active") + gauge(address, "lhrm_queue") == 2
  assert gauge(address, "lhrm_preemptions_total") >= 1
  for stream in streams:
    assert next(stream).choices
    stream.close()


def test_a_client_that_leaves_frees_its_slot(client, address):
  until(lambda: gauge(address, "lhrm_slots_active") + gauge(address, "lhrm_queue") == 0)
  cancelled = 'lhrm_replies_total{decided_by="request",finish="cancelled"'
  before = gauge(address, cancelled)
  stream = client.chat.completions.create(**LONG, stream=True)
  next(stream)
  stream.close()
  with pytest.raises(openai.APITimeoutError):
    client.with_options(timeout=0.1).chat.completions.create(**LONG)
  until(lambda: gauge(address, cancelled) == before + 2)
  until(lambda: gauge(address, "lhrm_slots_active") == 0)
  assert gauge(address, "lhrm_kv_bytes_held") == 0


def test_a_full_queue_says_when_to_come_again(client):
  with pytest.raises(openai.RateLimitError, match=r"room for 4 more, .* asks for 5") as refused:
    ask(client, n=5)
  assert int(refused.value.response.headers["retry-after"]) >= 1
  assert refused.value.code == "queue_full"


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"model": "tony"}, "model='tony' is not served here; there is tiny, tiny:think"),
    ({"model": "tiny:auto-2"}, "not served here"),
    ({"max_tokens": 5000}, "exceed the 2048 tokens of a request"),
    ({"n": 9}, "n=9 exceeds the 8 choices"),
    ({"extra_body": {"thinking_budget": 5}}, "did you mean thinking_token_budget"),
    ({"extra_body": {"chat_template_kwargs": {"think": False}}}, "'chat_template_kwargs.think'"),
    ({"model": "tiny:think", "reasoning_effort": "none"}, "both choose the mode"),
    ({"model": "tiny:think", "extra_body": {"tag_bias": 1.0}}, "both choose the mode"),
    ({"model": "tiny:no_think", "extra_body": {"thinking_token_budget": 5}}, "no effect where"),
    ({"top_logprobs": 3}, "no effect without logprobs"),
    ({"temperature": -1.0}, "temperature: Input should be greater than or equal to 0"),
    ({"stop": [""]}, "stop"),
    ({"presence_penalty": 1.0}, "presence_penalty: Input should be 0"),
    ({"messages": [*QUESTION, {"role": "assistant", "content": "7"}]}, "has to be the user's"),
    ({"messages": [{"role": "system", "content": "3"}, *QUESTION]}, "trained on single questions"),
    ({"messages": [{"role": "user", "content": "Ünïcode"}]}, "characters this model has never"),
  ],
)
def test_what_cannot_be_done_is_refused_with_what_to_change(client, options, says):
  with pytest.raises(openai.APIStatusError) as refused:
    ask(client, **options)
  error = refused.value
  assert error.status_code in (400, 404) and says in error.message
  assert set(error.body) == {"message", "type", "param", "code"}


def test_bodies_that_are_too_large_too_slow_or_no_json_are_refused(address):
  url, data = f"{address}/v1/chat/completions", {"Content-Type": "application/json", **BEARER}
  large = httpx.post(url, content=b" " * 200_000, headers=data)
  assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
  chunks = (b" " * 50_000 for _ in range(4))
  assert httpx.post(url, content=chunks, headers=data).status_code == 413
  for content in (b"{", b"[" * 90_000, b'{"model": 1e999}', b"\xff", b"null", b"{}"):
    answer = httpx.post(url, content=content, headers=data)
    assert answer.status_code == 400 and answer.json()["error"]["message"], content[:9]
  # A page elsewhere can send this without asking the browser's leave.
  text = httpx.post(
    url, content=json.dumps(SHORT), headers={**BEARER, "Content-Type": "text/plain"}
  )
  assert text.status_code in (400, 415)
  host, port = address.removeprefix("http://").split(":")
  with socket.create_connection((host, int(port))) as slow:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    slow.sendall(f"{head}Content-Length: 9\r\n\r\n{{".encode())
    assert b" 408 " in slow.recv(100)


def test_the_page_loads_nothing_from_elsewhere_and_builds_no_markup_from_text(address):
  page = httpx.get(address)
  policy = page.headers["content-security-policy"]
  assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
  found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
  assert found == ["/chat.css", "/chat.js"] and "style=" not in page.text
  code = "".join(httpx.get(f"{address}{path}").text for path in found)
  assert "textContent" in code
  assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(|https?:|url\(", code)


def test_other_origins_are_not_served(address):
  asked = httpx.options(f"{address}/v1/models", headers={
    **BEARER, "Origin": "https://evil.example", "Access-Control-Request-Method": "POST",
  })  # fmt: skip
  assert not any(name.startswith("access-control") for name in asked.headers)


def test_models_health_and_schema(client, address):
  assert [m.id for m in client.models.list()] == [
    "tiny", "tiny:think", "tiny:no_think", "tiny:auto-0.5",
  ]  # fmt: skip
  assert httpx.get(f"{address}/health").json() == {"status": "ok"}
  assert (
    "/v1/chat/completions" in httpx.get(f"{address}/openapi.json", headers=BEARER).json()["paths"]
  )
  missing = httpx.get(f"{address}/v1/nothing", headers=BEARER)
  assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
  metrics = httpx.get(f"{address}/metrics", headers=BEARER).text
  for name in ("lhrm_time_to_first_token_seconds_count", "lhrm_tokens_total", "lhrm_queue",
               "lhrm_time_per_output_token_seconds_count"):  # fmt: skip
    assert name in metrics


def test_nothing_but_the_page_and_health_is_told_without_the_key(address):
  for path in ("/", "/chat.js", "/health"):
    assert httpx.get(f"{address}{path}").status_code == 200
  for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/nothing"):
    answer = httpx.get(f"{address}{path}")
    assert answer.status_code == 401 and "Bearer" in answer.headers["www-authenticate"]
  for wrong in ("Bearer x", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer"):
    headers = {"Authorization": wrong}
    assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 401


@pytest.mark.slow  # a server of its own
def test_time_is_limited_and_text_is_logged_on_demand(tmp_path):
  process, address = start(tmp_path, "--config.log=text", "--config.request_seconds=0.1")
  try:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:
      reply = ask(client, **SHORT)
      with pytest.raises(openai.InternalServerError, match="longer than the server allows"):
        client.chat.completions.create(**LONG)
      with pytest.raises(openai.APIError, match="longer than the server allows"):
        list(client.chat.completions.create(**LONG, stream=True))
  finally:
    stop(process)
  lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
  assert [line["status"] for line in lines] == [200, 504, 504]
  assert lines[0]["replies"][0]["content"] == reply.choices[0].message.content
  assert lines[0]["prompt"] == QUESTION[0]["content"]


@pytest.mark.parametrize(
  ("settings", "says"),
  [
    ({"slots": 0}, "slots=0 must be a whole number from 1 to 4,096. Set --config.slots"),
    ({"slot": 1}, "slot is not a key"),
    ({"name": "a:b"}, "holds a colon"),
    ({"router": "fast"}, "router='fast' needs a fast lane"),
    ({"fast.slots": 3}, "fast.slots=3 has no effect with fast.init_from empty"),
    ({"name": ""}, None),
  ],
)
def test_settings_are_checked_before_anything_is_read(settings, says):
  config = get_config()
  with config.unlocked():
    config.update_from_flattened_dict(settings)
  if says is None:
    assert served.settings(config, "runs/mine/").name == "mine"
    return
  with pytest.raises(UserError, match=re.escape(says)):
    served.settings(config, "runs/mine")


def test_other_machines_are_served_only_with_a_key_that_is_no_guess(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"--host 0\.0\.0\.0 is reached by other machines"):
    server.bind("0.0.0.0", 0, "")
  with pytest.raises(ValueError, match="16 or more printable"):
    server.bind("0.0.0.0", 0, "short")
  with server.bind("0.0.0.0", 0, KEY) as taken:
    # Or asyncio leaves Nagle's algorithm on, and each stream takes 40 ms more.
    assert taken.proto == socket.IPPROTO_TCP
    taken.listen()
    with pytest.raises(ValueError, match="cannot be had"):
      server.bind("0.0.0.0", taken.getsockname()[1], KEY)
  monkeypatch.setenv("LHRM_API_KEY", "of the environment")
  assert served.api_key(None) == "of the environment"
  (tmp_path / "key").write_text(f"{KEY}\n")
  assert served.api_key(str(tmp_path / "key")) == KEY
  (tmp_path / "key").write_text("\n")
  with pytest.raises(UserError, match="is empty"):
    served.api_key(str(tmp_path / "key"))


def test_thresholds_of_another_kind_are_refused(tmp_path):
  file = tmp_path / "thresholds.json"
  for held in ("[]", "{", '{"values": [0.5], "prompts": 3}', '{"values": [2], "prompts": "x"}'):
    file.write_text(held)
    with pytest.raises(UserError, match=re.escape(str(file))):
      served.thresholds(str(file))
  with pytest.raises(UserError, match="there is no file"):
    served.thresholds(str(tmp_path / "none"))


def test_a_router_is_a_file_a_rule_or_a_lanes_policy(tmp_path):
  assert served.router("core") is served.router("fast") is None
  judged = [served.router("keywords")(prompt) for prompt in ("Say hello.", "Prove that 2 > 1.")]
  assert [mode for mode, _ in judged] == [tags.NO_THINK, tags.THINK]
  assert judged[0][1] < judged[1][1]
  for named, says in (("keyword", "keywords"), (str(tmp_path / "x.json"), "there is no file")):
    with pytest.raises(UserError, match=says):
      served.router(named)


@pytest.mark.parametrize(
  ("host", "passes"),
  [
    ("localhost:8000", True), ("127.0.0.1", True), ("[::1]:80", True), ("127.9.9.9:1", True),
    ("evil.example", False), ("localhost.evil.example:80", False), ("", False), ("[::2]", False),
    ("10.0.0.1:8000", False),
  ],
)  # fmt: skip
def test_without_a_key_a_page_elsewhere_cannot_use_a_name_of_its_own(host, passes):
  called, sent = [], []

  async def app(scope, receive, send):
    called.append(await receive())

  async def receive():
    return {"type": "http.request", "body": b"{}", "more_body": False}

  async def send(message):
    sent.append(message)

  scope = {"type": "http", "path": "/v1/models", "headers": [(b"host", host.encode())]}
  guard = Guard(app, "", 100, 1.0, lambda status: None)
  asyncio.run(guard(scope, receive, send))
  assert [m["body"] for m in called] == [b"{}"] * passes
  assert [m["status"] for m in sent if "status" in m] == [403] * (not passes)

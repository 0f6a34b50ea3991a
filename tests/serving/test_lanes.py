"""Two lanes: which of them writes a reply, and that a reply moves between them unchanged."""

import asyncio
import dataclasses
import json
import time

import httpx2
import jax
import pytest

from lhrm_jax import policy
from lhrm_jax.config import flatten, section_problems
from lhrm_jax.serving import BusyError, Engine, EngineConfig, ServingConfig
from lhrm_jax.serving.api import Service, create_app
from lhrm_jax.serving.asked import Asked, Defaults, of_request, prompts_by_lane
from lhrm_jax.serving.bodies import ChatRequest, CompletionRequest
from lhrm_jax.serving.errors import ApiError
from lhrm_jax.serving.jobs import Job
from lhrm_jax.serving.lanes import CORE, FAST, LocalLane, Part, first_lane, lane_of
from lhrm_jax.serving.metrics import Metrics
from lhrm_jax.serving.remote import RemoteLane
from lhrm_jax.serving.sequences import Settings
from lhrm_jax.text import tags
from tests.conftest import sharpened
from tests.serving.small_server import KEY

THINK, NO_THINK, NONE = tags.THINK, tags.NO_THINK, tags.INVALID_MODE
QUESTION = "Left to right, last digit: what is 3+4?"


@pytest.mark.parametrize(
  ("forced", "router", "fitting", "lane"),
  [
    (THINK, FAST, (CORE, FAST), CORE),
    (NO_THINK, CORE, (CORE, FAST), FAST),
    (NO_THINK, CORE, (CORE,), CORE),
    (NONE, CORE, (CORE, FAST), CORE),
    (NONE, FAST, (CORE, FAST), FAST),
    (NONE, FAST, (CORE,), CORE),
  ],
)
def test_a_reply_begins_where_its_mode_is_written_or_chosen(forced, router, fitting, lane):
  assert first_lane(forced, router, fitting) == lane


def test_a_mode_has_a_lane_and_a_reply_without_one_stays():
  both = (CORE, FAST)
  assert [lane_of(mode, FAST, both) for mode in (THINK, NO_THINK, NONE)] == [CORE, FAST, FAST]
  assert [lane_of(mode, CORE, (CORE,)) for mode in (THINK, NO_THINK, NONE)] == [CORE] * 3


@pytest.fixture(scope="module")
def lanes(config, params, tokenizer):
  """The policy and another of its size, each with an engine."""
  other = sharpened(jax.jit(policy.init, static_argnums=0)(config, jax.random.key(1)))
  knobs = EngineConfig(slots=2, page_tokens=16, waiting=4)
  made = {
    name: LocalLane(Engine(config, of, tokenizer, knobs), tokenizer)
    for name, of in ((CORE, params), (FAST, other))
  }
  for lane in made.values():
    lane.engine.start()
  yield made
  for lane in made.values():
    lane.engine.stop()


def ask(lanes, router, handover=0, **settings):
  """The finished job of a request for two greedy replies, and the kinds of its events."""

  async def run():
    drawn = Settings(**{"seed": 1, "temperature": 0.0, **settings})
    body = ChatRequest(model="m", messages=[{"role": "user", "content": QUESTION}])
    parts = {
      name: Part(lane.prompt(body), 6, deadline=time.monotonic() + 100)
      for name, lane in lanes.items()
    }
    both = (drawn, dataclasses.replace(drawn, choice=1))
    job = Job(Asked(parts, both, False, "model", None, handover), "m", lanes, router)
    job.submit()
    return job, [(index, type(event).__name__) async for index, event in job.events()]

  return asyncio.run(run())


def tokens(job):
  return [[token.token_id for token in choice.tokens] for choice in job.choices]


def test_a_reply_that_moves_is_the_one_that_its_lane_writes(lanes):
  direct, _ = ask(lanes, CORE, forced=NO_THINK)
  thought, _ = ask(lanes, CORE, forced=THINK)
  assert {c.lane for c in direct.choices} == {FAST} and {c.lane for c in thought.choices} == {CORE}
  moved, events = ask(lanes, CORE, threshold=1.0)  # the core decides against thinking
  assert tokens(moved) == tokens(direct) and {c.lane for c in moved.choices} == {FAST}
  assert [kind for index, kind in events if index == 0][:2] == ["Decided", "Piece"]
  moved, _ = ask(lanes, FAST, threshold=0.0)  # the fast lane decides for it
  assert tokens(moved) == tokens(thought) and {c.lane for c in moved.choices} == {CORE}
  assert moved.routing(0)["p_think"] != thought.routing(0)["p_think"], "of the lane that decided"
  for lane in lanes.values():
    assert lane.engine.active == lane.engine.waiting == 0


def test_the_fast_lane_answers_from_the_end_of_the_cores_thought(lanes, monkeypatch):
  cancelled, cancel = [], lanes[CORE].cancel
  monkeypatch.setattr(lanes[CORE], "cancel", lambda rows: (cancelled.extend(rows), cancel(rows)))
  asked = {"forced": THINK, "budget": 2, "temperature": 4.0}
  kept, _ = ask(lanes, CORE, **asked)
  given, events = ask(lanes, CORE, handover=1, **asked)
  assert [c.lane for c in kept.choices] == [CORE] * 2 and not kept.routing(0)["handed_over"]
  assert [c.lane for c in given.choices] == [FAST] * 2 and given.routing(0)["handed_over"]
  assert [kind for index, kind in events if index == 0].count("Decided") == 1
  assert len(cancelled) == 2, "the core's own answers are not wanted"
  ids, thought = lanes[CORE].tokenizer.tag_ids, tokens(given)[0][:4]
  assert thought == tokens(kept)[0][:4] and thought[3] == ids.closing[THINK]

  prompt = [*given.choices[0].prompt, ids.opening[THINK], *thought[2:4]]
  assert (
    tokens(given)[0][4:] == written(lanes[FAST], prompt, 2, seed=1 ^ 1 << 63) != tokens(kept)[0][4:]
  )
  usage = given.usage()
  assert usage["prompt_tokens"] == kept.usage()["prompt_tokens"]
  assert usage["completion_tokens_details"]["reasoning_tokens"] == 4
  assert usage["completion_tokens"] == 12 and given.choices[0].finish_reason == "length"
  for lane in lanes.values():
    assert lane.engine.active == lane.engine.waiting == 0


def written(lane, prompt, count, seed):
  """The tokens that a lane writes after a prompt."""
  row = lane.row(Part(prompt, count), Settings(seed=seed, temperature=4.0), lambda row, event: None)
  lane.submit([row])
  while not row.reply.finish_reason:
    time.sleep(0.01)
  return row.reply.tokens


def test_a_core_whose_fast_lane_is_full_writes_its_answer_itself(lanes, monkeypatch):
  def full(rows):
    raise BusyError("full", 1)

  kept, _ = ask(lanes, CORE, forced=THINK, budget=3)
  monkeypatch.setattr(lanes[FAST], "submit", full)
  given, _ = ask(lanes, CORE, forced=THINK, budget=3, handover=2)
  assert tokens(given) == tokens(kept) and not given.routing(0)["handed_over"]


def test_only_conversations_without_logprobs_are_handed_over(lanes):
  defaults = Defaults("m", 1.0, 1.0, 8, handover=2)

  def handover(body, lanes=lanes):
    return of_request(body, prompts_by_lane(body, lanes), lanes, defaults).handover

  chat = {"model": "m", "messages": [{"role": "user", "content": "3+4"}]}
  assert handover(ChatRequest(**chat)) == 2
  assert handover(ChatRequest(**chat, logprobs=True)) == 0
  assert handover(ChatRequest(**chat), {CORE: lanes[CORE]}) == 0
  assert handover(CompletionRequest(model="m", prompt="3+4")) == 0


def test_a_request_too_long_for_the_fast_lane_is_the_cores(lanes):
  only_core = {CORE: lanes[CORE]}
  kept, _ = ask(only_core, FAST, forced=NO_THINK)
  assert {choice.lane for choice in kept.choices} == {CORE}


def elsewhere(lane):
  """A server of one lane, reached as an endpoint; its transport keeps what was asked."""
  defaults = Defaults("there", 1.0, 1.0, 8)
  engines = {CORE: lane.engine}
  app = create_app(Service({CORE: lane}, defaults, ServingConfig(), Metrics(engines)), KEY)
  asked = []

  class Transport(httpx2.ASGITransport):
    async def handle_async_request(self, request):
      asked.append(json.loads(request.content))
      return await super().handle_async_request(request)

  remote = RemoteLane("http://localhost/v1/", "there", KEY, Transport(app))
  return remote, asked


def test_a_thought_is_written_elsewhere_once_the_lane_here_has_decided_for_it(lanes):
  here, _ = ask(lanes, CORE, forced=THINK)
  remote, asked = elsewhere(lanes[CORE])
  there, events = ask({CORE: remote, FAST: lanes[FAST]}, FAST, threshold=0.0)
  assert [c.texts for c in there.choices] == [c.texts for c in here.choices]
  assert [c.finish_reason for c in there.choices] == [c.finish_reason for c in here.choices]
  assert there.usage() == here.usage() and there.usage()["completion_tokens"] == 12
  assert next(kind for index, kind in events if index == 0) == "Decided"
  routing = there.routing(0)
  assert (routing["lane"], routing["mode"]) == (CORE, "think") and 0 < routing["p_think"] < 1
  assert [body["chat_template_kwargs"] for body in asked] == [{"enable_thinking": True}] * 2
  assert [body["seed"] for body in asked] == [1, 2] and asked[0]["max_tokens"] == 6
  direct, _ = ask({CORE: remote, FAST: lanes[FAST]}, FAST, forced=NO_THINK)
  assert {choice.lane for choice in direct.choices} == {FAST} and len(asked) == 2


def test_an_endpoint_that_fails_is_an_error_that_tells_none_of_its_text(lanes):
  class Broken(httpx2.AsyncBaseTransport):
    async def handle_async_request(self, request):
      return self.answer

  broken = Broken()
  remote = RemoteLane("http://localhost/v1", "there", "", broken)
  for status, content in (
    (500, b"secret"), (200, b"data: secret\n\n"), (200, b"data: [DONE]\n\n"), (200, b""),
    (200, b'data: {"error": {"message": "secret"}}\n\n'), (200, b'data: {"choices": 5}\n\n'),
    (200, b'data: {"choices": [{"delta": null}]}\n\n'), (200, b"data: []\n\n"),
  ):  # fmt: skip
    broken.answer = httpx2.Response(status, content=content)
    with pytest.raises(ApiError, match="the endpoint of a lane failed") as failed:
      ask({CORE: remote, FAST: lanes[FAST]}, FAST, threshold=0.0)
    assert failed.value.status == 502 and "secret" not in str(failed.value)


@pytest.mark.parametrize(
  ("values", "says"),
  [
    ({"url": "http://x/v1"}, "url='http://x/v1' and model='' go together"),
    ({"url": "ftp://x"}, "url='ftp://x' must be an address"),
    ({"url": "http://x/v1", "model": "m"}, "router='core' is a lane elsewhere"),
    (
      {"fast.url": "http://x/v1", "fast.model": "m", "router": "fast"},
      "router='fast' is a lane elsewhere",
    ),
    ({"fast.url": "http://x", "fast.model": "m", "fast.init_from": "y"}, "two policies"),
    ({"fast.handover": 3}, "fast.handover=3 has no effect with fast.init_from empty"),
    ({"draft_tokens": 3}, "draft_tokens=3 has no effect with no draft"),
    ({"draft": "int8", "kv": "int8"}, "replies would not be those without a draft"),
    (
      {"draft": "int8", "url": "http://x/v1", "model": "m", "router": "keywords"},
      "draft='int8' has no effect with url",
    ),
  ],
)
def test_lanes_that_cannot_work_are_refused(values, says):
  config = dict(flatten(ServingConfig())) | values
  assert any(says in problem for problem in section_problems(ServingConfig, config))


def test_logprobs_and_raw_texts_are_for_lanes_of_this_process(lanes):
  remote, _ = elsewhere(lanes[CORE])
  both = {CORE: lanes[CORE], FAST: remote}
  body = CompletionRequest(model="there", prompt="3+4")
  assert list(prompts_by_lane(body, both)) == [CORE]
  body = ChatRequest(
    model="there", messages=[{"role": "user", "content": "3+4"}], logprobs=True, seed=-1
  )
  defaults = Defaults("there", 1.0, 1.0, 8)
  assert list(of_request(body, prompts_by_lane(body, both), both, defaults).parts) == [CORE]
  both = {CORE: remote, FAST: lanes[FAST]}
  with pytest.raises(ApiError, match="logprobs are told by lanes of the server's own process"):
    of_request(body, prompts_by_lane(body, both), both, defaults)


def test_a_router_judges_what_the_request_leaves_open(lanes):
  judged = []

  def router(text):
    judged.append(text)
    return NO_THINK, 0.25

  defaults = Defaults("m", 1.0, 1.0, 8, router=router)

  def decided(lanes, **fields):
    body = ChatRequest(model="m", messages=[{"role": "user", "content": "3+4"}], **fields)
    wanted = of_request(body, prompts_by_lane(body, lanes), lanes, defaults)
    return wanted.settings[0].forced, wanted.decided_by, wanted.p_router

  assert decided(lanes, thinking_token_budget=9) == (NO_THINK, "router", 0.25)
  assert decided(lanes, reasoning_effort="high") == (THINK, "request", None)
  assert decided(lanes, think_threshold=0.5) == (NONE, "threshold", None)
  assert judged == ["3+4"]
  both = {CORE: elsewhere(lanes[CORE])[0], FAST: elsewhere(lanes[FAST])[0]}
  assert decided(both) == (NO_THINK, "router", 0.25)
  with pytest.raises(ApiError, match="p\\(think\\) is not known here"):
    decided(both, think_threshold=0.5)


def test_raw_ids_stay_with_the_tokenizer_they_are_of(lanes):
  class Other:
    vocab_size, tag_ids = 5, lanes[CORE].tokenizer.tag_ids

  foreign = LocalLane(lanes[FAST].engine, Other())
  remote = RemoteLane("http://localhost/v1", "there", "")
  ids = list(lanes[CORE].tokenizer.encode_prompt("3+4"))
  for other, kept in ((lanes[FAST], {CORE, FAST}), (foreign, {CORE}), (remote, {CORE})):
    body = CompletionRequest(model="m", prompt=ids)
    assert set(prompts_by_lane(body, {CORE: lanes[CORE], FAST: other})) == kept
  with pytest.raises(ApiError):
    prompts_by_lane(CompletionRequest(model="m", prompt=""), lanes)

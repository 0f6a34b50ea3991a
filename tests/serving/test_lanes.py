"""Two lanes: which of them writes a reply, and that a reply moves between them unchanged."""

import asyncio
import dataclasses

import jax
import pytest

from lhrm_jax import policy
from lhrm_jax.serving import Engine, EngineConfig
from lhrm_jax.serving.asked import Asked, Part
from lhrm_jax.serving.jobs import Job
from lhrm_jax.serving.lanes import CORE, FAST, Lane, first_lane, lane_of
from lhrm_jax.serving.sequences import Settings
from lhrm_jax.text import tags
from tests.conftest import sharpened

THINK, NO_THINK, NONE = tags.THINK, tags.NO_THINK, tags.INVALID_MODE
PROMPT = [5, 9, 13, 8]


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
    name: Lane(Engine(config, of, tokenizer, knobs), tokenizer)
    for name, of in ((CORE, params), (FAST, other))
  }
  for lane in made.values():
    lane.engine.start()
  yield made
  for lane in made.values():
    lane.engine.stop()


def ask(lanes, router, **settings):
  """The finished job of a request for two greedy replies, and the kinds of its events."""

  async def run():
    drawn = Settings(seed=1, temperature=0.0, **settings)
    parts = {name: Part(PROMPT, 6) for name in lanes}
    both = (drawn, dataclasses.replace(drawn, choice=1))
    job = Job(Asked(parts, both, (), True, "model"), "m", lanes, router, 100.0, raw=False)
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


def test_a_request_too_long_for_the_fast_lane_is_the_cores(lanes):
  only_core = {CORE: lanes[CORE]}
  kept, _ = ask(only_core, FAST, forced=NO_THINK)
  assert {choice.lane for choice in kept.choices} == {CORE}

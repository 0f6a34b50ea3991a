"""The decode engine: a reply's tokens are its own, whoever else is served and whatever waits."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax import policy
from lhrm_jax.policy import pages
from lhrm_jax.serving import BusyError, Engine, EngineConfig, Reply, Row, Settings, programs
from lhrm_jax.serving.sequences import Decided, Failed, Finished, Piece
from lhrm_jax.text import tags
from tests.conftest import policy_logits
from tests.serving.conftest import PAGES


def row(tokenizer, prompt, tokens=40, seconds=600.0, **settings):
  """A reply that remembers its events."""
  events = []
  made = Row(
    list(prompt), Reply(tokenizer, tokens), Settings(**{"seed": 1, "forced": 0, **settings}),
    events.append, time.monotonic() + seconds,
  )  # fmt: skip
  made.events = events
  return made


def finish(engine, *rows, steps=2000):
  """Submits replies and runs the engine until all have ended."""
  engine.submit(rows)
  while engine.active or engine.waiting:
    engine.step()
    assert engine.steps < steps
  return rows


def told(row):
  """Ids and exact log-probabilities of a reply."""
  pieces = [event for event in row.events if isinstance(event, Piece) and event.token]
  return [(piece.token.token_id, piece.token.logprob) for piece in pieces]


PROMPTS = [[5 + (7 * i + j) % 20 for j in range(3 + 4 * i)] for i in range(6)]


@pytest.fixture(scope="module")
def alone(make, endless):
  """Each prompt's reply by an engine of its own."""
  replies = []
  for i, prompt in enumerate(PROMPTS):
    (only,) = finish(make(), row(endless, prompt, seed=i))
    assert [type(e) for e in (only.events[0], only.events[-1])] == [Decided, Finished]
    replies.append(told(only))
  assert all(len(reply) == 40 for reply in replies)
  assert len({tuple(reply) for reply in replies}) == len(replies)
  return replies


def test_greedy_tokens_are_the_most_likely_ones_of_one_pass(make, config, params, endless):
  """Prompts of several pages, both modes, beside each other; by the policy without a cache."""
  wanted = [
    row(endless, PROMPTS[i], 20, temperature=0.0, forced=i % 2, tops=1) for i in range(len(PROMPTS))
  ]
  finish(make(), *wanted)
  texts = np.zeros((len(PROMPTS), 48), np.int32)
  for i, made in enumerate(wanted):
    whole = [*PROMPTS[i], *made.reply.tokens]
    texts[i, : len(whole)] = whole
  logprobs = jax.nn.log_softmax(policy_logits(config, params, texts))
  for i, made in enumerate(wanted):
    after = np.arange(len(made.reply.tokens)) + len(PROMPTS[i]) - 1
    assert made.reply.tokens[1:] == np.argmax(logprobs[i, after[1:]], axis=1).tolist()
    expected = logprobs[i, after, np.array(made.reply.tokens)]
    np.testing.assert_allclose([p for _, p in told(made)], expected, atol=2e-5)


def test_replies_do_not_depend_on_their_neighbours(make, alone, endless):
  """In other slots, in other company, with memory for half of them: bit for bit."""
  engine = make()
  served = [row(endless, PROMPTS[i], seed=i) for i in (3, 0, 5, 2, 1, 4)]
  finish(engine, *served)
  assert engine.preemptions > 3
  assert [told(r) for r in served] == [alone[i] for i in (3, 0, 5, 2, 1, 4)]
  assert engine.pages.held == 0 and engine.active == engine.waiting == 0


def test_a_short_request_takes_the_slot_of_a_long_one_which_then_continues(make, alone, endless):
  engine = make()
  long = [row(endless, PROMPTS[i], seed=i) for i in range(3)]
  engine.submit(long)
  for _ in range(10):
    engine.step()
  short = row(endless, PROMPTS[0], 3)
  began = engine.steps
  engine.submit([short])
  while not short.reply.finish_reason:
    engine.step()
  assert engine.steps - began <= 4
  assert [r.slot is None for r in long] == [False, False, True], "the youngest yields"
  finish(engine)
  assert [told(r) for r in long] == alone[:3]


def test_a_preempted_reply_is_not_put_off_for_ever(make, endless):
  engine = make()
  long = [row(endless, PROMPTS[0], 30, seed=i) for i in range(3)]
  engine.submit(long)
  while not all(r.reply.finish_reason for r in long):
    if engine.waiting < 4:
      engine.submit([row(endless, PROMPTS[1], 3, seed=engine.steps)])
    engine.step()
    assert engine.steps < 400
  engine.cancel([r for r in engine._waiting])


def test_a_common_beginning_is_computed_once_and_changes_nothing(make, endless):
  engine, prompt = make(), PROMPTS[5]  # 23 tokens: two whole pages, and one that always runs
  first, again, other = (row(endless, p, 8) for p in (prompt, prompt, [*prompt[:9], 7, 7]))
  for each in (first, again, other):
    finish(engine, each)
  assert [r.events[0].cached_tokens for r in (first, again, other)] == [0, 16, 8]
  assert told(first) == told(again)
  (apart,) = finish(make(), row(endless, other.prompt, 8))
  assert told(other) == told(apart)


def test_cancelling_frees_slot_and_memory_and_says_nothing_more(make, endless):
  engine = make()
  gone, stays = row(endless, PROMPTS[3]), row(endless, PROMPTS[2], 6)
  engine.submit([gone, stays])
  for _ in range(4):
    engine.step()
  engine.cancel([gone])
  before = len(gone.events)
  engine.step()
  assert gone.slot is None and len(gone.events) == before
  finish(engine)
  assert stays.reply.finish_reason == "length" and engine.pages.held == 0


def test_a_reply_that_takes_too_long_fails(make, endless):
  late = row(endless, PROMPTS[0], seconds=-1.0)
  finish(make(), late)
  assert isinstance(late.events[-1], Failed) and late.events[-1].code == "timeout"


def test_a_full_queue_takes_all_or_nothing(make, endless):
  engine = make(waiting=1)
  rows = [row(endless, PROMPTS[0]) for _ in range(5)]
  with pytest.raises(BusyError, match="room for 4 more, and the request asks for 5"):
    engine.submit(rows)
  assert engine.waiting == 0
  engine.submit(rows[:4])
  with pytest.raises(BusyError) as refused:
    engine.submit(rows[4:])
  assert refused.value.retry_after >= 1


def test_dials_choose_the_mode_and_end_the_thought(make, endless, tokenizer):
  engine, free = make(), {"forced": -1, "temperature": 0.0}
  (by_policy,) = finish(engine, row(endless, PROMPTS[1], 4, **free))
  p = by_policy.events[0].p_think
  assert 0 < p < 1 and by_policy.events[0].p_neither > 0
  modes = [
    finish(engine, row(endless, PROMPTS[1], 4, **free, **dial))[0].reply.mode
    for dial in ({"threshold": p * 0.99}, {"threshold": min(1.0, p * 1.01)},
                 {"tag_bias": 60.0}, {"tag_bias": -60.0})
  ]  # fmt: skip
  assert modes[:3] == [tags.THINK, tags.NO_THINK, tags.THINK] and modes[3] != tags.THINK
  (cut,) = finish(engine, row(endless, PROMPTS[1], 20, budget=5, temperature=0.0))
  assert tokenizer.decode(cut.reply.tokens[6:8]) == " so</think>"
  assert sum(event.thought for event in cut.events if isinstance(event, Piece)) == 6


def test_choices_of_a_request_differ_and_alternatives_are_told_on_demand(make, endless):
  some = [row(endless, PROMPTS[0], 12, choice=i, tops=2 * i) for i in range(2)]
  finish(make(), *some)
  assert told(some[0]) != told(some[1])
  tops = [e.token.tops for e in some[1].events if isinstance(e, Piece) and e.token]
  assert all(len(t) == 2 and t[0][1] >= t[1][1] for t in tops)
  assert not any(e.token.tops for e in some[0].events if isinstance(e, Piece) and e.token)


def test_nothing_is_compiled_after_the_warm_up(make, endless):
  engine = make()
  engine.warm_up()
  compiled = [programs.prefill, programs.decode, programs.first_token, programs.read_pages,
              programs.write_pages]  # fmt: skip
  before = [program._cache_size() for program in compiled]
  finish(engine, *(row(endless, PROMPTS[i], 30, seed=i) for i in range(6)))
  assert engine.preemptions and [program._cache_size() for program in compiled] == before


def test_memory_and_context_that_fit_nothing_are_refused(config, params, tokenizer):
  with pytest.raises(ValueError, match=r"kv_mib=0\.001 holds .* set kv_mib to at least 0\.0"):
    Engine(config, params, tokenizer, EngineConfig(kv_mib=0.001))
  with pytest.raises(ValueError, match="context=65 exceeds the 64 positions"):
    Engine(config, params, tokenizer, EngineConfig(context=65))


def test_int8_weights_and_memory_keep_replies_apart(make, config, params, endless):
  """Half the precision, the same promise; and four replies where there was room for one."""
  int8 = {"weights": "int8", "kv": "int8", "context": 32}
  engine = make(**int8)
  assert engine.page_bytes < make().page_bytes / 2 and engine.pages.total > 2 * PAGES
  engine = make(**int8, kv_mib=8 * engine.page_bytes / 2**20)
  together = finish(engine, *(row(endless, PROMPTS[i], 16, seed=i) for i in range(4)))
  assert engine.preemptions > 1
  for i in (0, 3):
    (alone,) = finish(make(**int8), row(endless, PROMPTS[i], 16, seed=i))
    assert told(alone) == told(together[i])
  whole = np.array([[*PROMPTS[3], *alone.reply.tokens]], np.int32)
  exact = jax.nn.log_softmax(policy_logits(config, params, whole))[0, len(PROMPTS[3]) - 1 : -1]
  off = np.abs(exact[np.arange(16), alone.reply.tokens] - np.array([p for _, p in told(alone)]))
  assert 1e-4 < off.mean() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["float", "int8"])
def test_adapters_are_served_as_part_of_their_policy(config, params, endless, weights):
  adapted = dataclasses.replace(config, lora_rank=2, lora_tokens=tuple(endless.tag_ids.opening))
  every = jax.jit(policy.init, static_argnums=0)(adapted, jax.random.key(7))
  every = policy.lora.join(jax.tree.map(lambda x: x + 0.1, policy.lora.split(every)[0]), params)
  engine = Engine(adapted, every, endless, EngineConfig(page_tokens=16, slots=1, weights=weights))
  (made,) = finish(engine, row(endless, PROMPTS[2], 20, temperature=0.0))
  whole = np.array([[*PROMPTS[2], *made.reply.tokens]], np.int32)
  logits = policy_logits(adapted, every, whole)[0, len(PROMPTS[2]) : -1]
  assert made.reply.tokens[1:] == np.argmax(logits, axis=-1).tolist()


def test_pages_in_int8_hold_rounded_numbers_and_are_copied_bit_for_bit(config):
  pool = pages.empty(config, 4, 2, in_int8=True)
  shape = (1, config.num_kv_heads, 4, config.head_dim)
  blocks = [jax.random.normal(jax.random.key(i), shape).at[0, 0, 1].set(0) for i in range(4)]
  new = policy.KVCache(tuple(blocks[:2]), tuple(blocks[2:]), jnp.array([4]))
  pool = pages.write_pages(config, pool, new, jnp.array([2, 1]))
  read = pages.gather(config, pool, jnp.array([[2, 1]]), jnp.array([4]))
  for held, written in zip((*read.keys, *read.values), blocks, strict=True):
    step = np.abs(written).max(-1, keepdims=True) / 127
    assert (np.abs(held - written) <= step / 2 * 1.001).all() and (held[0, 0, 1] == 0).all()
  moved = pages.restored(config, pool, pages.copied(config, pool, jnp.array([2])), jnp.array([3]))
  again = pages.gather(config, moved, jnp.array([[3, 1]]), jnp.array([4]))
  for one, other in zip(jax.tree.leaves(read), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scan", [False, True])
def test_what_is_written_to_pages_is_read_from_them(config, scan):
  config = dataclasses.replace(config, scan_layers=scan)
  pool = pages.empty(config, 5, 2)
  shape = (config.num_kv_heads, 4, config.head_dim)
  layers = (config.num_layers, 1, *shape) if scan else (1, *shape)
  block = jnp.arange(np.prod(layers), dtype=jnp.float32).reshape(layers) + 1
  block = block if scan else (block, 2 * block)
  values = jax.tree.map(lambda x: -x, block)
  first = [jax.tree.map(lambda x: 100 + x[..., :1, :], part) for part in (block, values)]
  pool = pages.write_pages(
    config, pool, policy.KVCache(block, values, jnp.array([4])), jnp.array([3, 1])
  )
  pool = pages.write_tokens(
    config, pool, policy.KVCache(*first, jnp.array([1])), jnp.array([[1]]), jnp.array([[0]])
  )
  read = pages.gather(config, pool, jnp.array([[3, 1, 0]]), jnp.array([4]))
  got, put, new = (
    jax.tree.leaves(parts) for parts in ((read.keys, read.values), (block, values), first)
  )
  for held, written, token in zip(got, put, new, strict=True):
    expected = np.concatenate([written, jnp.zeros_like(written[..., :2, :])], axis=-2)
    expected[..., 2:3, :] = token
    np.testing.assert_array_equal(held, expected)

"""Continuous decoding: the same responses as row by row, for less work."""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax import policy
from lhrm_jax.runs.instruments import CompileCounter, Stopwatch, seconds_by_name
from lhrm_jax.sampling import LENGTH, STOPPED, Dials, Prompts, decoding, sample, sampler
from lhrm_jax.sampling.dials import closing_ids
from lhrm_jax.sampling.sampler import row_uniforms
from lhrm_jax.sampling.tokens import sample_tokens
from tests.conftest import EOS_IDS, make_spec, policy_logits, replace

KEY = jax.random.key(7)
T = 14


@pytest.fixture
def ladders(monkeypatch):
  """Sets how finely decoding follows the work left, and drops what was compiled before."""

  def set_to(stages, least_slots, blocks, least_block):
    monkeypatch.setattr(decoding, "_STAGES", stages)
    monkeypatch.setattr(decoding, "_LEAST_SLOTS", least_slots)
    monkeypatch.setattr(decoding, "_BLOCKS", blocks)
    monkeypatch.setattr(decoding, "_LEAST_BLOCK", least_block)
    sampler._decode.clear_cache()

  yield set_to
  sampler._decode.clear_cache()


def hybrid_limits(prompts=6, samples=3, longest=T):
  """Thinking takes two thirds to all of `longest`, answering directly a few tokens."""
  rng = np.random.default_rng(0)
  think = rng.integers(2 * longest // 3, longest + 1, (prompts, 1, samples))
  direct = rng.integers(1, max(2, longest // 4), (prompts, 1, samples))
  return np.concatenate([think, direct], axis=1).astype(np.int32)


def lockstep(config, params, spec, prompts, limits):
  """The plain reference: every row alone, recomputed from its start for every token."""
  n, per_prompt = limits.size, limits[0].size
  p = np.repeat(prompts.lengths, per_prompt)
  uniforms = np.asarray(row_uniforms(spec, prompts.ids, KEY))
  tokens = np.zeros((n, prompts.tokens.shape[1] + spec.max_tokens), np.int32)
  tokens[:, : prompts.tokens.shape[1]] = np.repeat(prompts.tokens, per_prompt, axis=0)
  responses = np.full((n, spec.max_tokens), spec.pad_id, np.int32)
  logprobs, lengths = np.zeros((n, spec.max_tokens), np.float32), np.zeros(n, np.int32)
  stopped, rows = np.zeros(n, bool), np.arange(n)
  opening = np.tile(np.repeat(spec.opening, spec.samples), len(limits))
  for step in range(spec.max_tokens):
    segments = (np.arange(tokens.shape[1]) < (p + step)[:, None]).astype(np.int32)
    logits = np.asarray(policy_logits(config, params, tokens, segments))[rows, p + step - 1]
    drawn, drawn_logprobs = sample_tokens(logits, uniforms[step], 1.0, 1.0, 0)
    if step == 0:
      drawn = opening
      drawn_logprobs = np.asarray(jax.nn.log_softmax(logits))[rows, opening]
    live = ~stopped & (lengths < limits.ravel())
    responses[live, step] = np.asarray(drawn)[live]
    logprobs[live, step] = np.asarray(drawn_logprobs)[live]
    tokens[rows, p + step] = drawn
    lengths += live
    stopped |= live & np.isin(drawn, spec.eos_ids)
  return responses, logprobs, lengths, np.where(stopped, STOPPED, LENGTH)


@pytest.mark.parametrize(
  "ladder, scan_layers, slots",
  [
    pytest.param((1, 1, 1, 1), False, 0, marks=pytest.mark.slow),
    pytest.param((3, 2, 4, 1), False, 0, marks=pytest.mark.slow),
    pytest.param((3, 1, 3, 5), True, 0, marks=pytest.mark.slow),
    (None, True, 0),
    pytest.param((1, 1, 1, 1), False, 1, marks=pytest.mark.slow),
    pytest.param((3, 2, 4, 1), True, 35, marks=pytest.mark.slow),
    ((2, 1, 3, 5), False, 5),
  ],
  ids=["one loop", "fine", "odd", "default", "one slot", "one too few", "refilled"],
)
def test_equals_lockstep_whatever_the_stages_blocks_and_slots(
  config, params, tokenizer, prompts, ladders, ladder, scan_layers, slots
):
  if ladder:
    ladders(*ladder)
  spec, limits = make_spec(tokenizer, max_tokens=T, slots=slots), hybrid_limits()
  expected = lockstep(config, params, spec, prompts, limits)
  if scan_layers:
    layers = [params[f"layer_{i}"] for i in range(config.num_layers)]
    rest = {k: v for k, v in params.items() if not k.startswith("layer_")}
    params = {**rest, "layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}
    config = replace(config, scan_layers=True)
  rollouts = sample(config, spec, params, prompts, KEY, limits=limits)
  actual = (rollouts.responses, rollouts.logprobs, rollouts.lengths, rollouts.finish_reason)
  for name, ours, theirs in zip(
    ("ids", "logprobs", "lengths", "ends"), actual, expected, strict=True
  ):
    theirs = theirs.reshape(ours.shape)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 if name == "logprobs" else 0, err_msg=name)
  assert {STOPPED, LENGTH} == set(np.asarray(rollouts.finish_reason).ravel())


def test_most_slots_are_live_on_a_hybrid_mix(config, params, tokenizer):
  """Half of the rows are about an eighth as long as the others."""
  spec = replace(make_spec(tokenizer, samples=4, max_tokens=40), eos_ids=())
  prompts = random_prompts(config, 8, 8)
  rng = np.random.default_rng(0)
  limits = np.array([40, 5])[None, :, None] * rng.uniform(0.75, 1, (8, 2, 4))
  rollouts = sample(config, spec, params, prompts, KEY, limits=limits.astype(np.int32))
  np.testing.assert_array_equal(rollouts.lengths, limits.astype(np.int32))
  steps = np.asarray(rollouts.decode_steps)
  assert (steps >= rollouts.lengths - 1).all(), "a row holds a slot for each of its tokens"
  assert 0.85 <= float(rollouts.live_slots) <= 1
  longest = int(rollouts.lengths.max()) - 1
  assert steps.sum() <= 0.7 * longest * steps.size, "short rows leave"


def test_slots_change_nothing_under_dials_truncation_and_free_modes(
  config, params, tokenizer, prompts, ladders
):
  """Rows that end with their first token never take a slot, and some prompts have no others."""
  ladders(2, 1, 2, 5)
  spec = make_spec(
    tokenizer, samples=4, paired=False, forced=2, max_tokens=T, temperature=(1.3, 0.7, 1.0),
    top_p=0.9,
  )  # fmt: skip
  spec = replace(spec, eos_ids=(*EOS_IDS, tokenizer.tag_ids.opening[1]))
  dials = Dials(tag_bias=1.0, budget=3, closing=closing_ids(tokenizer, ""))
  limits = np.full((6, 1, 4), T, np.int32)
  limits[:2] = 1
  every, some = (
    sample(config, replace(spec, slots=slots), params, prompts, KEY, limits=limits, dials=dials)
    for slots in (0, 3)
  )
  assert_same(some, every)
  assert (every.lengths[2:, 0, 0] > 1).all() and every.lengths.max() > 5, "a thought is cut"
  assert (every.lengths[:, 0, 1] == 1).all()


def assert_same(rollouts, expected):
  for name in ("responses", "lengths", "finish_reason"):
    np.testing.assert_array_equal(getattr(rollouts, name), getattr(expected, name), err_msg=name)
  np.testing.assert_allclose(rollouts.logprobs, expected.logprobs, atol=1e-5)


def test_slots_are_refilled_and_bound_the_memory(config, params, tokenizer):
  """A quarter of the rows on a log-normal mix, where thoughts take six times as long."""
  spec = replace(make_spec(tokenizer, samples=8, max_tokens=48), eos_ids=(), slots=32)
  prompts, rng = random_prompts(config, 8, 8), np.random.default_rng(0)
  limits = np.array([12, 2])[None, :, None] * np.exp(0.5 * rng.standard_normal((8, 2, 8)))
  limits = np.clip(np.rint(limits), 2, 48).astype(np.int32)
  rollouts = sample(config, spec, params, prompts, KEY, limits=limits)
  np.testing.assert_array_equal(rollouts.lengths, limits)
  assert float(rollouts.live_slots) >= 0.85
  some, every = (
    compiled_decode(config, replace(spec, slots=slots), params, prompts).memory_analysis()
    for slots in (32, 0)
  )
  assert some.temp_size_in_bytes < every.temp_size_in_bytes / 2


def random_prompts(config, count, width):
  tokens = np.random.default_rng(0).integers(12, config.vocab_size, (count, width))
  return Prompts(
    *(jnp.asarray(x, jnp.int32) for x in (tokens, np.full(count, width), np.arange(count)))
  )


def test_nothing_is_compiled_once_warm(config, params, tokenizer, prompts):
  """Neither other lengths, nor other options, nor new parameters and prompts of the same shapes."""
  spec, counter = make_spec(tokenizer, max_tokens=T), CompileCounter()

  def run(key, limits, clock=None, **options):
    return jax.block_until_ready(
      sample(config, replace(spec, **options), params, prompts, key, limits=limits, clock=clock)
    )

  keys = list(jax.random.split(KEY, 4))
  run(keys[0], hybrid_limits())
  warm = counter.count
  run(keys[1], np.full((6, 2, 3), T, np.int32), temperature=0.6, top_p=0.95)
  run(keys[2], np.full((6, 2, 3), 1, np.int32), temperature=1.3, top_p=0.5, top_k=7)
  run(keys[3], hybrid_limits()[:, ::-1], temperature=0.0)
  assert counter.count == warm
  run(keys[3], None, clock=Stopwatch())
  assert counter.count == warm


def compiled_decode(config, spec, params, prompts):
  """The decoding program of `sample` for these shapes."""
  shapes = jax.eval_shape(functools.partial(sampler.prefill_over, config, None), params, prompts)
  limits = jnp.zeros((len(prompts.ids), spec.modes, spec.samples), jnp.int32)
  rows = sampler._PromptRows(*shapes, prompts.ids, limits)
  return sampler._decode.lower(config, None, spec, params, rows, KEY).compile()


def test_prompts_take_no_more_memory_for_more_samples(config, tokenizer):
  """Decoding 16 rows per prompt instead of 2 adds less than another copy of the prompts."""
  prompts, config = random_prompts(config, 4, 2048), replace(config, head_dim=64)
  params = jax.eval_shape(lambda: policy.init(config, jax.random.key(0)))
  few, many = (
    compiled_decode(config, make_spec(tokenizer, samples=g), params, prompts).memory_analysis()
    for g in (1, 8)
  )
  width = config.num_kv_heads * config.head_dim
  prompt_cache = 2 * config.num_layers * prompts.tokens.size * width * 4  # bytes
  assert few.argument_size_in_bytes > prompt_cache
  assert many.temp_size_in_bytes - few.temp_size_in_bytes < prompt_cache


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads the text of a program for CPU")
@pytest.mark.parametrize(("slots", "blocks"), [(0, 1), (18, 2)])
def test_no_step_copies_the_cache(config, params, tokenizer, prompts, ladders, slots, blocks):
  ladders(1, 1, blocks, 1)
  spec = make_spec(tokenizer, max_tokens=30, slots=slots)
  text = compiled_decode(config, spec, params, prompts).as_text()
  size = (
    (slots or 36) * config.num_kv_heads * (29 // blocks) * config.head_dim
  )  # of one layer's keys
  outside = text.index("ENTRY")
  copies = [
    (found.start(), np.prod([int(d) for d in found[1].split(",")]))
    for found in re.finditer(r"= f32\[([\d,]+)\]\S* copy\(", text)
  ]
  assert not [where for where, elements in copies if elements >= size and where < outside]
  assert "dynamic-update-slice" in text[:outside], "the loop must be where this test looks"


def test_prefill_and_decode_are_timed_apart(config, params, tokenizer, prompts):
  clock = Stopwatch()
  sample(config, make_spec(tokenizer), params, prompts, KEY, clock=clock)
  assert set(seconds_by_name(clock.take())) == {"prefill", "decode"}


ON_DEVICES = """
import jax, numpy as np
from tests import conftest
from tests.sampling import test_decoding as t
from lhrm_jax import parallel, policy
from lhrm_jax.sampling import sample

tokenizer = conftest.arithmetic.Arithmetic().tokenizer()
config = conftest.replace(conftest.small_config(tokenizer), vocab_size=32, logit_vocab_size=31)
params = conftest.sharpened(policy.init(config, jax.random.key(0)))
rows = conftest.arithmetic.Arithmetic(level_mix=(1, 2, 3, 4, 5, 6)).evaluation(6)
prompts = conftest.make_prompts(tokenizer, rows)
spec, limits = conftest.make_spec(tokenizer, max_tokens=t.T), t.hybrid_limits()
one = sample(config, spec, params, prompts, t.KEY, limits=limits)
split = {"data": 2, "fsdp": 2, "tensor": 2}
for sizes, slots in (({"data": 8}, 0), (split, 5)):
  devices = jax.devices()[: int(np.prod(list(sizes.values())))]
  mesh = parallel.make_mesh(**sizes, devices=devices)
  shardings = parallel.param_shardings(mesh, policy.logical_axes(config))
  many = sample(
    config, conftest.replace(spec, slots=slots), jax.device_put(params, shardings), prompts, t.KEY,
    limits=limits,
  )
  assert len(many.responses.sharding.device_set) == len(devices)
  t.assert_same(many, one)
"""


def test_devices_change_nothing():
  """On 8 virtual devices, in a process of its own: over 8, and with the policy in parts."""
  result = subprocess.run(
    [sys.executable, "-c", ON_DEVICES],
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
    capture_output=True, text=True, timeout=300, check=False,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr[-3000:]

"""Advantages of published methods against numbers worked out by hand."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lhrm_jax.objectives import advantages as registry
from lhrm_jax.objectives.group_advantages import has_signal
from lhrm_jax.objectives.length_rewards import overlong_penalty

BOTH = pytest.mark.parametrize("jit", [False, True])


def call(name, jit, arrays, **options):
  """The advantages of a registered function, from arrays `[B, M, G]` and options."""
  arrays = {key: jnp.asarray(value) for key, value in arrays.items()}
  fn = functools.partial(registry.get(name), **options)
  found = (jax.jit(fn) if jit else fn)(arrays.pop("scores"), **arrays)
  np.testing.assert_array_equal(found.tag, found.body)  # the tag is a token like any other
  return np.asarray(found.body)


def of_one_query(**rows):
  return {name: np.array([[row]]) for name, row in rows.items()}


@BOTH
@pytest.mark.parametrize(
  "name, expected",
  [
    ("grpo", [1.7321, -0.5774, -0.5774, -0.5774]),  # mean 1/4, deviation sqrt(3) / 4
    ("dr_grpo", [0.75, -0.25, -0.25, -0.25]),
    ("rloo", [1, -1 / 3, -1 / 3, -1 / 3]),
  ],
)
def test_group_baselines(name, expected, jit):
  for shape in ((1, 1, 4), (1, 2, 2)):  # free and paired: one group either way
    scores = np.array([1.0, 0, 0, 0]).reshape(shape)
    np.testing.assert_allclose(call(name, jit, {"scores": scores}).ravel(), expected, atol=1e-4)


@BOTH
def test_reinforce_pp_leaves_out_queries_that_say_nothing(jit):
  scores = {"scores": np.array([[[1.0, 0]], [[1, 1]]])}
  np.testing.assert_allclose(call("reinforce_pp", jit, scores), [[[1, -1]], [[0, 0]]], atol=1e-6)
  # Literally: mean 3/4, deviation sqrt(3) / 4 over the batch.
  found = call("reinforce_pp", jit, scores, literal=True)
  np.testing.assert_allclose(found, [[[0.5774, -1.7321]], [[0.5774, 0.5774]]], atol=1e-4)


def test_a_query_has_a_signal_by_its_tags_or_by_the_rest():
  """All right: HGPO still learns from the inter term to answer directly, GRPO nothing."""
  scores = jnp.array([[[1.0, 1], [1, 1]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]])
  hgpo = registry.get("hgpo")(scores, alpha=1.0, delta=0.2, skip_unsolved=True)
  np.testing.assert_array_equal(has_signal(hgpo), [True, True, False])
  np.testing.assert_array_equal(has_signal(registry.get("grpo")(scores)), [False, True, False])


@BOTH
def test_dapo_by_hand(jit):
  """Rewards 1, 1, -1, -1 less 0, .5, 1, 0: mean -.375, variance 1.421875."""
  arrays = of_one_query(scores=[1.0, 1, 0, 0], lengths=[6, 8, 10, 5])
  found = call("dapo", jit, arrays, max_length=10, overlong_buffer=4)
  np.testing.assert_allclose(found[0, 0], [1.15312, 0.73380, -1.36277, -0.52415], atol=1e-5)


def test_the_overlong_penalty_needs_a_buffer_within_the_limit():
  for buffer in (0, 11):
    with pytest.raises(ValueError, match="must be from 1 to max_length=10"):
      overlong_penalty(jnp.ones(1), max_length=10, buffer=buffer)


@BOTH
def test_thinkless_prefers_the_right_direct_answer(jit):
  """Rewards .5, -1, 1, -1, mean -.125; what is neither mode is wrong."""
  arrays = of_one_query(scores=[1.0, 0, 1, 0], modes=[0, 0, 1, -1])
  np.testing.assert_allclose(call("thinkless", jit, arrays)[0, 0], [0.625, -0.875, 1.125, -0.875])


@BOTH
def test_adapt_think_compares_with_the_reference(jit):
  arrays = {
    "scores": np.array([[[1.0], [0.0]], [[0.0], [1.0]]]),
    "modes": np.array([[[0], [1]]] * 2),
    "ref_accuracy": np.array([0.25, np.nan]),
  }
  found = call("adapt_think", jit, arrays)
  np.testing.assert_allclose(found[..., 0], [[0.75, -0.25 + 0.05], [0, 0]], atol=1e-6)
  found = call("adapt_think", jit, arrays, no_think_bonus=0.5)
  np.testing.assert_allclose(found[0, :, 0], [0.75, 0.25], atol=1e-6)


def assert_grpo_of(found, rewards, jit, ddof=0):
  expected = call("grpo", jit, of_one_query(scores=rewards), ddof=ddof)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@BOTH
@pytest.mark.parametrize(
  "stage, scores, modes, lengths, rewards",
  [
    (2, [1.0, 0, 1, 0], [0, 0, 1, 1], [3] * 4, [1, 0, 2, -1]),
    (2, [1.0, 0, 1, 0], [0, 0, 1, -1], [3] * 4, [1, 0, 2, -1]),
    # Think has 3/4 of the batch: half way to 0 (right) and -1 (wrong).
    (1, [1.0, 0, 1, 1], [0, 0, 0, 1], [3] * 4, [0.5, -0.5, 0.5, 2]),
    # no_think has all: 1 and -2.
    (1, [1.0, 0, 1, 0], [1, 1, 1, 1], [3] * 4, [1, -2, 1, -2]),
    (1, [1.0, 0, 1, 0], [0, 1, 0, 1], [3] * 4, [1, -1, 1, -1]),  # balanced: as in stage 2
    # z is -+1/sqrt(2) among the right ones and among the wrong ones; then one of a kind.
    (
      3, [1.0, 1, 0, 0], [0, 0, 0, 0], [10, 30, 10, 30],
      [np.exp(0.05 / 2**0.5), np.exp(-0.05 / 2**0.5),
       1 - np.exp(0.05 / 2**0.5), 1 - np.exp(-0.05 / 2**0.5)],
    ),
    (3, [1.0, 0, 0, 0], [0, 0, 0, 0], [10, 7, 7, 7], [1, 0, 0, 0]),
  ],
)  # fmt: skip
def test_auto_think_stage_by_stage(stage, scores, modes, lengths, rewards, jit):
  arrays = of_one_query(scores=scores, modes=modes, lengths=lengths)
  found = call("auto_think", jit, arrays, step=0, total_steps=9, stage=stage)
  assert_grpo_of(found, rewards, jit)


def test_auto_think_balances_over_the_batch():
  """Half of all responses think, though all of one query's do."""
  scores = np.array([[[1.0, 0]], [[1, 0]]])
  arrays = {"scores": scores, "modes": np.array([[[0, 0]], [[1, 1]]]), "lengths": scores}
  stages = [call("auto_think", True, arrays, step=0, total_steps=1, stage=s) for s in (1, 2)]
  np.testing.assert_array_equal(*stages)


def test_auto_think_gives_each_stage_a_third_of_the_run():
  arrays = of_one_query(scores=[1.0, 1, 0, 1], modes=[0, 0, 0, 1], lengths=[10, 30, 9, 5])
  fixed = [call("auto_think", True, arrays, step=0, total_steps=9, stage=s) for s in (1, 2, 3)]
  scores, rest = arrays["scores"], {k: arrays[k] for k in ("modes", "lengths")}
  auto_think = functools.partial(registry.get("auto_think"), scores, **rest, total_steps=9)
  found = jax.vmap(lambda step: auto_think(step=step).body)(jnp.arange(9))
  np.testing.assert_allclose(found, np.repeat(fixed, 3, axis=0), atol=1e-6)
  assert np.abs(fixed[0] - fixed[1]).max() > 0.1 and np.abs(fixed[2] - fixed[1]).max() > 0.01
  with pytest.raises(ValueError, match="stage=4 is none of"):
    call("auto_think", False, arrays, step=0, total_steps=9, stage=4)


@BOTH
@pytest.mark.parametrize(
  "step, rewards",
  [
    (0, [4 / 3, 4 / 3, 0, 4]),  # n / F
    (5, [7 / 6, 7 / 6, 0, 2.5]),  # half way
    (10, [1, 1, 0, 1]),
  ],
)
def test_ada_grpo_lifts_the_rare_mode_at_first(step, rewards, jit):
  arrays = of_one_query(scores=[1.0, 1, 0, 1], modes=[0, 0, 0, 1])
  found = call("ada_grpo", jit, {**arrays, "step": step}, total_steps=10, ddof=1)
  assert_grpo_of(found, rewards, jit, ddof=1)


@BOTH
@pytest.mark.parametrize(
  "name, rewards",
  [
    ("l1_exact", [1, 0.5, -1, -1]),
    ("l1_max", [0.5, 0.25, 0, 0]),  # at the target, 50 above, wrong, 200 above
  ],
)
def test_l1_by_hand(name, rewards, jit):
  arrays = of_one_query(scores=[1.0, 1, 0, 1], lengths=[100, 150, 0, 300])
  found = call(name, jit, arrays, max_length=200, length_weight=0.01)
  assert_grpo_of(found, rewards, jit)


@BOTH
@pytest.mark.parametrize(
  "name, rewards",
  [
    ("l1_exact", [1, 0.925, 0.79, -0.15]),  # 0.0003 per token
    ("l1_max", [0.5, 0.75, 0, 0]),  # 0.001 per token, from 0.5 at the target
  ],
)
def test_l1_takes_its_authors_weights_and_half_of_the_limit(name, rewards, jit):
  arrays = of_one_query(scores=[1.0, 1, 1, 0], lengths=[500, 250, 1200, 0])
  assert_grpo_of(call(name, jit, arrays, max_length=1000), rewards, jit)


@pytest.mark.parametrize("name", registry.names())
def test_a_config_can_name_every_argument(name):
  """Settings, what rollouts and the run give, and options that are numbers or flags."""
  parameters = list(inspect.signature(registry.get(name)).parameters.values())
  assert parameters[0].name == "scores"
  for p in parameters[1:]:
    assert p.kind is p.KEYWORD_ONLY
    known = p.name in registry.SETTINGS or p.name in registry.CONTEXT
    assert known or p.annotation in (int, float, bool, "int", "float", "bool")


# The others compare with the batch or with a reference.
WITHIN_A_GROUP = {*registry.names()} - {"adapt_think", "auto_think", "reinforce_pp"}


@pytest.mark.parametrize("name", sorted(WITHIN_A_GROUP))
def test_queries_do_not_touch_each_other_and_equal_responses_say_nothing(name):
  named = inspect.signature(registry.get(name)).parameters
  given = {"alpha": 0.0, "delta": 0.0, "step": 0, "total_steps": 1, "max_length": 9,
           "overlong_buffer": 3, "target_length": 4}  # fmt: skip
  options = {k: v for k, v in given.items() if k in named}
  modes = np.array([[[0, 0], [1, 1]], [[0, 0], [1, 1]]])
  if name == "thinkless":  # modes pay differently
    modes = np.zeros_like(modes)
  arrays = {"modes": modes, "lengths": np.full((2, 2, 2), 4)}
  arrays = {k: v for k, v in arrays.items() if k in named}
  scores = np.array([[[1.0, 0], [1, 0]], [[1, 1], [1, 1]]])
  found = registry.get(name)(scores, **arrays, **options)
  alone = registry.get(name)(scores[:1], **{k: v[:1] for k, v in arrays.items()}, **options)
  np.testing.assert_allclose(found.body[0], alone.body[0], atol=1e-6)
  assert np.abs(found.body[0]).max() > 0.1
  np.testing.assert_allclose(found.body[1], 0, atol=1e-6)

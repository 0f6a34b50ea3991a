"""The embedded task: right answers, graded levels, held-out prompts, rows fixed by (seed, step)."""

import collections
import itertools

import numpy as np
import pytest

from lhrm_jax.data.arithmetic import Arithmetic, is_held_out, running_results
from lhrm_jax.rewards import get
from lhrm_jax.text import parse_response, tags


def chain_of(prompt):
  return prompt.rsplit(" ", 1)[1].rstrip("?")


@pytest.mark.parametrize(
  "chain, digits", [("3+4*7", [7, 9]), ("9*9", [1]), ("1+9*3+5*7", [0, 0, 5, 5]), ("5*3+5", [5, 0])]
)
def test_chains_run_from_left_to_right(chain, digits):
  assert running_results(chain) == digits


def test_levels_are_what_they_say():
  task = Arithmetic(level_mix=(1, 2, 3, 4, 5, 6))
  for row in task.prompts(0, 0, 300):
    chain = chain_of(row.prompt)
    operators = chain[1::2]
    assert len(operators) == {1: 1, 2: 2, 3: 2}.get(row.level, row.level - 1)
    assert ("*" not in operators) if row.level == 2 else (row.level == 1 or "*" in operators)
    assert all(d in "379" for o, d in zip(operators, chain[2::2], strict=True) if o == "*")


def test_multiplying_is_a_bijection_of_digits():
  """So the last digit of a product hides nothing of what went before."""
  for factor in (3, 7, 9):
    assert len({running_results(f"{a}*{factor}")[0] for a in range(1, 10)}) == 9


def test_evaluation_prompts_are_never_trained_on_where_there_is_room():
  task = Arithmetic()
  held_out = {chain_of(r.prompt) for r in task.evaluation(300) if r.level >= 4}
  trained = {chain_of(r.prompt) for step in range(200) for r in task.prompts(0, step, 32)}
  for step in range(100):
    trained |= {
      chain_of(row.prompt) for rows in task.demonstrations(0, step, 16, 64) for row in rows
    }
  assert held_out and not held_out & trained
  assert all(is_held_out(chain) for chain in held_out)


def test_small_levels_are_enumerated_as_the_docstring_says():
  sizes = collections.Counter()
  for _, o, b in itertools.product("123456789", "+*", "123456789"):
    sizes[1] += o == "+" or b in "379"
  for ops in itertools.product("+*", repeat=2):
    for digits in itertools.product("123456789", repeat=3):
      legal = all(o == "+" or d in "379" for o, d in zip(ops, digits[1:], strict=True))
      sizes[2 if "*" not in ops else 3] += legal
  assert sizes == {1: 108, 2: 729, 3: 567}


def test_evaluation_follows_the_mix_without_repeats():
  rows = Arithmetic().evaluation(300)
  assert len({row.prompt for row in rows}) == 300
  levels = collections.Counter(row.level for row in rows)
  assert levels == {1: 90, 2: 90, 3: 30, 4: 30, 5: 30, 6: 30}


def test_rows_are_a_function_of_seed_and_step():
  task = Arithmetic()
  assert task.prompts(3, 5, 8) == task.prompts(3, 5, 8)
  assert task.prompts(3, 5, 8) != task.prompts(3, 6, 8)
  assert task.prompts(3, 5, 8) != task.prompts(4, 5, 8)
  assert task.demonstrations(3, 5, 2, 2) == task.demonstrations(3, 5, 2, 2)


def test_demonstrations_are_right_in_both_modes(tokenizer):
  reward = get("exact_match")
  think, no_think = Arithmetic().demonstrations(0, 0, 20, 20)
  for row in (*think, *no_think):
    answer = str(running_results(chain_of(row.prompt))[-1])
    assert reward(row.prompt, row.response, answer) == 1.0
    assert parse_response(row.response).mode == row.mode
    ids = tokenizer.encode_response(row.response)
    assert tokenizer.tag_ids.mode_of(ids[0]) == row.mode
  assert {row.mode for row in think} == {tags.THINK}


def test_modes_cost_what_the_limits_allow(tokenizer):
  """The widest prompt and responses fit the demo's config exactly."""
  from experiments.configs import arithmetic as demo

  data = demo.get_config().data
  task = Arithmetic(level_mix=(6,), direct_mix=(6,))
  think, no_think = task.demonstrations(0, 0, 20, 20)
  widths = [max(len(tokenizer.encode_response(r.response)) for r in rows)
            for rows in (think, no_think)]  # fmt: skip
  prompts = max(len(tokenizer.encode_prompt(r.prompt)) for r in think)
  assert (prompts, *widths) == (
    data.max_prompt_tokens, data.max_response_tokens, data.max_no_think_tokens
  )  # fmt: skip


def test_prompts_longer_than_the_limit_are_refused(tokenizer, rows):
  from lhrm_jax.data.batches import encode_prompts

  with pytest.raises(ValueError, match=r"data\.max_prompt_tokens=5"):
    encode_prompts(tokenizer, rows, 0, 5)
  tokens, lengths, ids = encode_prompts(tokenizer, rows, 40, 22)
  np.testing.assert_array_equal(ids, np.arange(40, 46))
  assert tokens.shape == (6, 22) and lengths.min() > 0

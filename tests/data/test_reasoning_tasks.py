"""The reasoning tasks: right answers, work that leads to them, and nothing trained on twice."""

import collections
import re

import pytest

from lhrm_jax.data import reasoning_families, reasoning_tasks, tasks
from lhrm_jax.data.reasoning_families import FAMILIES
from lhrm_jax.data.reasoning_tasks import ReasoningTasks
from lhrm_jax.text import parse_response, tags

pytest.importorskip("reasoning_gym")
TASK = ReasoningTasks()


def problems(name: str, count: int = 60):
  for level in range(1, len(FAMILIES[name].levels) + 1):
    for index in range(count):
      yield level, FAMILIES[name].problem(level, index)


def numbers(text: str) -> list[int]:
  return [int(n) for n in re.findall(r"\d+", text)]


def answer_letter_counting(prompt):
  letter, text = re.fullmatch(r'How many times .* "(.)" appear in "(.*)"\?', prompt).groups()
  return str(text.lower().count(letter.lower()))


def answer_spell_backward(prompt):
  return prompt.removeprefix("Spell this word backward: ")[::-1]


def answer_chain_sum(prompt):
  expression = prompt.removeprefix("What is ").removesuffix("?").replace(" ", "")
  return str(sum(int(term) for term in re.findall(r"[+-]?\d+", expression)))


def answer_number_sorting(prompt):
  ordered = sorted(numbers(prompt), reverse="largest first" in prompt)
  return ", ".join(map(str, ordered))


def answer_base_conversion(prompt):
  text, source, target = re.fullmatch(
    r"Convert (\w+) from base (\d+) to base (\d+)\.", prompt
  ).groups()
  value, digits = int(text, int(source)), ""
  while value:
    value, digit = divmod(value, int(target))
    digits = str(digit) + digits
  return digits


def answer_tripling(prompt):
  start, steps = numbers(prompt)
  return str(start * 3**steps % 1000)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"gsm_symbolic"}))
def test_answers_are_right_by_an_independent_reading_of_the_prompt(name):
  answer = globals()[f"answer_{name}"]
  for _, problem in problems(name):
    assert problem.answer == answer(problem.prompt), problem


@pytest.mark.parametrize("name", FAMILIES)
def test_work_ends_at_the_answer_and_grows_with_the_level(name):
  length = collections.defaultdict(list)
  for level, problem in problems(name):
    last = problem.work.splitlines()[-1]
    if name in ("letter_counting", "chain_sum", "gsm_symbolic"):
      assert problem.answer in last.replace(",", "")
    length[level].append(len(problem.work))
  means = [sum(lengths) / len(lengths) for _, lengths in sorted(length.items())]
  assert means == sorted(means)


def test_word_problems_with_wrong_arithmetic_are_left_out():
  good = {"question": "Q?", "answer": "6", "metadata": {"answer_cot": "2 * 3 = 6\n#### 6"}}
  assert reasoning_families._gsm_symbolic(good).answer == "6"
  for work in ("2 * 3 = 7\n#### 6", "2 * 3 = 6\n#### 7", "no final answer"):
    assert reasoning_families._gsm_symbolic({**good, "metadata": {"answer_cot": work}}) is None


def test_the_length_of_the_prompt_tells_nothing_in_tripling():
  assert len({len(problem.prompt) for _, problem in problems("tripling")}) == 1


def test_rows_are_a_function_of_seed_and_step():
  assert TASK.prompts(1, 2, 20) == ReasoningTasks().prompts(1, 2, 20)
  assert TASK.prompts(1, 2, 20) != TASK.prompts(1, 3, 20) != TASK.prompts(2, 2, 20)
  assert TASK.demonstrations(1, 2, 5, 5) == ReasoningTasks().demonstrations(1, 2, 5, 5)


def test_evaluation_is_held_out_distinct_and_covers_every_family_and_level():
  rows = TASK.evaluation(200)
  assert len({row.prompt for row in rows}) == 200
  assert {(row.source, row.level) for row in rows} == {
    (name, level + 1) for name, family in FAMILIES.items() for level in range(len(family.levels))
  }
  asked = {row.prompt for row in rows}
  for step in range(20):
    think, no_think = TASK.demonstrations(0, step, 20, 20)
    trained = {row.prompt for row in [*TASK.prompts(0, step, 50), *think, *no_think]}
    assert not trained & asked


def test_demonstrations_carry_the_right_answer_in_both_modes():
  think, no_think = TASK.demonstrations(0, 0, 40, 10)
  for mode, rows, weight in ((tags.THINK, think, 50 / 80), (tags.NO_THINK, no_think, 50 / 20)):
    for row in rows:
      parsed = parse_response(row.response)
      assert (parsed.mode, row.mode, row.tag_weight) == (mode, mode, weight)
      assert parsed.answer and "<" not in parsed.answer
      assert bool(parsed.reasoning) == (mode == tags.THINK)


def test_unknown_families_and_training_from_scratch_are_refused():
  with pytest.raises(ValueError, match=r"Unknown families \['chess'\]"):
    ReasoningTasks(families=("chess",))
  with pytest.raises(ValueError, match="task='reasoning' needs a pretrained policy"):
    tasks.own_tokenizer("reasoning", TASK)


def test_too_large_an_evaluation_is_refused_rather_than_repeating_itself():
  with pytest.raises(ValueError, match="tripling, level 1, has too few problems"):
    ReasoningTasks(families=("tripling",)).evaluation(800)


def test_held_out_is_a_tenth():
  share = sum(reasoning_tasks.is_held_out(f"prompt {i}") for i in range(5000)) / 5000
  assert 0.08 < share < 0.12


def test_cells_are_drawn_by_their_number():
  cells = (("tripling", 1), ("tripling", 1), ("chain_sum", 2))
  task = ReasoningTasks(cells=cells)
  drawn = collections.Counter((row.source, row.level) for row in task.prompts(0, 0, 300))
  assert set(drawn) == set(cells) and 160 < drawn["tripling", 1] < 240
  assert [(row.source, row.level) for row in task.evaluation(3)] == list(cells)
  with pytest.raises(ValueError, match="'tripling' has no level 5"):
    ReasoningTasks(cells=(("tripling", 5),))

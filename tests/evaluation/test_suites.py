"""Suites read invented files in each source's own format; golds score 1 against themselves."""

import ast
import base64
import json
import pickle
import zlib

import pytest

from lhrm_jax import rewards
from lhrm_jax.errors import UserError
from lhrm_jax.evaluation import EvaluationConfig, suites
from lhrm_jax.evaluation.suites import arena_hard, programs
from lhrm_jax.rewards import sandbox
from lhrm_jax.runs import evaluated
from lhrm_jax.runs.config import from_config_dict, get_config
from tests.data.test_sources import write_jsonl

PLUS = """
import numpy as np

def assertion(out, exp, atol):
  if atol != 0:
    np.testing.assert_allclose(out, exp, rtol=1e-07, atol=atol)
  assert out == exp

inputs = [[2], [-1.5], [[1, 2]]]
results = [(4, 'a'), None, {'k': [0.5]}]
for i, (inp, exp) in enumerate(zip(inputs, results)):
  assertion(twice(*inp), exp, 1e-06)
"""
CHECK = "def check(candidate):\n  assert candidate(2) == 4\n  for i in range(3):\n    pass\n"
HIDDEN = [{"input": "3\n[1]", "output": "4", "testtype": "functional"}]
PUBLIC = json.dumps([{"input": "1\n[2]", "output": "3", "testtype": "functional"}])


def packed(value) -> str:
  return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


# By suite: a row as the source ships it, and the gold, level and subject that are read.
ROWS = {
  "gsm8k": ({"question": "2+3?", "answer": "2+3=<<2+3=5>>5\n#### 1,005"}, ("1005", 0, "")),
  "math500": (
    {"problem": "x?", "solution": "s", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 4},
    ("\\frac{1}{2}", 4, "Algebra"),
  ),
  "aime24": ({"id": 6, "problem": "p", "solution": "s", "answer": "025"}, ("025", 0, "")),
  "aime25": (
    {"prompt": "b?\nPlease reason step by step, and put your final answer within \\boxed{}.",
     "answer": 70},
    ("70", 0, ""),
  ),
  "amc23": ({"id": 0, "question": "q", "problem": "q", "answer": 27.0}, ("27", 0, "")),
  "olympiadbench": (
    {"id": 1, "subfield": "Geometry", "context": "Given.", "question": "q", "solution": ["s"],
     "final_answer": ["$69$,$84$"], "is_multiple_answer": True, "unit": None, "error": None},
    ("$69$,$84$", 0, "Geometry"),
  ),
  "minerva": (
    {"problem": "p", "solution": "so \\boxed{1.6} cm", "type": "Astronomy", "idx": 0},
    ("1.6", 0, "Astronomy"),
  ),
  "svamp": (
    {"ID": "chal-1", "Body": "290 bananas in 2 groups.", "Question": "How many in each?",
     "Answer": 145.0, "Equation": "( 290.0 / 2.0 )", "Type": "Common-Division"},
    ("145", 0, "Common-Division"),
  ),
  "asdiv": (
    {"body": "Seven apples.", "question": "How many?", "solution_type": "Sum",
     "answer": "9 (apples)", "formula": "7+2=9", "idx": 0},
    ("9", 0, "Sum"),
  ),
  "mbpp": (
    {"task_id": 1, "text": "Double.", "code": "def f(x):\n  return 2*x", "test_setup_code": "",
     "test_list": ["assert f(2) == 4", "assert f(3) == 6"], "challenge_test_list": []},
    (None, 0, ""),
  ),
  "mbpp_plus": (
    {"task_id": 2, "prompt": "Double.", "code": "def twice(x):\n  pass", "test_imports": [],
     "test_list": ["assert twice(2) == (4, 'a')"], "test": PLUS},
    (None, 0, ""),
  ),
  "humaneval": (
    {"task_id": "HumanEval/0", "prompt": "def twice(x):\n", "entry_point": "twice",
     "canonical_solution": "  return 2 * x", "test": CHECK},
    (None, 0, ""),
  ),
  "humaneval_plus": (
    {"task_id": "HumanEval/0", "prompt": "def twice(x):\n", "entry_point": "twice",
     "canonical_solution": "", "test": "def check(candidate):\n"
     + "".join(f"  {line}\n" for line in PLUS.replace("twice(", "candidate(").splitlines())},
    (None, 0, ""),
  ),
  "livecodebench": (
    {"question_title": "t", "question_content": "Add.", "platform": "leetcode",
     "contest_date": "2024-09-01T00:00:00",
     "starter_code": "class Solution:\n  def add(self, a: int, b: List[int]):",
     "difficulty": "medium", "public_test_cases": PUBLIC,
     "private_test_cases": packed(json.dumps(HIDDEN)),
     "metadata": json.dumps({"func_name": "add"})},
    (None, 2, "leetcode"),
  ),
  "alpaca_eval": (
    {"instruction": "Hi", "output": "Hello!", "generator": "gpt4_1106_preview", "dataset": "koala"},
    ("Hello!", 0, "koala"),
  ),
  "arena_hard": (
    {"uid": "u1", "category": "coding", "prompt": "Hi", "baseline": "Hello!"},
    ("Hello!", 0, "coding"),
  ),
  "gpqa_diamond": (
    {"Question": "Which?", "Correct Answer": "right", "Incorrect Answer 1": "w1",
     "Incorrect Answer 2": "w2", "Incorrect Answer 3": "w3", "High-level domain": "Physics"},
    (None, 0, "Physics"),
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", suites.REGISTRY.names())
def test_a_row_is_read_as_its_source_ships_it(name, tmp_path):
  fields, (gold, level, subject) = ROWS[name]
  write_jsonl(tmp_path / "rows.jsonl", [fields])
  (row,) = suites.load(name, str(tmp_path / "rows.jsonl")).rows
  assert (row.source, row.level, row.subject) == (name, level, subject)
  assert gold is None or row.answer == gold
  scorer = suites.scorers([name])[name]
  if scorer in ("math", "multiple_choice"):
    right = f"<no_think>So \\boxed{{{row.answer}}}.</no_think>"
    assert rewards.get(scorer)(row.prompt, right, row.answer) == 1
    assert row.prompt.count("boxed") == 1
  elif scorer == "code":
    rewards.check_answer(rewards.get("code"), row.answer)


PROGRAMS = {
  "mbpp": ("def f(x):\n  return 2*x", "def f(x):\n  return 4"),
  "mbpp_plus": (
    "def twice(x):\n  return {2: (4, 'a'), -1.5: None}.get(x) if type(x) != list else "
    "{'k': [0.5 + 1e-8]}",
    "def twice(x):\n  return (4, 'a')",
  ),
  "humaneval": ("def twice(x):\n  return 2 * x", "def twice(x):\n  return x"),
  "livecodebench": (
    "class Solution:\n  def add(self, a: int, b: List[int]):\n    return a + b[0]",
    "class Solution:\n  def add(self, a, b):\n    return 3",
  ),
}


@pytest.mark.skipif(sandbox.why_unavailable() is not None, reason="programs cannot be isolated")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_right_program_passes_and_a_wrong_one_does_not(name, tmp_path):
  write_jsonl(tmp_path / "rows.jsonl", [ROWS[name][0]])
  (row,) = suites.load(name, str(tmp_path / "rows.jsonl")).rows
  replies = (f"<no_think>```python\n{program}\n```</no_think>" for program in PROGRAMS[name])
  code = rewards.get("code")
  assert [code(row.prompt, reply, row.answer) for reply in replies] == [1, 0]


PLUS_CASES = [
  # results, a program's output, whether it passes
  ("[0.3]", "0.1 + 0.2", True),
  ("[[0.3, 1.0]]", "[0.1 + 0.2, 1.0]", True),
  ("[0.3]", "0.31", False),
  ("[1e12]", "1e12 + 0.001", True),
  ("[inf]", "float('inf')", True),
  ("[2]", "2.0000001", False),
]


@pytest.mark.parametrize(("results", "output", "right"), PLUS_CASES)
def test_numbers_are_compared_as_evalplus_compares_them(results, output, right):
  tests = f"inputs = [[1]]\nresults = {results}\nassertion(f(*inputs[0]), results[0], 0)"
  (check,), setup = programs.plus_asserts(ast.parse(tests), "f")
  space = {}
  exec(f"{setup}\ndef f(x): return {output}", space)
  try:
    exec(check, space)
    passed = True
  except AssertionError:
    passed = False
  assert passed == right


def test_tasks_that_evalplus_judges_by_a_program_are_left_out(tmp_path):
  plus = {**ROWS["mbpp_plus"][0], "test": "inputs = [[1]]\nfor i in inputs: ref_func(*i)"}
  write_jsonl(tmp_path / "rows.jsonl", [ROWS["mbpp_plus"][0], plus])
  assert len(suites.load("mbpp_plus", str(tmp_path / "rows.jsonl")).rows) == 1


def test_the_letter_of_a_choice_is_that_of_the_right_one(tmp_path):
  write_jsonl(tmp_path / "rows.jsonl", [ROWS["gpqa_diamond"][0]])
  (row,) = suites.load("gpqa_diamond", str(tmp_path / "rows.jsonl")).rows
  assert f"{row.answer}) right" in row.prompt


@pytest.mark.parametrize(
  ("hidden", "why"),
  [
    (packed(print), "would import builtins.print"),
    (packed([1]), "something else than text"),
    ("!!", "cannot be unpacked"),
    (packed("{"), "not JSON"),
  ],
)
def test_a_pickle_of_hidden_tests_runs_nothing(hidden, why, tmp_path):
  row = {**ROWS["livecodebench"][0], "private_test_cases": hidden}
  write_jsonl(tmp_path / "rows.jsonl", [row])
  with pytest.raises(ValueError, match=why):
    suites.load("livecodebench", str(tmp_path / "rows.jsonl"))


def config_of(named: str, **changes):
  config = get_config()
  config.evaluation.suites = named
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return from_config_dict(config)


def test_contests_outside_of_the_window_are_left_out(tmp_path):
  days = ("2024-07-31", "2024-08-01", "2024-09-30", "2024-10-01")
  rows = [{**ROWS["livecodebench"][0], "contest_date": f"{day}T00:00:00",
           "question_content": day} for day in days]  # fmt: skip
  write_jsonl(tmp_path / "rows.jsonl", rows)
  window = {"since": "2024-08-01", "until": "2024-09-30"}
  c = config_of(
    f"livecodebench={tmp_path}/rows.jsonl",
    **{f"evaluation__livecodebench__{key}": day for key, day in window.items()},
  )
  found = evaluated.suite_rows(c.evaluation)
  assert [row.prompt[:10] for row in found] == list(days[1:3])
  with pytest.raises(UserError, match="no contest lies between"):
    config_of("livecodebench", evaluation__livecodebench__since="2025-01-01",
              evaluation__livecodebench__until="2024-01-01")  # fmt: skip


def test_a_baseline_is_read_from_the_file_of_its_answers(tmp_path):
  question = {k: v for k, v in ROWS["arena_hard"][0].items() if k != "baseline"}
  write_jsonl(tmp_path / "question.jsonl", [question])
  messages = [{"role": "user", "content": "Hi"},
              {"role": "assistant", "content": {"answer": "Good day."}}]  # fmt: skip
  write_jsonl(tmp_path / "answers.jsonl", [{"uid": "u1", "messages": messages}])
  assert arena_hard.baseline_answers(f"{tmp_path}/answers.jsonl") == {"u1": "Good day."}
  named = f"arena_hard={tmp_path}/question.jsonl"
  judge = {"evaluation__judge__endpoint": "http://localhost:1/v1"}
  c = config_of(named, **judge, evaluation__judge__baseline=f"{tmp_path}/answers.jsonl")
  (row,) = evaluated.suite_rows(c.evaluation)
  assert row.answer == "Good day."
  with pytest.raises(UserError, match=r"evaluation\.judge\.baseline"):
    evaluated.suite_rows(config_of(named, **judge).evaluation)


def test_rows_of_a_suite_are_chosen_alike_each_time_and_keep_their_order(tmp_path):
  rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(50)]
  write_jsonl(tmp_path / "rows.jsonl", rows)
  settings = EvaluationConfig(suites=f"gsm8k={tmp_path}/rows.jsonl", prompts=10)
  chosen = [int(row.answer) for row in evaluated.suite_rows(settings)]
  assert len(chosen) == 10 and chosen == sorted(chosen) and chosen != list(range(10))
  assert [int(row.answer) for row in evaluated.suite_rows(settings)] == chosen


@pytest.mark.parametrize(
  ("changes", "why"),
  [
    ({"evaluation__suites": "gsm8"}, "did you mean 'gsm8k'"),
    ({"evaluation__suites": "gsm8k, gsm8k=a.jsonl"}, "named twice"),
    ({"evaluation__suites": "alpaca_eval"}, "set evaluation.judge.endpoint"),
    ({"evaluation__judge__endpoint": "http://h/v1"}, "without alpaca_eval"),
    ({"evaluation__judge__model": "m"}, "needs an endpoint"),
    ({"evaluation__livecodebench__since": "2024-01-01"}, "without livecodebench"),
    ({"evaluation__livecodebench__since": "May"}, "must be a date"),
    ({"evaluation__temperature": 0.0, "evaluation__free_samples": 2}, "all the same"),
  ],
)
def test_a_setting_of_suites_that_is_wrong_or_idle_is_an_error(changes, why):
  config = get_config()
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  with pytest.raises(UserError, match=why):
    from_config_dict(config)


def test_a_suite_that_cannot_be_read_says_which_file(tmp_path):
  with pytest.raises(UserError, match=r"math500: .*missing.jsonl does not exist"):
    evaluated.suite_rows(EvaluationConfig(suites=f"math500={tmp_path}/missing.jsonl"))
  write_jsonl(tmp_path / "bad.jsonl", [{"question": "q", "answer": "no mark"}])
  with pytest.raises(UserError, match=r"bad.jsonl:1: the answer holds no '####'"):
    evaluated.suite_rows(EvaluationConfig(suites=f"gsm8k={tmp_path}/bad.jsonl"))


def test_a_problem_whose_tests_cannot_be_judged_is_left_out_and_counted(tmp_path, capsys):
  good, bad = ROWS["mbpp"][0], {**ROWS["mbpp"][0], "test_list": ["assert True"]}
  write_jsonl(tmp_path / "rows.jsonl", [bad, good])
  settings = EvaluationConfig(suites=f"mbpp={tmp_path}/rows.jsonl")
  assert len(evaluated.suite_rows(settings)) == 1
  assert "mbpp: 1 of 2 problems are left out, e.g. " in capsys.readouterr().out
  write_jsonl(tmp_path / "rows.jsonl", [bad])
  with pytest.raises(UserError, match="no problem can be judged"):
    evaluated.suite_rows(settings)

"""Readers of the paper's sources, each on an invented file in the source's own format."""

import collections

import pytest

from lhrm_jax.data import catalog, sources, tasks
from lhrm_jax.data.catalog import DATASETS, MATH_SUFFIX
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.sources import Loaded, Source
from lhrm_jax.text import tags
from tests.data.test_sources import KNOWN_FIELDS, write_jsonl, write_parquet

THOUGHT = "<think>\nTwo and two.\n</think>\n\nThe answer is \\boxed{4}."


def exchange(question, reply, **more):
  return [{"role": "user", "content": question, **more},
          {"role": "assistant", "content": reply, **more}]  # fmt: skip


def oasst(name, parent, role, text, **more):
  return {"message_id": name, "parent_id": parent, "message_tree_id": "t1", "role": role,
          "text": text, "lang": "en", "deleted": False, "rank": None} | more  # fmt: skip


def synthetic1(kind, score=1.0, response=THOUGHT, **more):
  return {"response_id": "r", "problem_id": "p", "task_type": kind, "prompt": "What is 2+2?",
          "gold_standard_solution": None, "llm_response": response, "score": score,
          "verification_info": '{"ground_truth": "4"}'} | more  # fmt: skip


SYNTHETIC1 = [
  synthetic1("verifiable_math", response=THOUGHT.removeprefix("<think>\n")),
  synthetic1("verifiable_math", score=0.0),
  synthetic1("verifiable_code", prompt="Print 4."),
  synthetic1("llm_judgeable_groundtruth_similarity", prompt="Why is it 4?"),
  {"task_type": "code_output_prediction", "score": 1.0, "problem_id": "q",
   "messages": exchange("What is printed?", THOUGHT)},
]  # fmt: skip
OPEN_THOUGHTS = [
  {"problem": "2+2?", "deepseek_reasoning": "Two and two.", "deepseek_solution": "\\boxed{4}",
   "ground_truth_solution": "4", "domain": "math", "source": "numina_math", "test_cases": None,
   "starter_code": None},
  {"problem": "Print 4.", "deepseek_reasoning": "Easy.", "deepseek_solution": "print(4)",
   "domain": "code", "source": "taco", "test_cases": "{}", "starter_code": "def main():"},
]  # fmt: skip

# Rows in a source's own format; the prompts, responses and answers that come of them; what is left
# out and why.
CASES = {
  "wildchat": (
    [
      {"conversation_hash": "a", "model": "gpt-4", "turn": 2, "toxic": False, "language": "English",
       "conversation": [*exchange("Hi", "Hello!", toxic=False), *exchange("And?", "No.")]},
      {"conversation_hash": "b", "toxic": True, "conversation": exchange("x", "y")},
      {"conversation_hash": "c", "toxic": False, "conversation": exchange("x", "")},
    ],
    [("Hi", "<no_think>Hello!</no_think>", "")],
    {"toxic": 1},
    "holds no text",
  ),
  "oasst1": (
    [
      oasst("m1", None, "prompter", "Hi"),
      oasst("m2", "m1", "assistant", "Hello!", rank=0),
      oasst("m3", "m2", "prompter", "And?"),
      oasst("m4", "m3", "assistant", "Well."),
      oasst("m5", "m1", "assistant", "Go away.", rank=1),
      oasst("m6", "m9", "assistant", "An orphan."),
    ],
    [("Hi", "<no_think>Hello!</no_think>", ""), ("And?", "<no_think>Well.</no_think>", "")],
    {"a user's message, which is context of its replies": 2, "another reply was ranked better": 1},
    "the message it replies to is missing",
  ),
  "synthetic1_math": (
    SYNTHETIC1,
    [(f"What is 2+2?\n{MATH_SUFFIX}", "<think>Two and two.\n</think>\n\nThe answer is "
      "\\boxed{4}.", "4")],
    {"its verifier found the response wrong": 1, "task_type='verifiable_code'": 1,
     "task_type='llm_judgeable_groundtruth_similarity'": 1,
     "task_type='code_output_prediction'": 1},
    "",
  ),
  "synthetic1_code": (
    SYNTHETIC1, [("Print 4.", THOUGHT, ""), ("What is printed?", THOUGHT, "")], None, ""
  ),
  "synthetic1_other": (SYNTHETIC1, [("Why is it 4?", THOUGHT, "")], None, ""),
  "openr1_math": (
    [{"problem": "2+2?", "answer": "4", "generations": ["no", THOUGHT],
      "correctness_math_verify": [False, True], "is_reasoning_complete": [True, True]},
     {"problem": "2+2?", "answer": "4", "generations": [THOUGHT],
      "correctness_math_verify": [False], "is_reasoning_complete": [True]},
     {"problem": "2+2?", "answer": "4"}],
    [(f"2+2?\n{MATH_SUFFIX}", THOUGHT, "4")],
    {"no generation is complete and verified": 1},
    "no 'generations'",
  ),
  "openthoughts_math": (
    OPEN_THOUGHTS,
    [(f"2+2?\n{MATH_SUFFIX}", "<think>Two and two.</think>\\boxed{4}", "")],
    {"domain='code'": 1},
    "",
  ),
  "openthoughts_code": (
    OPEN_THOUGHTS,
    [("Print 4.\n\ndef main():", "<think>Easy.</think>print(4)", "")],
    {"domain='math'": 1},
    "",
  ),
  "aops": (
    [{"source": "aops", "messages": exchange("2+2?", "Count. \\boxed{4}")},
     {"problem": "2+2? Answer in \\boxed{}.", "solution": THOUGHT},
     {"messages": exchange("Prove it.", "Clear.")}],
    [(f"2+2?\n{MATH_SUFFIX}", "<think>Count. \\boxed{4}</think>\\boxed{4}", "4"),
     ("2+2? Answer in \\boxed{}.", THOUGHT, "")],
    {},
    "boxes no answer",
  ),
  "aime_solved": (
    [{"ID": "1983-1", "Year": 1983, "Question": "2+2?", "Answer": "4", "response": THOUGHT},
     {"ID": "2024-1", "Year": 2024, "Question": "3+3?", "Answer": "6", "response": THOUGHT},
     {"ID": "1984-1", "Year": 1984, "Question": "1+1?", "Answer": "2"}],
    [(f"2+2?\n{MATH_SUFFIX}", THOUGHT, "4")],
    {"of 2024, which is an evaluation": 1},
    "sample some and add the column",
  ),
  "codeforces_cots": (
    [{"id": "1/A", "prompt": "Print 4.", "generation": THOUGHT, "finish_reason": "stop",
      "messages": exchange("Print 4.", THOUGHT)},
     {"id": "1/B", "prompt": "Print 5.", "generation": "<think>", "finish_reason": "length"},
     {"id": "1/C", "prompt": "Print 6.", "generation": THOUGHT},
     {"id": "1/D", "prompt": "Print 7.", "generation": "7"}],
    [("Print 4.", THOUGHT, ""), ("Print 6.", THOUGHT, "")],
    {"the generation is not complete": 1},
    "opens with no tag",
  ),
  "kodcode": (
    [{"style": "instruct", "question_id": "k1", "r1_correctness": "True", "conversations": [
       {"from": "human", "value": "Print 4."}, {"from": "gpt", "value": THOUGHT}]},
     {"question_id": "k2", "r1_correctness": "False", "conversations": []},
     {"question_id": "k3", "conversations": [
       {"from": "human", "value": "Print 5."},
       {"from": "gpt", "value": "<|begin_of_thought|>\n\nEasy.\n\n<|end_of_thought|>\n\n"
        "<|begin_of_solution|>\n\nprint(5)\n\n<|end_of_solution|>"}]},
     {"question_id": "k4", "conversations": None}],
    [("Print 4.", THOUGHT, ""), ("Print 5.", "<think>Easy.</think>print(5)", "")],
    {"the solution failed its tests": 1},
    "is not one message of a user and its reply",
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_source_is_read_in_its_own_format(tmp_path, name):
  fields, wanted, unwanted, bad = CASES[name]
  found: Loaded = Loaded()
  source = Source(str(write_jsonl(tmp_path / "rows.jsonl", fields)))
  rows = list(sources.stream(source, DATASETS[name].to_row, "skip", found))
  assert [(row.prompt, row.response, row.answer) for row in rows] == wanted
  mode = tags.NO_THINK if name in ("wildchat", "oasst1") else tags.THINK
  assert {row.mode for row in rows} == {mode}
  if unwanted is not None:
    assert found.unwanted == collections.Counter(unwanted)
  assert len(found.bad) == bool(bad) and all(bad in reason for reason in found.bad)


def test_every_data_set_of_the_catalog_is_read_in_its_own_format_somewhere():
  assert set(DATASETS) == {*KNOWN_FIELDS, *CASES}


def test_a_reply_of_openassistant_keeps_the_turns_before_it(tmp_path):
  path = write_jsonl(tmp_path / "rows.jsonl", CASES["oasst1"][0][:4])
  _, row = catalog.load("oasst1", path=str(path)).rows
  assert row.earlier == (("user", "Hi"), ("assistant", "Hello!"))


def test_queries_of_the_paper_are_read_from_parquet_too(tmp_path):
  path = write_parquet(tmp_path / "rows.parquet", [{"problem": "2+2?", "answer": "4"}])
  (row,) = catalog.load("deepscaler", path=str(path)).rows
  assert (row.answer, row.source) == ("4", "deepscaler")
  pair = [{"chosen": exchange("Hi", "Hello!"), "rejected": exchange("Hi", "No."), "source": "x"}]
  path = write_parquet(tmp_path / "pairs.parquet", pair)
  (row,) = catalog.load("tulu3_preferences", path=str(path)).rows
  assert (row.prompt, row.answer, row.source) == ("Hi", "", "tulu3")


def test_nested_columns_of_parquet_are_read_as_those_of_json(tmp_path):
  path = write_parquet(tmp_path / "rows.parquet", CASES["wildchat"][0][:1])
  (row,) = catalog.load("wildchat", path=str(path)).rows
  assert row.prompt == "Hi"


def test_the_report_says_how_many_rows_were_not_wanted_and_why(tmp_path):
  write_jsonl(tmp_path / "chat.jsonl", CASES["wildchat"][0][:2])
  write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "9+9?", "answer": 18}])
  config = DataConfig(
    demonstrations="chat",
    evaluation=str(tmp_path / "asked.jsonl"),
    sources={"chat": {"path": str(tmp_path / "chat.jsonl"), "format": "wildchat"}},
  )
  task = tasks.get("rows", config)
  assert len(task.shown) == 1
  assert any("1 others are not wanted: toxic." in note for note in task.notes)


def test_a_file_without_rows_that_are_wanted_says_why(tmp_path):
  path = write_jsonl(tmp_path / "rows.jsonl", OPEN_THOUGHTS[:1])
  with pytest.raises(ValueError, match="1 are not wanted: domain='math'"):
    catalog.load("openthoughts_code", path=str(path))

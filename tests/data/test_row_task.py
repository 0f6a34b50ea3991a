"""The task `rows`: sources named in a config, an order that only seed and step decide."""

import collections
import dataclasses
import json
import pathlib
import re

import pytest

from lhrm_jax.data import tasks
from lhrm_jax.data.catalog import MATH_SUFFIX
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.row_task import in_order
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.text import CharacterTokenizer, PretrainedTokenizer, tags
from tests.data.test_sources import write_jsonl, write_parquet

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
QUESTIONS = [f"What is {i} + {i}?" for i in range(40)]


@pytest.fixture
def folder(tmp_path):
  """Queries in two formats, GSM8K's own rows, and demonstrations of both modes."""
  write_jsonl(
    tmp_path / "queries.jsonl", [{"prompt": q, "answer": 2 * i} for i, q in enumerate(QUESTIONS)]
  )
  write_parquet(
    tmp_path / "columns.parquet",
    [{"q": q, "a": str(2 * i), "hard": 2} for i, q in enumerate(QUESTIONS)],
  )
  write_jsonl(
    tmp_path / "gsm8k.jsonl", [{"question": "Tom has 3.", "answer": "3*4=<<3*4=12>>12\n#### 1,200"}]
  )
  write_jsonl(
    tmp_path / "think.jsonl",
    [
      {"prompt": q, "response": f"<think>twice {i}</think>{2 * i}"} for i, q in enumerate(QUESTIONS)
    ],
  )
  write_jsonl(tmp_path / "chat.jsonl", [{"messages": [
    {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi!"}]}])  # fmt: skip
  return tmp_path


def make(folder, **data):
  """The task of a config's section, `DIR` in it being `folder`."""
  fields = json.loads(json.dumps(data).replace("DIR", str(folder)))
  return tasks.get("rows", DataConfig(**fields))


def test_each_time_through_is_a_permutation_and_none_depends_on_how_steps_are_cut():
  whole = in_order((0, 1), 0, 30, 10)
  assert [sorted(whole[i : i + 10]) for i in (0, 10, 20)] == [list(range(10))] * 3
  assert whole[:10] != whole[10:20]
  assert in_order((0, 1), 0, 7, 10) + in_order((0, 1), 7, 23, 10) == whole
  assert in_order((1, 1), 0, 10, 10) != whole[:10]


GSM8K = {"gsm": {"path": "DIR/gsm8k.jsonl", "format": "gsm8k"}}


def test_every_query_comes_by_once_before_any_comes_again(folder):
  def task():
    return make(folder, prompts="DIR/queries.jsonl", evaluation="gsm", sources=GSM8K)

  first = task()
  seen = [row.prompt for step in range(4) for row in first.prompts(0, step, 10)]
  assert sorted(seen) == sorted(QUESTIONS)
  # Another process, at another step, sees what this one saw there.
  assert task().prompts(0, 3, 10) == first.prompts(0, 3, 10)
  assert [row.prompt for row in first.prompts(1, 3, 10)] != seen[30:]


def test_rows_of_a_known_format_are_read_from_a_copy(folder):
  task = make(folder, prompts="DIR/queries.jsonl", evaluation="gsm", sources=GSM8K)
  (row,) = task.evaluation(500)
  assert (row.prompt, row.answer, row.source) == (f"Tom has 3.\n{MATH_SUFFIX}", "1200", "gsm8k")


def test_columns_and_constants_come_from_the_config(folder):
  own = {"path": "DIR/columns.parquet", "constants": {"source": "sums"},
         "columns": {"prompt": "q", "answer": "a", "level": "hard"}}  # fmt: skip
  task = make(folder, prompts="mine", evaluation="gsm", sources={"mine": own, **GSM8K})
  row = next(row for row in task.prompts(0, 0, 40) if row.prompt == QUESTIONS[7])
  assert (row.answer, row.level, row.source) == ("14", 2, "sums")


def test_without_an_evaluation_source_a_tenth_is_kept_and_never_trained_on(folder):
  task = make(folder, prompts="DIR/queries.jsonl", demonstrations="DIR/think.jsonl")
  kept = {row.prompt for row in task.evaluation(500)}
  trained = {row.prompt for row in task.prompts(0, 0, 200)}
  shown = {row.prompt for row in task.demonstrations(0, 0, 200, 0)[0]}
  assert kept and not kept & trained and kept | trained == set(QUESTIONS)
  assert shown == trained
  assert any(f"{len(kept)} are left out" in note for note in task.notes)
  assert task.evaluation(3) == task.evaluation(500)[:3]


def test_what_is_evaluated_is_never_trained_on_whatever_its_spacing(folder):
  write_jsonl(folder / "asked.jsonl", [{"prompt": "what  is 3 + 3?\n", "answer": "6"}])
  task = make(folder, prompts="DIR/queries.jsonl", demonstrations="DIR/think.jsonl",
              evaluation="DIR/asked.jsonl")  # fmt: skip
  trained = collections.Counter(row.prompt for row in task.prompts(0, 0, 39))
  assert set(trained) == set(QUESTIONS) - {"What is 3 + 3?"} and set(trained.values()) == {1}
  assert "What is 3 + 3?" not in {row.prompt for row in task.demonstrations(0, 0, 39, 0)[0]}


def test_questions_of_a_known_set_are_left_out_however_a_file_asks_them(folder):
  asked = [f"Tom has {i} pens and buys {i} more. How many has he?" for i in range(10)]
  worked = [{"question": q, "answer": f"#### {2 * i}"} for i, q in enumerate(asked)]
  write_jsonl(folder / "gsm8k.jsonl", worked)
  chats = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": q}]
           for q in (*asked, "Who is Tom?")]  # fmt: skip
  write_jsonl(folder / "bare.jsonl", [{"prompt": q, "answer": "?"} for q in (*asked, *QUESTIONS)])
  write_jsonl(folder / "chats.jsonl", [{"prompt": c, "answer": "?"} for c in chats])
  write_jsonl(folder / "shown.jsonl", [
    {"messages": [*c, {"role": "assistant", "content": "?"}], "mode": "no_think"} for c in chats
  ])  # fmt: skip
  task = make(folder, prompts="DIR/bare.jsonl,DIR/chats.jsonl", demonstrations="DIR/shown.jsonl",
              evaluation="gsm", sources=GSM8K)  # fmt: skip
  kept = {row.prompt for row in task.prompts(0, 0, 41)}
  assert kept == {*QUESTIONS, "Who is Tom?"}
  assert [row.prompt for row in task.demonstrations(0, 0, 0, 2)[1]] == ["Who is Tom?"] * 2
  assert any("61 rows" in note and "20 are left out" in note for note in task.notes)
  assert any("11 rows" in note and "10 are left out" in note for note in task.notes)


def test_demonstrations_of_both_modes_from_several_sources(folder):
  chat = {"path": "DIR/chat.jsonl", "constants": {"mode": "no_think"}}
  task = make(folder, prompts="DIR/queries.jsonl", demonstrations="DIR/think.jsonl, chat",
              evaluation="gsm", sources={"chat": chat, **GSM8K})  # fmt: skip
  think, no_think = task.demonstrations(0, 5, 8, 2)
  assert [row.mode for row in (*think, *no_think)] == [tags.THINK] * 8 + [tags.NO_THINK] * 2
  assert no_think[0].response == "<no_think>Hi!</no_think>"
  assert no_think[0].earlier == (("system", "Be kind."),)
  assert task.demonstrations(0, 5, 8, 2) == (think, no_think)


def test_orders_of_roles_that_a_template_refuses_are_found_beforehand(folder):
  chat = {"path": "DIR/chat.jsonl", "constants": {"mode": "no_think"}}
  task = make(folder, prompts="DIR/queries.jsonl", demonstrations="chat", sources={"chat": chat})
  tokenizer = PretrainedTokenizer.load(GOLDEN / "qwen3_tied")
  task.check_conversations(CharacterTokenizer("1"))  # nothing is read yet
  task.demonstrations(0, 0, 0, 1)
  task.check_conversations(tokenizer)
  refuses = "{{ raise_exception('no system role') if messages[0].role == 'system' }}"
  with pytest.raises(ValueError, match=r"refuses a conversation of .'system', 'user'.*no system"):
    task.check_conversations(tokenizer.with_template(refuses))
  with pytest.raises(ValueError, match="which CharacterTokenizer cannot encode"):
    task.check_conversations(CharacterTokenizer("1"))


def test_a_mode_without_rows_is_an_error_that_says_which_key_to_set(folder):
  task = make(folder, prompts="DIR/queries.jsonl", demonstrations="DIR/think.jsonl")
  with pytest.raises(ValueError, match=r"holds no no_think row.*hft\.no_think_per_step=0"):
    task.demonstrations(0, 0, 4, 4)


def test_bad_rows_follow_the_config_and_are_in_the_notes(folder):
  bad = [{"prompt": "no answer"}, {"prompt": "1+1", "answer": "2"}]
  write_jsonl(folder / "bad.jsonl", bad)
  names = {"prompts": "DIR/bad.jsonl", "evaluation": "gsm", "sources": GSM8K}
  with pytest.raises(ValueError, match=r"bad\.jsonl:1: no 'answer'"):
    make(folder, **names).prompts(0, 0, 1)
  task = make(folder, **names, on_bad_row="skip")
  assert [row.prompt for row in task.prompts(0, 0, 2)] == ["1+1", "1+1"]
  (note,) = (note for note in task.notes if note.startswith("data.prompts: 1 rows"))
  assert "1 bad rows were skipped, e.g." in note and "bad.jsonl:1: no 'answer'" in note
  write_jsonl(folder / "bad.jsonl", [*bad, bad[0], {"prompt": 3, "answer": ""}])
  task = make(folder, **names, on_bad_row="skip")
  task.prompts(0, 0, 1)
  (note,) = (note for note in task.notes if note.startswith("data.prompts: 1 rows"))
  assert re.search(r"3 bad rows were skipped, .* By reason: 2 no 'answer'.*; 1 'prompt' is", note)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    ({"prompts": "gsm9k"}, r"data\.prompts: 'gsm9k' is not a source\. Did you mean 'gsm8k'"),
    ({"prompts": "DIR/none.jsonl"}, r"none\.jsonl does not exist"),
    ({"prompts": "openr1_math"}, r"openr1_math gives demonstrations, not queries"),
    ({"demonstrations": "gsm8k", "evaluation": "gsm8k_test"}, "gives queries, not demonstrations"),
    ({"demonstrations": "openr1_math"}, r"needs queries to evaluate on: set data\.evaluation"),
    (
      {"prompts": "x", "sources": {"x": {"path": "a.jsonl", "colums": {}}}},
      "colums is not a field",
    ),
    ({"prompts": "x", "sources": {"x": {"split": "test"}}}, r"data\.sources\.x: no path"),
    ({"prompts": "x", "sources": {"x": {"path": "DIR/none.parquet"}}}, r"none\.parquet does not"),
    ({"prompts": "x", "sources": {"x": {"path": "hf:a/b", "format": "gsm"}}}, "is not one of"),
  ],
)
def test_names_and_fields_that_do_not_exist_are_found_before_anything_is_read(
  folder, data, message
):
  with pytest.raises(ValueError, match=message):
    make(folder, **data)


def test_a_job_without_its_rows_says_which_key_to_set(folder):
  task = make(folder, evaluation="DIR/queries.jsonl")
  with pytest.raises(ValueError, match=r"nothing to train on: set data\.demonstrations"):
    task.demonstrations(0, 0, 1, 1)
  with pytest.raises(ValueError, match="task='rows' needs a pretrained policy: set init_from"):
    tasks.own_tokenizer("rows", task)


def test_rows_of_a_suite_in_place_of_the_evaluation_are_left_out_of_training(folder):
  """Nothing else is: no tenth is held out."""
  task = make(folder, prompts="DIR/queries.jsonl", demonstrations="DIR/think.jsonl")
  reserved = [PromptRow(f"{QUESTIONS[3]} {MATH_SUFFIX}", "6")]
  task = dataclasses.replace(task, reserved=reserved)
  assert {row.prompt for row in task.queries} == set(QUESTIONS) - {QUESTIONS[3]}
  assert {row.prompt for row in task.shown} == set(QUESTIONS) - {QUESTIONS[3]}

"""The preparation as a whole: what is removed, what is kept, and the same bytes after any kill."""

import dataclasses
import hashlib
import json
import os
import pathlib
import signal

import pytest

pytest.importorskip("datatrove")

from datatrove.data import Document

from experiments import prepare_data
from lhrm_jax import text
from lhrm_jax.config import replaced
from lhrm_jax.data import tasks
from lhrm_jax.data.batches import encode
from lhrm_jax.data.catalog import math_prompt
from lhrm_jax.data.schema import HFTRow
from lhrm_jax.data.shards import Shards
from lhrm_jax.errors import UserError
from lhrm_jax.preparation import chat_filter, pipeline
from lhrm_jax.preparation.rows import fields_of, write_part
from lhrm_jax.preparation.shard_writing import Limits, Tokenise
from lhrm_jax.runs import evaluated
from lhrm_jax.runs.config import Config
from lhrm_jax.storage.folder import Folder
from lhrm_jax.text import tags
from tests.preparation import mixture


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A prepared mixture: its folder, its config, what was planted, and its card."""
  folder = tmp_path_factory.mktemp("mixture")
  planted = mixture.write(folder)
  config = mixture.config_of(folder)
  prepare_data.job(config, str(folder / "out"), str(folder / "work"))
  card = json.loads((folder / "out" / "card.json").read_text())
  return folder, config, planted, card


def shards_of(folder):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(pathlib.Path(folder).rglob("*"))
    if path.suffix in (".parquet", ".json", ".md")
  }


def texts_of(folder, tokenizer):
  source = Shards(str(folder)).of_mode(tags.THINK, ["openr1_math"])["openr1_math"]
  rows = [source.take((0,), i) for i in range(len(source))]
  return [tokenizer.decode([int(i) for i in row.ids]) for row in rows]


def test_each_step_removes_what_was_planted_for_it_and_the_card_counts_it(prepared):
  _, _, _, card = prepared
  found = {step["step"]: step for step in card["steps"]}
  assert found["answers"]["removed"] == {"openr1_math": {"wrong answer": 1}}
  assert found["exact_duplicates"]["removed"] == {"openr1_math": {"exact duplicate": 1}}
  assert found["near_duplicates"]["removed"] == {"openr1_math": {"near duplicate": 1}}
  asks = "asks a question of the evaluation"
  assert found["evaluation"]["removed"] == {
    "openr1_math": {asks: 1},
    "queries": {asks: 1},
    "wildchat": {asks: 1},
  }
  assert found["length"]["removed"] == {"openr1_math": {"too many tokens": 1}}
  assert found["answers"]["in"] == 61 + 66 + 21
  assert found["length"]["out"] == 60 + 61 + 20
  assert card["sources"]["openr1_math"]["bad"] == {"no 'generations'; the row has problem": 1}
  assert card["sources"]["wildchat"]["unwanted"] == {"toxic": 1}
  assert card["queries"] == {"queries": 20}
  rows = {(d["mode"], d["source"]): d["rows"] for d in card["demonstrations"]}
  assert rows == {("no_think", "wildchat"): 60, ("think", "openr1_math"): 61}


def test_the_card_can_be_read_and_shows_examples(prepared):
  folder, _, _, _ = prepared
  page = (folder / "out" / "card.md").read_text()
  assert "| near_duplicates | 146 | 145 | 1 near duplicate |" in page
  assert "There are" in page.partition("## Examples")[2]


def test_what_is_kept_is_encoded_as_training_encodes_it(prepared):
  folder, _, planted, _ = prepared
  tokenizer = text.load_tokenizer(mixture.TOKENIZER)
  source = Shards(str(folder / "out")).of_mode(tags.THINK, ["openr1_math"])["openr1_math"]
  rows = {tuple(int(i) for i in row.ids): row for row in
          (source.take((0,), i) for i in range(len(source)))}  # fmt: skip
  for i, question in enumerate(planted["kept"][3:]):
    response = f"<think>Let me count.</think>It is \\boxed{{{3 * (i + 3)}}}."
    wanted = encode(tokenizer, HFTRow(math_prompt(question), response, tags.THINK))
    assert rows[wanted.ids].weights.tolist() == list(wanted.weights)


def test_another_number_makes_another_question(prepared):
  folder, _, planted, _ = prepared
  prompts = texts_of(folder / "out", text.load_tokenizer(mixture.TOKENIZER))
  assert sum(planted["other"] in prompt for prompt in prompts) == 1
  assert sum(planted["kept"][2] in prompt for prompt in prompts) == 1
  near = [sum(q in prompt for prompt in prompts) for q in (planted["near"], planted["kept"][1])]
  assert sorted(near) == [0, 1], "one of the two stays"


def test_a_run_trains_on_it_by_data_root_alone(prepared):
  folder, config, _, _ = prepared
  data = dataclasses.replace(config.data, root=str(folder / "out"))
  task = tasks.get("rows", data)
  think, direct = task.demonstrations(0, 0, 5, 5)
  assert len(think) == len(direct) == 5
  assert len({row.prompt for row in task.prompts(0, 0, 20)}) == 20
  assert any("without questions of math500" in note for note in task.notes)


class Killed(Exception):
  pass


def test_a_preparation_that_is_killed_again_and_again_ends_with_the_same_bytes(
  prepared, tmp_path, monkeypatch
):
  folder, config, _, _ = prepared
  written, write = [0], Folder.write

  def dies(self, name, content):
    written[0] += 1
    if written[0] % 8 == 0:
      half = pathlib.Path(self.root, f"{name}.x.tmp")
      half.parent.mkdir(parents=True, exist_ok=True)
      half.write_bytes(content[: len(content) // 2])
      raise Killed
    return write(self, name, content)

  monkeypatch.setattr(Folder, "write", dies)
  kills = 0
  while not (tmp_path / "out" / "index.json").exists():  # or training would take it for whole
    try:
      prepare_data.job(config, str(tmp_path / "out"), str(tmp_path / "work"))
    except Killed:
      kills += 1
  assert kills >= 5
  assert shards_of(tmp_path / "out") == shards_of(folder / "out")


def test_a_finished_preparation_is_not_done_again_and_other_settings_are_refused(
  prepared, monkeypatch
):
  folder, config, _, _ = prepared
  out, work = str(folder / "out"), str(folder / "work")
  before = shards_of(folder / "out")
  monkeypatch.setattr("lhrm_jax.preparation.rows.read_part", None)
  prepare_data.job(replaced(config, {"prepare.workers": 2}), out, work)
  assert shards_of(folder / "out") == before
  with pytest.raises(UserError, match=r"other settings of data.max_response_tokens, seed"):
    prepare_data.job(replaced(config, {"seed": 1, "data.max_response_tokens": 100}), out, work)


def test_sources_may_be_many_files_and_capped(prepared, tmp_path):
  folder, config, _, _ = prepared
  lines = (folder / "math.jsonl").read_text().splitlines(keepends=True)
  for i in range(3):
    (tmp_path / f"part{i}.jsonl").write_text("".join(lines[20 * i : 20 * (i + 1)]))
  parts = {"path": f"{tmp_path}/part*.jsonl", "format": "openr1_math"}
  changed = {
    "data.sources": {**config.data.sources, "openr1_math": parts},
    "data.demonstrations": "openr1_math",
    "data.prompts": "",
    "data.weights": {"openr1_math": 2.0},
    "prepare.most_rows": {"openr1_math": 25},
  }
  prepare_data.job(replaced(config, changed), str(tmp_path / "out"), str(tmp_path / "work"))
  (group,) = Shards(str(tmp_path / "out")).index.groups
  assert [shard.rows for shard in group.shards] == [20, 5]
  assert group.weight == 2.0


def few(folder, tmp_path, **changes):
  """A mixture of the queries alone."""
  lines = (folder / "queries.jsonl").read_text().splitlines(keepends=True)
  for name in ("a", "b"):
    (tmp_path / f"{name}.jsonl").write_text("".join(lines[:5] if name == "a" else lines[5:]))
  return mixture.config_of(
    folder, **{"data.demonstrations": "", "data.prompts": "queries", "prepare.tasks": 1, **changes}
  )


def test_what_a_run_evaluates_on_is_removed_with_the_suites_and_a_run_is_warned_of_others(
  prepared, tmp_path
):
  folder, _, _, _ = prepared
  config = few(folder, tmp_path, **{"prepare.suites": ""})
  prepare_data.job(config, str(tmp_path / "out"), str(tmp_path / "work"))
  card = json.loads((tmp_path / "out" / "card.json").read_text())
  assert card["queries"] == {"queries": 20} and card["suites"] == ["math500"]

  data = dataclasses.replace(mixture.config_of(folder).data, root=str(folder / "out"))
  config = replaced(Config(), {"task": "rows"})
  config = dataclasses.replace(config, data=data)
  task = tasks.get("rows", data)
  assert evaluated.overlap_warning(config, task) == ""
  other = replaced(config, {"evaluation.suites": "svamp"})
  assert "without removing the questions of svamp" in evaluated.overlap_warning(other, task)


def test_sources_named_by_their_paths_stay_apart(prepared, tmp_path):
  folder, _, _, _ = prepared
  paths = [str(tmp_path / f"{name}.jsonl") for name in ("a", "b")]
  config = few(folder, tmp_path, **{"data.prompts": ",".join(paths)})
  prepare_data.job(config, str(tmp_path / "out"), str(tmp_path / "work"))
  data = dataclasses.replace(config.data, root=str(tmp_path / "out"), prompts=paths[0])
  assert len(tasks.get("rows", data).queries) == 5


def test_another_tokenizer_evaluation_or_file_is_another_preparation(prepared, tmp_path):
  folder, _, _, _ = prepared
  for name in ("evaluated", "queries"):
    (tmp_path / f"{name}.jsonl").write_text((folder / f"{name}.jsonl").read_text())
  config = few(tmp_path, tmp_path, **{
    "data.sources": {
      "queries": {"path": f"{tmp_path}/q*.jsonl"},
      "math500": {"path": f"{tmp_path}/evaluated.jsonl", "format": "math500"},
    },
  })  # fmt: skip
  places = str(tmp_path / "out"), str(tmp_path / "work")
  prepare_data.job(config, *places)
  other = "tests/golden/llama_tied"
  with pytest.raises(UserError, match="other settings of tokenizer, tokenizer_sha256"):
    prepare_data.job(replaced(config, {"prepare.tokenizer": other}), *places)
  (tmp_path / "q2.jsonl").write_text('{"prompt": "1 + 1?", "answer": 2}\n')
  with pytest.raises(UserError, match="other settings of files"):
    prepare_data.job(config, *places)
  (tmp_path / "q2.jsonl").unlink()
  queries = (tmp_path / "queries.jsonl").read_text()
  (tmp_path / "queries.jsonl").write_text(queries.replace("plus", "minus"))
  with pytest.raises(UserError, match="other settings of files"):
    prepare_data.job(config, *places)
  (tmp_path / "queries.jsonl").write_text(queries)
  (tmp_path / "evaluated.jsonl").write_text('{"problem": "What else?", "answer": "11"}\n')
  with pytest.raises(UserError, match=r"other settings of evaluated_sha256"):
    prepare_data.job(config, *places)
  with pytest.raises(UserError, match="holds prepared data"):
    prepare_data.job(config, places[0], str(tmp_path / "other"))


def test_a_mistake_in_the_settings_is_not_recorded(prepared, tmp_path):
  folder, _, _, _ = prepared
  places = str(tmp_path / "out"), str(tmp_path / "work")
  with pytest.raises(UserError, match="not among the sources"):
    prepare_data.job(few(folder, tmp_path, **{"prepare.most_rows": {"querys": 3.0}}), *places)
  with pytest.raises(UserError, match="leaves no row of queries"):
    prepare_data.job(few(folder, tmp_path, **{"prepare.most_rows": {"queries": 0.5}}), *places)
  prepare_data.job(few(folder, tmp_path, **{"prepare.most_rows": {"queries": 3.0}}), *places)


def test_of_a_source_and_a_suite_of_one_name_both_are_removed(prepared, tmp_path, monkeypatch):
  folder, _, _, _ = prepared
  seen = {}

  def stages(*_, evaluated, **__):
    seen.update({name: len(rows) for name, rows in evaluated.items()})
    raise ValueError("seen")

  monkeypatch.setattr(pipeline, "stages", stages)
  (tmp_path / "two.jsonl").write_text('{"problem": "A?", "answer": "1"}\n' * 2)
  config = few(folder, tmp_path, **{"prepare.suites": f"math500={tmp_path}/two.jsonl"})
  with pytest.raises(UserError, match="seen"):
    prepare_data.job(config, str(tmp_path / "out"), str(tmp_path / "work"))
  assert seen == {"math500": 3}


def test_the_classifier_is_fitted_to_distinct_questions(tmp_path):
  questions = [f"question {i}" for i in range(60)] + ["question 7"] * 90
  row = {"mode": tags.MODES[tags.THINK], "source": "x", "question": ""}
  folder = Folder(str(tmp_path))
  fields = fields_of(HFTRow("a", "<think>a</think>b", tags.THINK), "x")
  write_part(folder, "00000-00000", [{**fields, **row, "question": q} for q in questions])
  _, thinking = chat_filter._sample(folder, frozenset(), 40)
  assert len(thinking) == len(set(thinking)) == 40


def test_a_conversation_that_the_template_refuses_is_left_out_and_counted(tmp_path):
  class Refusing:
    def encode_messages(self, messages, finished=False):
      raise ValueError("roles must alternate")

    encode_prompt = encode_messages

  step = Tokenise(str(tmp_path), "", Limits(9, {"think": 9}), 0, "length")
  fields = fields_of(HFTRow("a", "<think>a</think>b", tags.THINK), "x")
  with step._removal as removal:
    step._write(
      Folder(str(tmp_path)), "p", Refusing(), [Document("a", "p:0", metadata=fields)], removal, 0
    )
  held = json.loads((tmp_path / "removed" / "length" / "00000.json").read_text())
  assert held["counts"] == [["x", "the chat template refuses it", 1]]


def test_a_source_without_a_row_ends_it_with_the_reasons(prepared, tmp_path):
  folder, config, _, _ = prepared
  (tmp_path / "bad.jsonl").write_text('{"text": "no question"}\n')
  bad = {**config.data.sources, "bad": {"path": str(tmp_path / "bad.jsonl")}}
  config = few(folder, tmp_path, **{"data.sources": bad, "data.prompts": "queries,bad"})
  with pytest.raises(UserError, match="bad has no row that can be used: 1 no 'answer'"):
    prepare_data.job(config, str(tmp_path / "out"), str(tmp_path / "work"))


def test_a_worker_that_the_system_kills_ends_it_with_advice(prepared, tmp_path, monkeypatch):
  folder, _, _, _ = prepared
  config = few(folder, tmp_path, **{"prepare.tasks": 2, "prepare.workers": 2})
  monkeypatch.setattr(pipeline, "_run_task", killed)
  with pytest.raises(UserError, match=r"killed, most likely .* Lower prepare\.workers"):
    prepare_data.job(config, str(tmp_path / "out"), str(tmp_path / "work"))


def killed(task, rank):
  os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"prepare.most_rows": {"openr1_maths": 2.0}}, "prepare.most_rows names 'openr1_maths'"),
    ({"prepare.chat": "wildchat,chat"}, "prepare.chat names 'chat'"),
    ({"prepare.tokenizer": ""}, "--config.prepare.tokenizer"),
    ({"prepare.suites": "math50"}, "math500"),
    ({"data.demonstrations": "", "data.prompts": ""}, "nothing is named to prepare"),
    ({"data.demonstrations": "wildchats"}, "is not a source"),
    ({"prepare.executor_options": {"partitions": "cpu"}}, "prepare.executor='local'"),
    ({"prepare.executor": "slurm"}, "prepare.executor='slurm'"),
  ],
)
def test_a_mistake_ends_it_before_anything_is_read(prepared, tmp_path, changes, message):
  _, config, _, _ = prepared
  with pytest.raises(UserError, match=message):
    prepare_data.job(replaced(config, changes), str(tmp_path / "out"), str(tmp_path / "work"))
  assert not (tmp_path / "work" / "rows").exists()

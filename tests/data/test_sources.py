"""Rows from files and libraries of data sets: the same rows from each, and bad ones named."""

import json
import subprocess
import sys

import fsspec
import pytest

from lhrm_jax.data import catalog, rows, sources
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.row_task import RowTask
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.data.sources import Source
from lhrm_jax.text import tags

FIELDS = [{"q": "1+1? é", "a": "2", "difficulty": 1}, {"q": "2*3?", "a": "6", "difficulty": 4}]
COLUMNS = {"prompt": "q", "answer": "a", "level": "difficulty"}
ROWS = [PromptRow("1+1? é", "2", 1, "toy"), PromptRow("2*3?", "6", 4, "toy")]


def toy(path, **changes) -> Source:
  return Source(str(path), columns=COLUMNS, constants={"source": "toy"}, **changes)


def write_jsonl(path, fields):
  path.write_text("".join(json.dumps(row) + "\n" for row in fields), encoding="utf-8")
  return path


def write_parquet(path, fields):
  import pyarrow as pa
  import pyarrow.parquet as pq

  pq.write_table(pa.Table.from_pylist(fields), path)
  return path


def test_jsonl_and_parquet_give_the_same_rows(tmp_path):
  for path in (
    write_jsonl(tmp_path / "toy.jsonl", FIELDS),
    write_parquet(tmp_path / "toy.parquet", FIELDS),
  ):
    assert sources.load(toy(path), rows.prompt_row).rows == ROWS


def test_datasets_reads_a_folder_of_files_whole_and_streaming(tmp_path):
  pytest.importorskip("datasets")
  (tmp_path / "data").mkdir()
  write_jsonl(tmp_path / "data" / "train.jsonl", FIELDS)
  for streaming in (False, True):
    source = toy(f"hf:{tmp_path / 'data'}", streaming=streaming)
    assert sources.load(source, rows.prompt_row).rows == ROWS
  sliced = toy(f"hf:{tmp_path / 'data'}", split="train[1:]")
  assert sources.load(sliced, rows.prompt_row).rows == ROWS[1:]


def test_datasets_reads_what_save_to_disk_wrote(tmp_path):
  datasets = pytest.importorskip("datasets")
  datasets.Dataset.from_list(FIELDS).save_to_disk(tmp_path / "one")
  datasets.DatasetDict({"test": datasets.Dataset.from_list(FIELDS)}).save_to_disk(tmp_path / "two")
  assert sources.load(toy(f"hf:{tmp_path / 'one'}"), rows.prompt_row).rows == ROWS
  assert sources.load(toy(f"hf:{tmp_path / 'two'}", split="test"), rows.prompt_row).rows == ROWS


SIX = [{"prompt": f"{i}?", "answer": str(i)} for i in range(6)]
SLICES = [
  ("train", [0, 1, 2, 3, 4, 5]),
  ("train[:2]", [0, 1]),
  ("train[-2:]", [4, 5]),
  ("train[50%:]", [3, 4, 5]),
  ("train[:50%]", [0, 1, 2]),
  ("train[4:]+train[:1]", [4, 5, 0]),
  ("train[2:99]", [2, 3, 4, 5]),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Six rows as `save_to_disk` writes them, as files of a folder, and in Parquet."""
  datasets = pytest.importorskip("datasets")
  folder = tmp_path_factory.mktemp("saved")
  six = datasets.Dataset.from_list(SIX)
  six.save_to_disk(folder / "one")
  datasets.DatasetDict({"train": six, "test": six.select([0])}).save_to_disk(folder / "several")
  datasets.Dataset.from_list(SIX, split="test").save_to_disk(folder / "test_only")
  (folder / "files").mkdir()
  write_jsonl(folder / "files" / "train.jsonl", SIX)
  write_parquet(folder / "six.parquet", SIX)
  return folder


def answers(path, split, **changes):
  loaded = sources.load(Source(str(path), split=split, **changes), rows.prompt_row)
  return [int(row.answer) for row in loaded.rows]


@pytest.mark.parametrize(("split", "expected"), SLICES)
def test_a_split_is_cut_alike_in_every_kind_of_source(saved, split, expected):
  for path in ("hf:DIR/one", "hf:DIR/several", "hf:DIR/files", "DIR/six.parquet"):
    assert answers(path.replace("DIR", str(saved)), split) == expected
  if "-" not in split and "%" not in split:
    assert answers(f"hf:{saved}/files", split, streaming=True) == expected


def test_splits_of_a_saved_data_set_go_by_name(saved):
  assert answers(f"hf:{saved}/several", "test") == [0]
  assert answers(f"hf:{saved}/several", "train[5:] + test[:100%]") == [5, 0]
  assert answers(f"hf:{saved}/several", "all") == [0, 1, 2, 3, 4, 5, 0]
  assert answers(f"hf:{saved}/test_only", "test[:2]") == [0, 1]


@pytest.mark.parametrize(
  ("path", "changes", "message"),
  [
    ("several", {"split": "validation"}, "no split 'validation'; it has train, test"),
    ("several", {"split": "validation[:2]"}, "no split 'validation'; it has train, test"),
    ("one", {"split": "test"}, "no split 'test'; it has train"),
    ("test_only", {"split": "train"}, "no split 'train'; it has test"),
    ("one", {"split": "train[0]"}, "is not understood"),
    ("one", {"split": "train[:50%](pct1_dropremainder)"}, "needs 100 rows or more"),
    ("one", {"split": "train", "subset": "main"}, "subset='main' has no effect"),
    ("one", {"split": "train", "streaming": True}, "streaming=True has no effect"),
    ("files", {"split": "test"}, 'Unknown split "test"'),
    ("files", {"split": "train[:50%]", "streaming": True}, "length of a stream is not known"),
    ("files", {"split": "train[-2:]", "streaming": True}, "length of a stream is not known"),
  ],
)
def test_what_cannot_be_cut_is_refused(saved, path, changes, message):
  with pytest.raises(ValueError, match=message):
    answers(f"hf:{saved / path}", **changes)


TFDS = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from lhrm_jax.data import rows, sources

fields = {"q": tfds.features.Text(), "a": tfds.features.Text(), "difficulty": np.int64}

class Toy(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(fields))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    yield 0, {"q": "1+1? é", "a": "2", "difficulty": 1}
    yield 1, {"q": "2*3?", "a": "6", "difficulty": 4}

builder = Toy(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
columns = {"prompt": "q", "answer": "a", "level": "difficulty"}
for path in (f"tfds:{builder.data_dir}", "tfds:toy"):
  source = sources.Source(path, columns=columns)
  if path == "tfds:toy":
    tfds.builder = lambda name: builder
  loaded = loaded_in_order = sources.load(source, rows.prompt_row).rows
  assert sorted((r.prompt, r.answer, r.level) for r in loaded) == [
    ("1+1? é", "2", 1), ("2*3?", "6", 4)], loaded
first = sources.Source(f"tfds:{builder.data_dir}", columns=columns, split="train[:50%]")
rest = sources.Source(f"tfds:{builder.data_dir}", columns=columns, split="train[50%:]")
parts = [sources.load(source, rows.prompt_row).rows for source in (first, rest)]
assert [len(part) for part in parts] == [1, 1] and sum(parts, []) == loaded_in_order, parts
try:
  sources.load(sources.Source(f"tfds:{builder.data_dir}", split="test[:1]"), rows.prompt_row)
  raise AssertionError("a split that is not there")
except ValueError as error:
  assert "cannot be read" in str(error), error
assert "tensorflow" not in sys.modules
"""


def test_tensorflow_datasets_reads_a_builder_without_tensorflow(tmp_path):
  pytest.importorskip("tensorflow_datasets")
  run = [sys.executable, "-c", TFDS, str(tmp_path)]
  done = subprocess.run(run, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def test_a_bad_line_is_an_error_with_file_and_line(tmp_path):
  path = write_jsonl(tmp_path / "toy.jsonl", [FIELDS[0], {"q": "no answer"}])
  with pytest.raises(ValueError, match=r"toy\.jsonl:2: no column 'a' \(for 'answer'\); it has q"):
    sources.load(toy(path), rows.prompt_row)
  path.write_text('{"q": "1", "a": "1", "difficulty": 1}\n\n{"q": \n')
  with pytest.raises(ValueError, match=r"toy\.jsonl:3: is not JSON"):
    sources.load(toy(path), rows.prompt_row)


def test_skipped_rows_are_counted_by_reason_with_the_places_of_the_first(tmp_path):
  bad = [{"q": "", "a": "1", "difficulty": 1}] * 2 + [{"q": "x", "a": None, "difficulty": 1}]
  path = write_parquet(tmp_path / "toy.parquet", [*FIELDS, *bad])
  loaded = sources.load(toy(path), rows.prompt_row, on_bad_row="skip")
  assert loaded.rows == ROWS
  assert loaded.skipped == 3 and loaded.bad["'prompt' is empty"] == 2
  assert loaded.examples[0] == f"{path}: row 2: 'prompt' is empty"


def test_reasons_that_quote_rows_take_bounded_memory(tmp_path):
  bad = [{"q": "x", "a": "1", "difficulty": f"{i}x" * 500} for i in range(1500)]
  path = write_jsonl(tmp_path / "toy.jsonl", [FIELDS[0], *bad])
  loaded = sources.load(toy(path), rows.prompt_row, on_bad_row="skip")
  assert loaded.skipped == 1500 and len(loaded.rows) == 1
  assert len(loaded.bad) <= 1001 and max(map(len, loaded.bad)) <= 203
  assert loaded.bad[sources.OTHER_REASONS] == 500
  most, others = sources.most_common(loaded.bad, 3)
  assert [count for _, count in most] == [1, 1, 1] and others == 1497


def test_a_source_without_one_good_row_is_an_error_even_under_skip(tmp_path):
  path = write_jsonl(tmp_path / "toy.jsonl", [{"question": "x"}])
  with pytest.raises(ValueError, match=r"gave no rows: all 1 are bad.*no column 'q'"):
    sources.load(toy(path), rows.prompt_row, on_bad_row="skip")


def test_unknown_kinds_of_source_and_missing_files_say_so(tmp_path):
  with pytest.raises(ValueError, match=r"not a \.jsonl, .*\.json\.zst file"):
    sources.load(toy("rows.csv"), rows.prompt_row)
  with pytest.raises(FileNotFoundError, match=r"none\.jsonl does not exist"):
    sources.load(toy(tmp_path / "none.jsonl"), rows.prompt_row)
  with pytest.raises(ValueError, match="on_bad_row='ignore'"):
    sources.load(toy(tmp_path / "none.jsonl"), rows.prompt_row, on_bad_row="ignore")


THOUGHT = "<think>2 and 2</think>4"


@pytest.mark.parametrize(
  ("fields", "expected"),
  [
    ({"prompt": "q", "response": THOUGHT}, HFTRow("q", THOUGHT, tags.THINK)),
    ({"prompt": "q", "response": THOUGHT, "mode": "think"}, HFTRow("q", THOUGHT, tags.THINK)),
    (
      {"prompt": "q", "response": " 4 ", "mode": "no_think"},
      HFTRow("q", "<no_think>4</no_think>", tags.NO_THINK),
    ),
    (
      {
        "messages": [
          {"role": "system", "content": "Be brief."},
          {"role": "user", "content": "q"},
          {"role": "assistant", "content": "<no_think>4</no_think>"},
        ]
      },
      HFTRow("q", "<no_think>4</no_think>", tags.NO_THINK, earlier=(("system", "Be brief."),)),
    ),
  ],
)
def test_demonstrations(fields, expected):
  assert rows.hft_row(fields) == expected


@pytest.mark.parametrize(
  ("fields", "reason"),
  [
    ({"response": "x"}, "no 'prompt'"),
    ({"prompt": 3, "response": "x"}, "'prompt' is int, not text"),
    ({"prompt": "q", "response": "4"}, "opens with no tag and the row has no 'mode'"),
    ({"prompt": "q", "response": "4", "mode": "think"}, "opens with no tag"),
    ({"prompt": "q", "response": THOUGHT, "mode": "no_think"}, "but the response opens <think>"),
    ({"prompt": "q", "response": "<think>hm"}, "lacks </think>"),
    ({"prompt": "q", "response": "<think>a</think>the tag <think>"}, "further tags inside"),
    ({"prompt": "q", "response": "x", "mode": "maybe"}, "mode='maybe' is not one of"),
    ({"messages": [{"role": "user", "content": "q"}]}, "must end with user, assistant"),
    ({"messages": "q"}, "not a list of {role, content}"),
  ],
)
def test_bad_demonstrations_say_why(fields, reason):
  with pytest.raises(rows.BadRow, match=reason):
    rows.hft_row(fields)


S = catalog.MATH_SUFFIX
# One row of each data set in the hub's format.
KNOWN_FIELDS = {
  "gsm8k": {"question": "Tom has 3.", "answer": "He has 3*400=<<3*400=1200>>1200.\n#### 1,200"},
  "gsm8k_think": {"question": "Tom has 3.", "answer": "He has 3*4=<<3*4=12>>12.\n#### 12"},
  "gsm8k_no_think": {"question": "Tom has 3.", "answer": "He has 3*4=<<3*4=12>>12.\n#### 12"},
  "gsm8k_test": {"question": "Tom has 3.", "answer": "#### -5"},
  "math": {"problem": "P", "level": "Level 5", "type": "Algebra",
           "solution": "so $\\boxed{1}$, no: $\\boxed{\\frac{1}{\\sqrt{2}}}$."},
  "math500": {"problem": "P", "solution": "s", "answer": "\\pi", "subject": "x", "level": 2},
  "deepscaler": {"problem": "P", "answer": "7", "solution": "s"},
  "aime24": {"id": 1, "problem": "P", "solution": "s", "answer": "073", "year": "2024"},
  "aime_1983_2024": {"ID": "1983-1", "Year": 1983, "Question": "P", "Answer": "60", "Part": None},
  "amc23": {"id": 0, "question": "P", "answer": "27.0", "url": "u"},
  "tulu3_preferences": {"id": "x", "source": "s", "prompt": "Hi", "chosen": [], "rejected": []},
  "openr1_math": {"problem": "P", "answer": "1", "generations": ["<think>a", "<think>b</think>c"],
                  "correctness_math_verify": [True, True], "is_reasoning_complete": [False, True]},
}  # fmt: skip
KNOWN_ROWS = {
  "gsm8k": PromptRow(f"Tom has 3.\n{S}", "1200", source="gsm8k"),
  "gsm8k_think": HFTRow(f"Tom has 3.\n{S}", "<think>He has 3*4=12.</think>\\boxed{12}", tags.THINK),
  "gsm8k_no_think": HFTRow(f"Tom has 3.\n{S}", "<no_think>\\boxed{12}</no_think>", tags.NO_THINK),
  "gsm8k_test": PromptRow(f"Tom has 3.\n{S}", "-5", source="gsm8k"),
  "math": PromptRow(f"P\n{S}", "\\frac{1}{\\sqrt{2}}", 5, "math"),
  "math500": PromptRow(f"P\n{S}", "\\pi", 2, "math"),
  "deepscaler": PromptRow(f"P\n{S}", "7", source="deepscaler"),
  "aime24": PromptRow(f"P\n{S}", "073", source="aime"),
  "aime_1983_2024": PromptRow(f"P\n{S}", "60", source="aime"),
  "amc23": PromptRow(f"P\n{S}", "27", source="amc"),
  "tulu3_preferences": PromptRow("Hi", "", source="tulu3"),
  "openr1_math": HFTRow(f"P\n{S}", "<think>b</think>c", tags.THINK, answer="1"),
}


@pytest.mark.parametrize("name", sorted(KNOWN_FIELDS))
def test_known_data_sets_are_read_in_their_own_format(name, tmp_path):
  path = write_jsonl(tmp_path / "copy.jsonl", [KNOWN_FIELDS[name]])
  assert catalog.load(name, path=str(path)).rows == [KNOWN_ROWS[name]]
  write_jsonl(path, [KNOWN_FIELDS[name], {"something": "else"}])
  loaded = catalog.load(name, path=str(path), on_bad_row="skip")
  assert (len(loaded.rows), loaded.skipped) == (1, 1)


def test_a_row_of_openr1_without_a_verified_generation_is_left_out_without_complaint(tmp_path):
  fields = {**KNOWN_FIELDS["openr1_math"], "correctness_math_verify": [True, False]}
  path = write_jsonl(tmp_path / "copy.jsonl", [fields, KNOWN_FIELDS["openr1_math"]])
  loaded = catalog.load("openr1_math", path=str(path))
  assert (len(loaded.rows), loaded.skipped) == (1, 0)


def test_unknown_names_are_answered_with_the_known_ones():
  with pytest.raises(KeyError, match=r"no data set named 'gsm9k'; known: .*gsm8k"):
    catalog.load("gsm9k")


@pytest.mark.parametrize("solution", ["no box", "\\boxed{1", ""])
def test_solutions_without_a_whole_box_are_bad(solution):
  with pytest.raises(rows.BadRow):
    catalog.boxed(solution)


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    (b'{"prompt": "\xff", "answer": "1"}', r"is not UTF-8 \(invalid start byte at byte 13\)"),
    (b'{"prompt": "q", "answer": ' + b"9" * 5000 + b"}", "holds a number of too many digits"),
    (b'{"prompt": ' + b"[" * 100_000, "is JSON nested too deeply"),
    (b'{"prompt": "q \\ud83d", "answer": "1"}', r"'prompt' holds '\\ud83d' at character 2"),
    (b'{"prompt": "q", "answer": "\\udfff"}', "'answer' holds"),
    (b'{"prompt": "q", "answer": ["1"]}', "'answer' is list, neither text nor a number"),
    (b'{"prompt": "q", "answer": NaN}', "answer=nan"),
    (b'{"prompt": "q", "answer": "1", "level": Infinity}', "level=inf is not a number"),
    (b'{"prompt": "q", "answer": "1", "level": 1e12}', "level=1000000000000.0 is beyond"),
  ],
)
def test_a_line_that_cannot_be_a_row_says_why_and_where(tmp_path, line, reason):
  path = tmp_path / "toy.jsonl"
  path.write_bytes(b'{"prompt": "q", "answer": "1"}\n' + line + b"\n")
  with pytest.raises(ValueError, match=rf"toy\.jsonl:2: {reason}"):
    sources.load(Source(str(path)), rows.prompt_row)
  assert len(sources.load(Source(str(path)), rows.prompt_row, on_bad_row="skip").rows) == 1


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
  path = tmp_path / "toy.jsonl"
  path.write_bytes(b'\xef\xbb\xbf{"prompt": "q", "answer": "1"}\n')
  assert sources.load(Source(str(path)), rows.prompt_row).rows == [PromptRow("q", "1")]


@pytest.mark.parametrize(
  ("name", "changes"),
  [
    ("openr1_math", {"generations": 3}),
    ("openr1_math", {"correctness_math_verify": [True]}),
    ("openr1_math", {"is_reasoning_complete": 1.0}),
    ("tulu3_preferences", {"prompt": None, "chosen": "hello"}),
    ("gsm8k_think", {"answer": ["#### 3"]}),
    ("deepscaler", {"answer": [7]}),
  ],
)
def test_columns_of_other_types_than_a_data_set_has_are_bad_rows(tmp_path, name, changes):
  path = write_jsonl(tmp_path / "copy.jsonl", [{**KNOWN_FIELDS[name], **changes}])
  with pytest.raises(ValueError, match=r"copy\.jsonl:1: "):
    catalog.load(name, path=str(path))


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_rows_in_a_bucket(write, tmp_path, s3):
  local = write(tmp_path / f"rows.{write.__name__.removeprefix('write_')}", FIELDS)
  url = f"s3://runs/{tmp_path.name}/{local.name}"
  fsspec.filesystem("s3").put_file(str(local), url)
  assert sources.load(toy(url), rows.prompt_row).rows == ROWS


@pytest.mark.parametrize(
  "url, message",
  [
    ("s3://runs/none.jsonl", r"s3://runs/none\.jsonl does not exist"),
    ("s3://no-such-bucket-here/none.jsonl", "does not exist"),
    ("nonsense://runs/none.jsonl", "Protocol not known: nonsense"),
  ],
)
def test_rows_that_are_in_no_bucket(url, message, s3):
  with pytest.raises((FileNotFoundError, ValueError), match=message):
    sources.load(toy(url), rows.prompt_row)
  with pytest.raises(ValueError, match=rf"data\.prompts: .*{message}"):
    RowTask.from_config(DataConfig(prompts=url))

"""Files of rows in every format and compression; damaged ones, and what unpacks to too much."""

import gzip
import json
import tracemalloc

import fsspec
import pytest

from lhrm_jax.data import files, rows, sources
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.data.sources import Source

FIELDS = [{"prompt": f"{i}+{i}? é", "answer": str(2 * i)} for i in range(6)]
ROWS = [PromptRow(row["prompt"], row["answer"]) for row in FIELDS]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in FIELDS).encode()
ARRAY = json.dumps(FIELDS, indent=2).encode()


def zstd(data: bytes) -> bytes:
  return pytest.importorskip("pyarrow").compress(data, codec="zstd", asbytes=True)


def without_bytes(value) -> str | None:
  """A name for a parameter that is the same in every process that collects it."""
  return "bytes" if isinstance(value, bytes) else None


PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}
FORMATS = [
  (name + packed, pack(data))
  for packed, pack in PACKERS.items()
  for name, data in (("a.jsonl", LINES), ("a.json", LINES), ("a.json", ARRAY))
]


def write(folder, name: str, data: bytes):
  (folder / name).write_bytes(data)
  return str(folder / name)


def load(path: str, on_bad_row: str = "raise", **changes):
  return sources.load(Source(path, **changes), rows.prompt_row, on_bad_row)


@pytest.mark.parametrize(("name", "data"), FORMATS, ids=without_bytes)
def test_every_format_and_compression_gives_the_same_rows(tmp_path, name, data):
  path = write(tmp_path, name, data)
  assert load(path).rows == ROWS
  assert load(path, split="train[-4:5]+train[:1]").rows == [*ROWS[2:5], ROWS[0]]
  assert load(path, split="train[:50%]").rows + load(path, split="train[50%:]").rows == ROWS


@pytest.mark.parametrize(("name", "data"), FORMATS, ids=without_bytes)
def test_files_in_buckets_are_read_alike(name, data):
  fsspec.filesystem("memory").pipe(f"/rows/{name}", data)
  assert load(f"memory://rows/{name}", split="train[-2:]").rows == ROWS[-2:]
  with pytest.raises(ValueError, match=r"memory://rows/.*(cannot be unpacked|is not JSON)"):
    fsspec.filesystem("memory").pipe(f"/rows/{name}", data[:-9])
    load(f"memory://rows/{name}")


def test_elements_of_an_array_may_lie_across_any_places_of_the_file(tmp_path):
  fields = [{"prompt": "é" * n, "answer": n} for n in (1, 2**17, 2**16 - 40, 3, 2**15, 2**15, 9)]
  data = json.dumps(fields, ensure_ascii=False, indent=1).encode()
  expected = [PromptRow(row["prompt"], str(row["answer"])) for row in fields]
  assert load(write(tmp_path, "a.json", data)).rows == expected


@pytest.mark.parametrize("packed", PACKERS)
def test_archives_of_several_members_are_read_to_the_end(tmp_path, packed):
  parts = LINES.splitlines(keepends=True)
  data = b"".join(PACKERS[packed](part) for part in parts)
  assert load(write(tmp_path, f"a.jsonl{packed}", data)).rows == ROWS


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("a.jsonl.gz", gzip.compress(LINES)[:-20], r"a\.jsonl\.gz.*cannot be unpacked beyond"),
    ("a.jsonl.gz", gzip.compress(LINES) + b"junk", r"a\.jsonl\.gz:6: .*cannot be unpacked beyond"),
    ("a.jsonl.gz", LINES, "cannot be unpacked beyond"),
    ("a.jsonl.zst", zstd(LINES)[:-5], r"a\.jsonl\.zst.*cannot be unpacked beyond"),
    ("a.json.zst", b"nothing of the kind", "cannot be unpacked beyond"),
    ("a.jsonl", gzip.compress(LINES), r"name says JSON, and what it holds is gzip \(\.gz\)"),
    ("a.jsonl", zstd(LINES), "what it holds is zstd"),
    ("a.json", b"PK\x03\x04...", "what it holds is a zip archive"),
    ("a.parquet", b"PAR1 and no more of it", "cannot be read as Parquet"),
    ("a.json", ARRAY[:-2], r"a\.json: row 5: is not JSON"),
    ("a.json", ARRAY[:100], r"a\.json: row \d: is not JSON"),
    ("a.json", ARRAY + ARRAY, r"a\.json: row 6: the file continues after the end"),
    ("a.json", b'[{"prompt": "\xff"}]', "is not UTF-8"),
    ("a.json", b"[" * 100_000, "nested too deeply"),
    ("a.json", b"[1" + b"0" * 5000 + b", 2]", "too many digits"),
    ("a.jsonl.gz", gzip.compress(b" " * 17 * 2**20), r"gz:1: is longer than 16 MiB"),
    ("a.jsonl.gz", gzip.compress(b'{"a": "' + bytes(17 * 2**20)), "is longer than 16 MiB"),
    ("a.jsonl.zst", zstd(b"\n" * 2 * 2**20), "too many blank lines"),
    ("a.json.zst", zstd(b'["' + b"a" * 17 * 2**20), r"row 0: is longer than 16 MiB"),
  ],
  ids=without_bytes,
)
@pytest.mark.parametrize("on_bad_row", sources.ON_BAD_ROW)
def test_what_cannot_be_read_to_its_end_is_an_error_even_where_bad_rows_are_skipped(
  tmp_path, name, data, message, on_bad_row
):
  with pytest.raises(ValueError, match=message):
    load(write(tmp_path, name, data), on_bad_row)


def test_bad_elements_of_an_array_are_bad_rows(tmp_path):
  path = write(tmp_path, "a.json", b'[5, {"prompt": "1+1?", "answer": 2}, {"prompt": "1"}, "x"]')
  loaded = load(path, "skip")
  assert loaded.rows == [PromptRow("1+1?", "2")] and loaded.skipped == 3
  assert loaded.examples[0] == f"{path}: row 0: is a JSON int, not an object"
  with pytest.raises(ValueError, match="gave no rows"):
    load(write(tmp_path, "b.json", b" [ ]\n"))


def test_memory_does_not_grow_with_what_an_archive_unpacks_to(tmp_path):
  line = json.dumps({"prompt": "x" * 2**20, "answer": ""}).encode() + b"\n"
  path = write(tmp_path, "bomb.jsonl.gz", gzip.compress(line * 40))
  tracemalloc.start()
  assert files.count(path) == 40
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 16 * 2**20


@pytest.mark.parametrize(
  ("path", "changes", "message"),
  [
    ("a.jsonl", {"split": "test"}, "is a file, which has no split 'test'"),
    ("a.jsonl", {"split": "train[:x]"}, "is not understood"),
    ("a.jsonl", {"subset": "main"}, "subset='main' has no effect"),
    ("a.jsonl", {"streaming": True}, "streaming=True has no effect"),
    ("tfds:a", {"subset": "main"}, "subset='main' has no effect"),
  ],
)
def test_what_has_no_effect_on_a_source_is_refused(tmp_path, path, changes, message):
  if path.endswith(".jsonl"):
    path = write(tmp_path, path, LINES)
  with pytest.raises(ValueError, match=message):
    load(path, **changes)


def test_an_error_shows_no_control_characters_of_a_row(tmp_path):
  fields = json.dumps({"\x1b]52;c;YQ==\x07\u202e": 1}).encode()
  with pytest.raises(ValueError, match="no column") as error:
    load(write(tmp_path, "a.jsonl", fields), columns={"prompt": "q\x1b"})
  assert str(error.value).isprintable() and "\\x1b]52" in str(error.value)

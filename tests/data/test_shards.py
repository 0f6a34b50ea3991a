"""Prepared shards: epochs without repetition, the same rows on any host, damage that is named."""

import hashlib
import pathlib

import numpy as np
import pytest

from lhrm_jax.data import tasks
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.shards import Group, Index, Shard, Shards, fingerprint
from lhrm_jax.storage.folder import Folder
from lhrm_jax.text import PretrainedTokenizer
from tests.data.test_sources import write_jsonl

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def write_group(folder, source, mode, sizes, first=0, weight=1.0):
  """A group whose row `i` holds the ids `[i, i, 1]`, of which one is the prompt's."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  shards, at = [], first
  for number, size in enumerate(sizes):
    name = f"demonstrations/{mode}/{source}/{number:05d}.parquet"
    ids = pa.array([[i, i, 1] for i in range(at, at + size)], pa.list_(pa.int32()))
    table = pa.table({"ids": ids, "prompt": pa.array([1] * size, pa.int32())})
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    shards.append(Shard(name, size, hashlib.sha256(path.read_bytes()).hexdigest()))
    at += size
  return Group(source, mode, sum(sizes), 3 * sum(sizes), 3, weight, tuple(shards))


@pytest.fixture(scope="module")
def tokenizer():
  return PretrainedTokenizer.load(GOLDEN / "qwen3_tied")


@pytest.fixture
def prepared(tmp_path, tokenizer):
  """Two thinking sources and a direct one, with queries, prepared for the golden tokenizer."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  groups = (
    write_group(tmp_path, "aops", "think", [7, 5]),
    write_group(tmp_path, "aime", "think", [4], first=100),
    write_group(tmp_path, "chat", "no_think", [6, 6, 3], first=200),
  )
  queries = [{"messages": [{"role": "user", "content": f"What is {i}+1?"}], "answer": str(i + 1)}
             for i in range(20)]  # fmt: skip
  (tmp_path / "prompts").mkdir()
  pq.write_table(pa.Table.from_pylist(queries), tmp_path / "prompts" / "sums.parquet")
  index = Index(fingerprint(tokenizer), groups, {"sums": 20}, ("math500",))
  Folder(tmp_path).write("index.json", index.to_json())
  return tmp_path


def task_of(folder, **data):
  write_jsonl(folder / "asked.jsonl", [{"prompt": "What is 90+1?", "answer": 91}])
  config = {"demonstrations": "aops,aime,chat", "prompts": "sums", "evaluation":
            str(folder / "asked.jsonl"), "root": str(folder)} | data  # fmt: skip
  return tasks.get("rows", DataConfig(**config))


def first_ids(rows):
  return [int(row.ids[0]) for row in rows]


def test_each_mode_goes_through_all_its_rows_once_per_epoch(prepared):
  task = task_of(prepared)
  for epoch in range(3):
    steps = [task.demonstrations(0, 4 * epoch + i, 4, 5) for i in range(4)]
    assert sorted(first_ids(row for think, _ in steps for row in think)) == [
      *range(12), *range(100, 104)
    ]  # fmt: skip
  steps = [task.demonstrations(0, i, 4, 5) for i in range(3)]
  assert sorted(first_ids(row for _, direct in steps for row in direct)) == list(range(200, 215))
  assert first_ids(steps[0][0]) != first_ids(task_of(prepared).demonstrations(1, 0, 4, 5)[0])


def test_rows_are_a_function_of_seed_and_step_whatever_was_read_before(prepared):
  task, other = task_of(prepared), task_of(prepared)
  for step in (0, 7, 3, 10**6):
    mine, theirs = task.demonstrations(0, step, 4, 2), other.demonstrations(0, step, 4, 2)
    assert [first_ids(rows) for rows in mine] == [first_ids(rows) for rows in theirs]
    other.demonstrations(0, step + 1, 3, 3)


def test_the_loss_counts_what_follows_the_prompt(prepared):
  (row,), _ = task_of(prepared).demonstrations(0, 0, 1, 0)
  assert row.slots == 2
  assert row.weights.tolist() == [0, 1, 1]


def test_weights_and_limits_of_epochs_decide_how_often_a_source_comes(prepared):
  task = task_of(prepared, weights={"aime": 3.0})
  drawn = first_ids(row for i in range(6) for row in task.demonstrations(0, i, 4, 0)[0])
  assert sum(i >= 100 for i in drawn) == 12, "four rows three times, of 24"
  limited = task_of(prepared, weights={"aime": 3.0}, epochs={"aime": 1.0})
  drawn = first_ids(row for i in range(4) for row in limited.demonstrations(0, i, 4, 0)[0])
  assert sorted(drawn) == [*range(12), *range(100, 104)]
  (use,) = limited.use("demonstrations", 0, 4, 4, 0)
  assert use.epochs == {"aops": 1.0, "aime": 1.0} and use.length is None


def test_queries_come_from_the_prepared_ones(prepared):
  task = task_of(prepared)
  rows = task.prompts(0, 0, 20)
  assert sorted(int(row.answer) for row in rows) == list(range(1, 21))
  assert any("27 tokens" in n or "tokens, from aops, aime, chat" in n for n in task.notes)


def test_what_is_not_there_is_named(prepared, tmp_path, tokenizer):
  with pytest.raises(ValueError, match=r"holds no 'codeforces'. It holds aops, aime, chat"):
    task_of(prepared, demonstrations="codeforces")
  with pytest.raises(ValueError, match=r"data.weights: 'aims' is no source.*Did you mean 'aime'"):
    task_of(prepared, weights={"aims": 2.0})
  with pytest.raises(ValueError, match=r"it is not prepared data, or its preparation"):
    Shards(str(prepared / "prompts"))
  other = PretrainedTokenizer.load(GOLDEN / "llama_tied")
  with pytest.raises(ValueError, match="another tokenizer"):
    Shards(str(prepared)).check_tokenizer(other)
  Shards(str(prepared)).check_tokenizer(tokenizer)


def test_a_damaged_or_missing_shard_ends_the_run_by_name(prepared):
  path = prepared / "demonstrations" / "think" / "aime" / "00000.parquet"
  path.write_bytes(path.read_bytes()[:-1] + b"\0")
  with pytest.raises(ValueError, match=r"aime/00000.parquet is damaged"):
    task_of(prepared, demonstrations="aime").demonstrations(0, 0, 1, 0)
  path.unlink()
  with pytest.raises(ValueError, match=r"aime/00000.parquet is missing"):
    task_of(prepared, demonstrations="aime").demonstrations(0, 0, 1, 0)


def test_shards_are_read_from_a_bucket(prepared):
  import fsspec

  memory = fsspec.filesystem("memory")
  memory.put(str(prepared), "/prepared", recursive=True)
  shards = Shards("memory://prepared")
  source = shards.of_mode(0, ["aime"])["aime"]
  assert sorted(int(source.take((0,), i).ids[0]) for i in range(4)) == list(range(100, 104))
  assert np.asarray(source.take((0,), 0).ids).dtype == np.int32

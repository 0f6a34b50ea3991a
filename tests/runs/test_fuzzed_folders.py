"""Hostile run folders and buckets: a loader gives what was asked for, or an error that says why.

Files of a tiny run are mutated by seed, and the checksums written anew, so that what lies behind
them is reached. Nothing may hang, write outside its folder, or end in another error.
"""

import json
import pathlib
import shutil

import jax
import numpy as np
import optax
import pytest

from lhrm_jax import parallel
from lhrm_jax.errors import UserError
from lhrm_jax.runs import checkpoints, loading, saved_arrays
from lhrm_jax.runs.checkpoints import CheckpointError, Checkpoints
from lhrm_jax.runs.json_files import write_json
from lhrm_jax.runs.metric_writer import damaged_lines, read_metrics
from lhrm_jax.storage.bucket import Bucket
from lhrm_jax.storage.urls import BucketError
from lhrm_jax.training import state as train_state

TOKENS = (b"0", b"-1", b"1e999", b"null", b"[]", b"{}", b'""', b"999999999999", b'"../x"', b"\xff",
          b"NaN", b'"a\\u0000b"', b"true", b",", b'"', b"[" * 3000, b"\n", b'"/etc/x"')  # fmt: skip


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
  """Content with one to three places changed: bits, cuts, repeats, or a token of JSON put in."""
  for _ in range(rng.integers(1, 4)):
    at = int(rng.integers(0, len(content) + 1))
    to = min(len(content), at + int(rng.integers(1, 16)))
    match rng.integers(0, 5):
      case 0 if at < len(content):
        content = content[:at] + bytes([content[at] ^ 1 << rng.integers(0, 8)]) + content[at + 1 :]
      case 1:
        content = content[:at]
      case 2:
        content = content[:at] + content[to:]
      case 3:
        content = content[:to] + content[at:]
      case _:
        content = content[:at] + TOKENS[rng.integers(0, len(TOKENS))] + content[to:]
  return content


@pytest.fixture(scope="module")
def small(config, tmp_path_factory):
  """A stage's folder with one step, and what its parameters are."""
  optimizer = train_state.make_optimizer(
    optax.constant_schedule(1e-3), weight_decay=0.0, clip_norm=1.0
  )
  state = train_state.create(config, optimizer, parallel.make_mesh(), jax.random.key(0))
  folder = tmp_path_factory.mktemp("stage") / "hft"
  stage = Checkpoints(folder, every=1, keep=1)
  stage.save(state, 1, lambda: {"logs": {"metrics.jsonl": 5}, "note": "here"})
  stage.close()
  return folder, jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state.params)


@pytest.mark.filterwarnings("ignore")  # Orbax's and TensorStore's
def test_a_checkpoint_of_any_content_is_loaded_or_refused(small, config, tmp_path):
  original, shapes = small
  names = [p.relative_to(original) for p in original.rglob("*") if p.is_file()]
  names = [name for name in names if name.name != checkpoints.CHECKSUMS]
  loaded = refused = 0
  for seed in range(32):
    rng = np.random.default_rng(seed)
    folder = shutil.copytree(original, tmp_path / str(seed) / "hft")
    file = folder / names[rng.integers(0, len(names))]
    file.write_bytes(mutated(rng, file.read_bytes()))
    (folder / "1" / checkpoints.CHECKSUMS).unlink()
    checkpoints.write_checksums(folder / "1")
    found = Checkpoints(folder, every=1, keep=1, report=lambda _: None).newest()
    try:
      if found is None:
        raise CheckpointError("set aside")
      params = saved_arrays.restore_params(found.path, config, parallel.make_mesh())
      assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == shapes, seed
      loaded += 1
    except CheckpointError:
      refused += 1
    shutil.rmtree(tmp_path / str(seed))
  assert min(loaded, refused) > 5, (loaded, refused)


def test_a_bucket_of_any_index_stays_in_its_folder(tmp_path, monkeypatch):
  url, here = f"file://{tmp_path}/bucket/run", tmp_path / "machine" / "run"
  first = tmp_path / "first"
  for name in ("config.json", "checkpoints/hft/3/a", "metrics.jsonl"):
    (first / name).parent.mkdir(parents=True, exist_ok=True)
    (first / name).write_text(name)
  Bucket(url, first).upload()
  (tmp_path / "bucket" / "x").write_text("outside")
  index = tmp_path / "bucket" / "run" / "copy.json"
  content, taken, refused = index.read_bytes(), 0, 0
  for seed in range(400):
    index.write_bytes(mutated(np.random.default_rng(seed), content))
    shutil.rmtree(here.parent, ignore_errors=True)
    here.mkdir(parents=True)
    bucket = Bucket(url, here)
    try:
      bucket.take_over() if seed % 2 else bucket.fetch()
      taken += 1
    except BucketError as error:
      assert str(error).isprintable(), seed
      refused += 1
    assert [path.name for path in here.parent.iterdir()] == ["run"], seed
    assert {p.name for p in tmp_path.iterdir()} == {"bucket", "first", "machine"}, seed
  assert min(taken, refused) > 20, (taken, refused)


def test_files_of_a_run_with_any_content_are_read_or_refused(config, tokenizer, tmp_path):
  write_json(tmp_path / "config.json", config.to_dict())
  tokenizer.save(tmp_path)
  files = {name: (tmp_path / name).read_bytes() for name in ("config.json", "characters.json")}
  read = refused = 0
  for seed in range(600):
    rng = np.random.default_rng(seed)
    name = sorted(files)[seed % 2]
    for other, content in files.items():
      (tmp_path / other).write_bytes(mutated(rng, content) if other == name else content)
    try:
      loading.saved_policy(tmp_path)
      read += 1
    except UserError as error:
      assert str(error).isprintable(), seed
      refused += 1
  assert min(read, refused) > 20, (read, refused)


def test_metrics_of_any_content_are_read(tmp_path):
  rows = [{"stage": "hft", "step": step, "loss": 0.5, "eval/think": 0.25} for step in range(4)]
  content = "".join(json.dumps(row) + "\n" for row in rows).encode()
  path: pathlib.Path = tmp_path / "metrics.jsonl"
  left_out = 0
  for seed in range(1000):
    path.write_bytes(mutated(np.random.default_rng(seed), content))
    for row in read_metrics(tmp_path, "hft"):
      assert isinstance(row["step"], int) and float(row.get("loss", 0)) is not None
    left_out += damaged_lines(tmp_path)
  assert left_out > 100

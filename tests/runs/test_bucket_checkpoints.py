"""Checkpoints straight in a bucket, by one process: whole or not there, damage, best and newest."""

import http.client
import http.server
import math
import os
import threading
import time
import types
import urllib.parse

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lhrm_jax import parallel
from lhrm_jax.runs import committed, loading, saved_arrays
from lhrm_jax.runs.bucket_checkpoints import BucketCheckpoints
from lhrm_jax.runs.checkpoints import CheckpointError
from lhrm_jax.storage import sharded_arrays
from lhrm_jax.storage.folder import Folder
from lhrm_jax.storage.urls import BucketError
from lhrm_jax.training import state as train_state
from tests.policy.test_lora import with_adapters


@pytest.fixture
def url(s3, tmp_path):
  return f"s3://runs/{tmp_path.name}/saved/hft"


@pytest.fixture(scope="module")
def mesh():
  return parallel.make_mesh(data=-1)


@pytest.fixture(scope="module")
def state(config, mesh):
  return train_state.create(config, optax.adam(1e-3), mesh, jax.random.key(0))


def made(url, **options):
  found = []
  return BucketCheckpoints(url, **{"every": 1, "keep": 2, "report": found.append} | options), found


def saved(url, state, *steps, **options):
  store, _ = made(url, **options)
  store.newest()
  for step in steps:
    assert store.save(state, step, lambda step=step: {"seconds": step})
    store.wait()
  return store


def test_a_state_comes_back_bit_for_bit_with_its_record(url, state, config, mesh):
  saved(url, state, 3).close()
  again, _ = made(url)
  found = again.newest()
  assert (found.step, found.record, found.path.parent.name) == (3, {"seconds": 3}, "hft")
  restored = saved_arrays.restore(found, config, optax.adam(1e-3), mesh)
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  assert not saved_arrays.has_reference(found)
  assert not again.save(state, 3, dict, now=True), "the step is there"


def test_a_reference_policy_is_saved_beside_the_state(url, state, config, mesh):
  store, _ = made(url)
  store.newest()
  moved = jax.tree.map(lambda x: x + 1, state.params)
  store.save(state, 1, dict, reference=moved)
  store.close()
  found = made(url)[0].newest()
  assert saved_arrays.has_reference(found)
  read = saved_arrays.restore_params(found.path, config, mesh, saved_arrays.REFERENCE)
  jax.tree.map(np.testing.assert_array_equal, read, moved)


def test_the_policy_that_adapters_belong_to_is_in_the_bucket_once(
  url, config, params, mesh, tmp_path
):
  adapted, params = with_adapters(config, params, tokens=(2, 3))
  state = train_state.restart(adapted, optax.adam(1e-3), mesh, params)
  root = url.removesuffix("/saved/hft")
  saved_arrays.save_base(tmp_path / "none", params, f"{root}/saved")
  saved(url, state, 1).close()
  found = made(url)[0].newest()
  restored = saved_arrays.restore(found, adapted, optax.adam(1e-3), mesh)
  jax.tree.map(np.testing.assert_array_equal, restored, state)

  committed.fetch(root, tmp_path / "run", "hft/1")  # for a job that reads the run
  step = tmp_path / "run" / "checkpoints" / "hft" / "1"
  restored = saved_arrays.restore_params(step, adapted, mesh)
  jax.tree.map(np.testing.assert_array_equal, restored, state.params)

  saved_arrays.save_base(tmp_path / "none", params, f"{root}/saved")
  held = Folder(f"{root}/saved/base/0")
  (name,) = [name for name in held.names() if name.endswith(".0000")]  # the first start's is gone
  held.write(name, held.read(name)[:-1] + b"!")
  with pytest.raises(CheckpointError, match=r"base/0 does not fit.*damaged at"):
    saved_arrays.restore(found, adapted, optax.adam(1e-3), mesh)


def test_old_steps_are_deleted_and_the_best_and_the_first_stay(url, state):
  store, _ = made(url, best="eval/accuracy")
  store.newest()
  for step, value in ((0, None), (1, 0.5), (2, 0.9), (3, 0.1), (4, 0.2), (5, 0.3)):
    store.save(state, step, dict, now=True, metrics=value and {"eval/accuracy": value})
  store.close()
  kept = {name.split("/")[0] for name in Folder(url).names()}
  assert kept == {"0", "2", "4", "5"}


def test_a_save_that_was_not_committed_is_not_there_and_is_removed(url, state):
  saved(url, state, 1).close()
  folder = Folder(url)
  folder.write("2/deadbeef/00000.0000", b"half")
  store, _ = made(url)
  assert store.newest().step == 1
  assert not folder.names("2")


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(url, state):
  saved(url, state, 1, 2).close()
  folder = Folder(url)
  (name,) = [name for name in folder.names("2") if name.endswith("00000.0000")]
  content = bytearray(folder.read(name))
  content[100] ^= 1
  folder.write(name, bytes(content))
  store, said = made(url)
  assert store.newest().step == 1
  assert "is damaged (00000.0000 is changed at" in said[0]
  assert folder.has("2/damaged.json") and not folder.has(f"2/{committed.COMMIT}")
  assert made(url)[0].newest().step == 1, "nor is it found again"


def test_the_logs_are_there_before_the_step_is_whole(url, state):
  seen = []
  saved(url, state, 1, before_commit=lambda: seen.append(Folder(url).has("1/commit.json"))).close()
  assert seen == [False]


def test_a_bucket_that_cannot_be_written_ends_the_run_with_the_step_that_is_whole(
  url, state, monkeypatch
):
  store = saved(url, state, 1)
  monkeypatch.setattr("lhrm_jax.storage.sharded_arrays._TRIES", 1)
  monkeypatch.setattr(Folder, "write", lambda *_: (_ for _ in ()).throw(OSError("no room")))
  store.save(state, 2, dict)
  with pytest.raises(CheckpointError, match=r"could not be written: no room. Step 1 is whole"):
    store.close()


class Proxy(http.server.BaseHTTPRequestHandler):
  """Hands requests on to the real server; for a while after the first, refuses them all."""

  refuses_until = math.inf  # a time; infinite before the first request
  kind, refused, endpoint, protocol_version = "", 0, "", "HTTP/1.1"

  def handle_one_request(self):
    self.raw_requestline = self.rfile.readline(2**16)
    if not self.raw_requestline or not self.parse_request():
      self.close_connection = True
      return
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    cls = type(self)
    if cls.refuses_until == math.inf:
      cls.refuses_until = time.monotonic() + 3
    if time.monotonic() < cls.refuses_until:
      cls.refused += 1
      if self.kind == "503":
        self.send_error(503, "Slow Down")
      self.close_connection = True
      return
    host = urllib.parse.urlsplit(self.endpoint).netloc
    link = http.client.HTTPConnection(host, timeout=30)
    link.request(self.command, self.path, body, dict(self.headers))
    reply = link.getresponse()
    content = reply.read()
    self.send_response(reply.status)
    for name, value in reply.getheaders():
      if name.lower() not in ("transfer-encoding", "connection", "content-length"):
        self.send_header(name, value)
    length = reply.getheader("Content-Length") if self.command == "HEAD" else len(content)
    self.send_header("Content-Length", str(length or 0))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *_):
    pass


@pytest.mark.parametrize("kind", ["503", pytest.param("closed", marks=pytest.mark.slow)])
def test_a_server_that_refuses_for_a_while_costs_nothing_but_time(
  url, state, config, mesh, monkeypatch, kind
):
  """Every request for three seconds: with a status, or by ending the connection."""
  saved(url, state, 1).close()

  class Refusing(Proxy):
    endpoint = os.environ["AWS_ENDPOINT_URL"]

  Refusing.kind = kind
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
  files = fsspec.get_filesystem_class("s3")
  files.clear_instance_cache()
  try:
    Refusing.refuses_until = 0.0  # not before the save
    store, _ = made(url)
    assert store.newest().step == 1
    Refusing.refuses_until = math.inf
    assert store.save(state, 2, dict)
    store.close()
    found = made(url)[0].newest()
    restored = saved_arrays.restore(found, config, optax.adam(1e-3), mesh)
  finally:
    server.shutdown()
    files.clear_instance_cache()
  assert found.step == 2 and Refusing.refused > 0
  jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_another_policy_than_was_saved_is_named(url, state, config, mesh):
  saved(url, state, 1).close()
  other = {
    "params": {"x": jax.ShapeDtypeStruct((1,), jnp.float32, sharding=parallel.replicated(mesh))}
  }
  found = made(url)[0].newest()
  with pytest.raises(CheckpointError, match="does not fit this policy and optimiser"):
    saved_arrays._load(found.path, other)


def test_another_run_starts_from_what_is_in_the_bucket(
  url, state, config, mesh, tmp_path, monkeypatch
):
  saved(url, state, 1, 2).close()
  run = url.removesuffix("/saved/hft")
  Folder(run).write("policy/config.json", b"{}")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  _, newest = loading.find_checkpoint(run)
  assert newest.parts[-3:] == ("checkpoints", "hft", "2")
  read = saved_arrays.restore_params(newest, config, mesh)
  jax.tree.map(np.testing.assert_array_equal, read, state.params)


def test_a_bucket_that_cannot_be_read_is_no_damage(url, state, monkeypatch):
  """Or one process without access would have all healthy checkpoints set aside."""
  store = saved(url, state, 3)
  monkeypatch.setattr(Folder, "read", refuse)
  monkeypatch.setattr(sharded_arrays, "_TRIES", 1)
  with pytest.raises(BucketError, match="no credentials"):
    committed.damage(store._folder / "3")
  monkeypatch.undo()
  assert made(url)[0].newest().step == 3


def refuse(*_):
  raise BucketError("no credentials")


def test_old_steps_that_cannot_be_deleted_do_not_end_the_run(url, state, monkeypatch):
  monkeypatch.setattr(Folder, "remove", refuse)
  monkeypatch.setattr(sharded_arrays, "_TRIES", 1)
  store, said = made(url, keep=1)
  store.newest()
  for step in (1, 2, 3):
    store.save(state, step, dict)
    store.wait()
  assert any("an old checkpoint is left" in line for line in said)
  monkeypatch.undo()
  assert made(url)[0].newest().step == 3


def test_an_older_step_with_a_damaged_commit_is_left_alone(url, state):
  saved(url, state, 1, 2).close()
  folder = Folder(url)
  folder.write("1/commit.json", b"{")
  assert made(url)[0].newest().step == 2
  assert folder.has("1/commit.json")


def test_a_step_whose_logs_cannot_be_uploaded_is_not_committed(url, state, monkeypatch):
  monkeypatch.setattr(sharded_arrays, "_TRIES", 1)
  store, _ = made(url, before_commit=lambda: refuse())
  store.newest()
  with pytest.raises(CheckpointError, match="no credentials"):
    store.save(state, 1, dict)
    store.wait()
  assert made(url)[0].newest() is None


def test_a_file_is_not_absent_because_the_store_fails(url):
  folder = Folder(url)
  assert not folder.has("none") and not folder.has("none/at/all")

  def fails(path):
    raise OSError("503 Slow down")

  folder._files = types.SimpleNamespace(info=fails, invalidate_cache=lambda: None)
  with pytest.raises(BucketError, match="503 Slow down"):
    folder.has("none")

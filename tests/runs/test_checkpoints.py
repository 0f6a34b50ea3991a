"""Checkpoints: whole or refused, and what is kept."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lhrm_jax import parallel
from lhrm_jax.runs import checkpoints, saved_arrays
from lhrm_jax.runs.checkpoints import Checkpoints
from lhrm_jax.storage import checksums
from lhrm_jax.training import state as train_state
from tests.policy.test_lora import with_adapters


@pytest.fixture(scope="module")
def optimizer():
  return train_state.make_optimizer(optax.constant_schedule(1e-3), weight_decay=0.0, clip_norm=1.0)


@pytest.fixture(scope="module")
def state(config, optimizer):
  return train_state.create(config, optimizer, parallel.make_mesh(), jax.random.key(0))


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory, state):
  """A stage's folder with steps 3 and 6."""
  folder = tmp_path_factory.mktemp("stage") / "hft"
  stage = Checkpoints(folder, every=3, keep=2)
  for step in range(1, 7):
    assert stage.save(state, step, lambda: {"note": "here"}) == (step in (3, 6))
  stage.close()
  return folder


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_a_state_comes_back_with_its_record(two_saved, state, config, optimizer):
  saved = Checkpoints(two_saved, every=3, keep=2).newest()
  assert (saved.step, saved.record) == (6, {"note": "here"})
  equal(saved_arrays.restore(saved, config, optimizer, parallel.make_mesh()), state)
  equal(saved_arrays.restore_params(saved.path, config, parallel.make_mesh()), state.params)


def test_adapters_are_saved_alone_and_the_policy_they_belong_to_once(
  tmp_path, config, params, optimizer
):
  mesh = parallel.make_mesh()
  adapted, params = with_adapters(config, params, tokens=(2, 3))
  state = train_state.restart(adapted, optimizer, mesh, params)
  saved_arrays.save_base(tmp_path, params)
  stage = Checkpoints(tmp_path / "checkpoints" / "hft", every=1, keep=2)
  stage.save(state, 1, dict, reference=state.params)
  stage.close()
  saved = stage.newest()
  assert not {name for name in saved_arrays.load_arrays(saved.path, "params") if "kernel" in name}
  found = saved_arrays.restore(saved, adapted, optimizer, mesh)
  equal(found, state)
  reference = saved_arrays.restore_params(saved.path, adapted, mesh, saved_arrays.REFERENCE)
  equal(reference, state.params)
  assert reference["embedding"] is found.params["embedding"]  # one copy in memory

  saved_arrays.save_base(tmp_path, params)
  (tmp_path / "policy" / "base" / checksums.CHECKSUMS).unlink()
  with pytest.raises(checkpoints.CheckpointError, match="base, the policy that the adapters"):
    saved_arrays.restore(saved, adapted, optimizer, mesh)


def test_adapters_find_their_policy_where_checkpoints_are_on_another_disk(
  tmp_path, config, params, optimizer
):
  mesh, run = parallel.make_mesh(), tmp_path / "run"
  adapted, params = with_adapters(config, params, tokens=(2, 3))
  state = train_state.restart(adapted, optimizer, mesh, params)
  saved_arrays.save_base(run, params)
  (tmp_path / "disk").mkdir()
  (run / "checkpoints").symlink_to(tmp_path / "disk", target_is_directory=True)
  stage = Checkpoints(run / "checkpoints" / "hft", every=1, keep=2)
  stage.save(state, 1, dict)
  stage.close()
  equal(saved_arrays.restore(stage.newest(), adapted, optimizer, mesh), state)
  newest = checkpoints.newest(run / "checkpoints" / "hft")
  equal(saved_arrays.restore_params(newest, adapted, mesh), state.params)


def test_the_newest_the_first_and_the_best_stay(tmp_path, state):
  stage = Checkpoints(tmp_path, every=2, keep=1, best="eval/accuracy")
  for step, accuracy in enumerate([0.1, 0.9, 0.5, 0.5, 0.6, 0.2, 0.3]):
    stage.save(state, step, dict, metrics={"eval/accuracy": accuracy}, now=step == 0)
  stage.close()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "6"]
  # A resumed run remembers how good the best was.
  again = Checkpoints(tmp_path, every=100, keep=1, best="eval/accuracy")
  again.newest()
  assert not again.save(state, 7, dict, metrics={"eval/accuracy": 0.8})
  assert again.save(state, 8, dict, metrics={"eval/accuracy": 0.95})
  again.close()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "8"]


def test_of_equally_good_checkpoints_the_first_stays_and_one_without_the_metric_does_not(
  tmp_path, state
):
  stage = Checkpoints(tmp_path, every=1, keep=1, best="accuracy")
  for step, metrics in enumerate(({}, {"accuracy": 0.5}, {"accuracy": 0.5}, {}), start=1):
    stage.save(state, step, dict, metrics=metrics)
  stage.close()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "4"]


def _truncate(path):
  os.truncate(path, max(path.stat().st_size - 1, 0))


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x20
  path.write_bytes(data)


@pytest.mark.parametrize("harm", [_truncate, _flip, os.remove], ids=["truncate", "flip", "delete"])
def test_harm_to_any_file_is_seen_set_aside_and_the_one_before_is_used(two_saved, tmp_path, harm):
  files = [p.relative_to(two_saved) for p in (two_saved / "6").rglob("*") if p.is_file()]
  assert len(files) > 10
  for number, file in enumerate(files):
    if harm is not os.remove and not (two_saved / file).stat().st_size:
      continue  # an empty file has nothing to lose
    folder = tmp_path / str(number)
    shutil.copytree(two_saved, folder)
    harm(folder / file)
    with pytest.raises(AssertionError):
      assert checkpoints.damage(folder / "6") is None, file
    told = []
    saved = Checkpoints(folder, every=3, keep=2, report=told.append).newest()
    assert saved.step == 3
    assert "damaged" in told[0] and (folder / "damaged-6").is_dir()
    assert checkpoints.newest(folder).name == "3"


def test_sha256sum_agrees(two_saved):
  done = subprocess.run(
    ["sha256sum", "--check", "--quiet", "--strict", checkpoints.CHECKSUMS],
    cwd=two_saved / "6", capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr


FULL_DISK = """
import resource, sys, jax, optax
from pathlib import Path
from lhrm_jax import parallel
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.training import state as train_state
from lhrm_jax.runs.checkpoints import CheckpointError, Checkpoints
config = PolicyConfig(
  vocab_size=64, hidden_size=64, intermediate_size=64, num_layers=2, num_heads=2, num_kv_heads=2)
optimizer = train_state.make_optimizer(
  optax.constant_schedule(1e-3), weight_decay=0.0, clip_norm=1.0)
state = train_state.create(config, optimizer, parallel.make_mesh(), jax.random.key(0))
stage = Checkpoints(Path(sys.argv[1]), every=1, keep=3)
stage.save(state, 1, dict)
stage.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
  stage.save(state, 2, dict)
  stage.wait()
except CheckpointError as error:
  print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
print("left", sorted(p.name for p in Path(sys.argv[1]).iterdir()))
"""


def test_a_full_disk_says_so_and_leaves_the_checkpoint_before(tmp_path):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", FULL_DISK, str(tmp_path)],
    capture_output=True, text=True, timeout=120, env=environment, check=False,
  )  # fmt: skip
  assert "could not be written" in done.stdout, done.stdout + done.stderr[-2000:]
  assert "Step 1 is whole: free or repair the disk" in done.stdout
  assert "left ['1']" in done.stdout
  assert checkpoints.damage(tmp_path / "1") is None


def test_a_checkpoint_of_another_policy_is_refused(two_saved, config, optimizer):
  other = dataclasses.replace(config, hidden_size=48)
  saved = Checkpoints(two_saved, every=3, keep=2).newest()
  with pytest.raises(checkpoints.CheckpointError, match="does not fit"):
    saved_arrays.restore(saved, other, optimizer, parallel.make_mesh())


NAMES = (
  "exp[lr=1e-3]",
  "[0]",
  "a\\b",
  "a*b",
  "**",
  "what?",
  "50%",
  "#1",
  "a b",
  "é中",
  "a\nb",
  "\udcff",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_holds_checkpoints(tmp_path, name):
  """`acb` matches `a*b`, and must not be taken for it."""
  for folder in (name, "acb"):
    saved_arrays.save_tree(tmp_path / folder / "arrays", {"w": jnp.full(3, len(folder))})
  found = saved_arrays.load_tree(tmp_path / name / "arrays")["w"]
  np.testing.assert_array_equal(found, np.full(3, len(name)))
  assert {path.name for path in tmp_path.iterdir()} == {name, "acb"}


def test_a_tree_that_was_moved_to_a_name_of_any_characters_is_read(tmp_path):
  saved_arrays.save_tree(tmp_path / "arrays", {"w": jnp.arange(3)})
  moved = (tmp_path / "arrays").rename(tmp_path / "best[1]\\")
  np.testing.assert_array_equal(saved_arrays.load_tree(moved)["w"], np.arange(3))
  with pytest.raises(ValueError, match="ends in characters that cannot be"):
    saved_arrays.save_tree(tmp_path / "other[1]", {"w": jnp.arange(3)})


def test_a_stage_in_a_folder_of_any_name_is_found_again(tmp_path, state, config, optimizer):
  folder = tmp_path / "exp[lr=1e-3]\\" / "hft"
  stage = Checkpoints(folder, every=1, keep=1)
  for step in (1, 2):
    stage.save(state, step, lambda: {"note": "here"})
  stage.close()
  assert [path.name for path in folder.iterdir()] == ["2"]
  saved = Checkpoints(folder, every=1, keep=1).newest()
  assert (saved.path, saved.step, saved.record) == (folder / "2", 2, {"note": "here"})
  equal(saved_arrays.restore(saved, config, optimizer, parallel.make_mesh()), state)
  loaded = saved_arrays.load_arrays(folder / "2", "params")
  np.testing.assert_array_equal(loaded["embedding"], state.params["embedding"])


def test_what_no_checkpoint_can_be_written_below_is_refused_first(tmp_path, monkeypatch):
  deep = tmp_path.joinpath(*["x" * 200] * 19)
  with pytest.raises(checkpoints.CheckpointError, match="too long"):
    Checkpoints(deep, every=1, keep=1)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(checkpoints.CheckpointError, match="several processes cannot write"):
    Checkpoints(tmp_path / "seed[0]", every=1, keep=1)
  assert not list(tmp_path.iterdir())


def _listed(folder, line):
  """Adds a line to a folder's checksums, under the heading that suits it."""
  path = folder / checksums.CHECKSUMS
  lines = path.read_text().partition("\n")[2] + line + "\n"
  path.write_text(f"{checksums._heading(lines)}\n{lines}")


def _pipe(path):
  path.unlink(missing_ok=True)
  os.mkfifo(path)


@pytest.mark.parametrize(
  ("harm", "message"),
  [
    (lambda f: _pipe(f / "pipe"), "pipe is a link, a pipe or a device"),
    (lambda f: _pipe(f / "a"), "a is a link, a pipe or a device"),
    (lambda f: _pipe(f / checksums.CHECKSUMS), "not a regular file"),
    (lambda f: (f / "link").symlink_to("/dev/zero"), "link is a link"),
    (lambda f: (f / "sub").symlink_to("/etc", target_is_directory=True), "sub is a link"),
    (lambda f: _listed(f, "0" * 64 + "  ../outside"), "outside the folder"),
    (lambda f: _listed(f, "0" * 64 + "  /etc/passwd"), "outside the folder"),
    (lambda f: _listed(f, "0" * 64 + "  a\0b"), r"a\\x00b is missing"),
    (lambda f: _listed(f, "0" * 64 + "  sub/\x1b]52;"), r"sub/\\x1b\]52; is missing"),
    (lambda f: _listed(f, "cafe"), "a line that is not a checksum"),
    (lambda f: (f / checksums.CHECKSUMS).write_bytes(b"\xff"), "cannot be read"),
    (lambda f: os.truncate(f / checksums.CHECKSUMS, 2**27), "longer than"),
  ],
)  # fmt: skip
def test_a_hostile_list_opens_nothing_else_and_waits_for_nothing(tmp_path, harm, message):
  folder = tmp_path / "7"
  folder.mkdir()
  (folder / "a").write_text("content")
  (tmp_path / "outside").write_text("content")
  checksums.write_checksums(folder)
  assert checksums.damage(folder) is None
  harm(folder)
  assert re.search(message, checksums.damage(folder))


def test_only_numbers_as_they_are_written_are_steps(two_saved, tmp_path):
  folder = tmp_path / "hft"
  shutil.copytree(two_saved, folder)
  for name in ("²", "007", "-1", "9" * 200, "7.0"):
    (folder / name).mkdir()
  (folder / "8").write_text("no folder")
  told = []
  assert Checkpoints(folder, every=3, keep=2, report=told.append).newest().step == 6
  assert len(told) == 1 and "damaged-8" in told[0]


def test_a_checkpoint_without_a_record_is_damaged_whatever_its_checksums_say(two_saved, tmp_path):
  folder = tmp_path / "hft"
  shutil.copytree(two_saved, folder)
  (folder / "6" / "_CHECKPOINT_METADATA").write_text("5")
  (folder / "6" / checksums.CHECKSUMS).unlink()
  checksums.write_checksums(folder / "6")
  told = []
  assert Checkpoints(folder, every=3, keep=2, report=told.append).newest().step == 3
  assert "has no record" in told[0]

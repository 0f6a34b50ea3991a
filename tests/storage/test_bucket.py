"""A run's copy in a bucket, against a real S3 server and against folders by `file://`."""

import os
import pathlib
import shutil

import fsspec
import pytest

from lhrm_jax.storage.bucket import Bucket, fetched, folder_for
from lhrm_jax.storage.urls import BucketError


@pytest.fixture(params=["s3", "file"])
def url(request, tmp_path):
  """An empty folder of a bucket."""
  if request.param == "file":
    return f"file://{tmp_path}/bucket/run"
  request.getfixturevalue("s3")
  return f"s3://runs/{tmp_path.name}"


@pytest.fixture
def machine(tmp_path):
  """Makes folders that simulate the disks of machines."""

  def make(name: str) -> pathlib.Path:
    (tmp_path / name).mkdir()
    return tmp_path / name

  return make


def write(folder: pathlib.Path, **texts: str) -> None:
  for name, text in texts.items():
    path = folder / name.replace("__", "/").replace("_jsonl", ".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def held(folder: pathlib.Path) -> dict[str, str]:
  paths = [p for p in folder.rglob("*") if p.is_file() and p.name != "copy.json"]
  return {p.relative_to(folder).as_posix(): p.read_text() for p in paths}


def copy_of(url: str) -> list[str]:
  files, root = fsspec.core.url_to_fs(url)
  files.invalidate_cache()
  return sorted(path.removeprefix(f"{root}/") for path in files.find(root))


def test_another_machine_finds_what_was_uploaded(url, machine):
  first, second = machine("first"), machine("second")
  bucket = Bucket(url, first)
  assert bucket.take_over() is None
  write(first, metrics_jsonl="1\n", checkpoints__hft__3="three")
  bucket.upload()
  write(first, metrics_jsonl="1\n2\n", checkpoints__hft__6="six")
  (first / "checkpoints/hft/3").unlink()
  bucket.upload()
  write(first, metrics_jsonl="1\n2\n3\n")  # the machine is lost before this is uploaded
  assert Bucket(url, second).take_over() is None
  assert held(second) == {"metrics.jsonl": "1\n2\n", "checkpoints/hft/6": "six"}
  assert copy_of(url) == ["checkpoints/hft/6", "copy.json", "metrics.jsonl"]


def test_the_same_machine_goes_on_with_what_it_has(url, machine):
  folder = machine("first")
  bucket = Bucket(url, folder)
  bucket.take_over()
  write(folder, metrics_jsonl="1\n")
  bucket.upload()
  write(folder, metrics_jsonl="1\n2\n")  # and dies
  again = Bucket(url, folder)
  assert again.take_over() is None
  assert held(folder) == {"metrics.jsonl": "1\n2\n"}
  again.upload()
  assert Bucket(url, machine("second")).take_over() is None
  assert held(folder.with_name("second")) == {"metrics.jsonl": "1\n2\n"}


def test_a_machine_that_was_overtaken_loses_nothing_and_overwrites_nothing(url, machine):
  first, second = machine("first"), machine("second")
  slow = Bucket(url, first)
  slow.take_over()
  write(first, metrics_jsonl="1\n")
  slow.upload()
  quick = Bucket(url, second)
  quick.take_over()
  write(second, metrics_jsonl="1\n2\n")
  quick.upload()
  write(first, metrics_jsonl="1\nother\n")
  with pytest.raises(BucketError, match=f"another run since .* whole in {first}"):
    slow.upload()
  write(first, lock="held")
  aside = Bucket(url, first).take_over()
  assert held(aside) == {"metrics.jsonl": "1\nother\n"}
  assert held(first) == {"metrics.jsonl": "1\n2\n", "lock": "held"}


def test_an_upload_that_was_cut_short_is_no_part_of_the_copy(url, machine, monkeypatch):
  first = machine("first")
  bucket = Bucket(url, first)
  bucket.take_over()
  write(first, metrics_jsonl="1\n", checkpoints__hft__3="three")
  bucket.upload()
  (first / "checkpoints/hft/3").unlink()
  write(first, checkpoints__hft__6="six")
  with monkeypatch.context() as patch:
    patch.setattr(Bucket, "_write_index", lambda *_: 1 / 0)
    with pytest.raises(BucketError, match="cannot be written"):
      bucket.upload()
  assert "checkpoints/hft/6" in copy_of(url)
  other = Bucket(url, machine("second"))
  other.take_over()
  assert held(first.with_name("second")) == {"metrics.jsonl": "1\n", "checkpoints/hft/3": "three"}
  write(first.with_name("second"), metrics_jsonl="1\n2\n")
  other.upload()  # and what was left over goes
  assert copy_of(url) == ["checkpoints/hft/3", "copy.json", "metrics.jsonl"]


def test_what_is_of_the_moment_stays_here(url, machine):
  folder = machine("first")
  write(folder, lock="1")
  (folder / "report.json.tmp").write_text("")
  (folder / "9.orbax-checkpoint-tmp").mkdir()
  (folder / "9.orbax-checkpoint-tmp" / "d").write_text("")
  Bucket(url, folder).upload()
  assert copy_of(url) == ["copy.json"]


def test_a_folder_of_other_files_is_not_written_into(url, machine):
  files, root = fsspec.core.url_to_fs(url, **({"auto_mkdir": True} if "file:" in url else {}))
  files.pipe_file(f"{root}/notes.txt", b"mine")
  with pytest.raises(BucketError, match=r"holds files and no run, e\.g\. notes"):
    Bucket(url, machine("first")).take_over()


def test_a_copy_that_was_deleted_starts_over(url, machine):
  folder = machine("first")
  bucket = Bucket(url, folder)
  bucket.take_over()
  write(folder, metrics_jsonl="1\n")
  bucket.upload()
  files, root = fsspec.core.url_to_fs(url)
  files.rm(root, recursive=True)
  assert held(Bucket(url, folder).take_over()) == {"metrics.jsonl": "1\n"}
  assert held(folder) == {}


def test_reading_brings_what_is_wanted_and_follows_changes(url, machine, monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  with pytest.raises(BucketError, match="does not exist"):
    fetched(url)
  files, root = fsspec.core.url_to_fs(url)
  files.pipe_file(f"{root}/config.json", b"{}")
  files.pipe_file(f"{root}/logs/a", b"long")
  folder = fetched(url, lambda name: not name.startswith("logs/"))
  assert folder == folder_for(url, "fetched") and held(folder) == {"config.json": "{}"}
  stamp = os.stat(folder / "config.json").st_mtime_ns
  assert os.stat(fetched(url, lambda name: "logs" not in name) / "config.json").st_mtime_ns == stamp
  files.pipe_file(f"{root}/config.json", b"{ }")
  assert held(fetched(url, lambda name: "logs" not in name)) == {"config.json": "{ }"}
  with pytest.raises(BucketError, match="is a file"):
    fetched(f"{url}/config.json")


@pytest.mark.parametrize(
  "wrong, message",
  [
    ("nonsense://b/run", "cannot be opened: Protocol not known: nonsense"),
    ("s3://no-such-bucket-here/run", "cannot be read: The specified bucket does not exist"),
  ],
)
def test_what_cannot_be_is_explained(wrong, message, tmp_path, s3):
  with pytest.raises(BucketError, match=message):
    Bucket(wrong, tmp_path).take_over()


@pytest.mark.parametrize("wrong", ["s3://", "s3://b/../../etc", "://b/run"])
def test_no_url_leaves_the_cache(wrong):
  with pytest.raises(BucketError, match="names no folder"):
    folder_for(wrong, "runs")


def test_a_missing_package_is_named(tmp_path):
  fsspec.register_implementation("gone", "gone.Files", errtxt="Install gone", clobber=True)
  with pytest.raises(BucketError, match=r"Install gone. pip install 'lhrm_jax\[buckets\]'"):
    Bucket("gone://b/run", tmp_path)


OUTSIDE = (
  "../outside", "a/../../outside", "/etc/outside", "a//b", "./a", "C:\\outside", "..\\outside",
  "C:outside", "a\0b", "a\nb", "\x1b]52;c;aGk=\x07", "a/", "", "lock", "copy.json", "x" * 2000,
)  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_in_a_copy_leaves_the_folder_or_takes_its_own_files(machine, tmp_path, name):
  """Neither one that the index lists nor, where there is no index, a key of the bucket."""
  folder = machine("first")
  write(folder, notes="mine")
  copy = Bucket(f"file://{tmp_path}/bucket/run", folder)
  before = sorted(tmp_path.rglob("*"))
  copy._index_there = lambda _: {"id": "1", "files": ["config.json", name]}
  copy._found = lambda: {"copy.json": 1, "config.json": 1, name: 1}
  for read in (copy.take_over, copy.fetch):
    with pytest.raises(BucketError, match="not the name of a file") as error:
      read()
    assert str(error.value).isprintable()
  copy._index_there = lambda _: None
  if name not in ("a/", ""):  # empty objects that represent folders
    with pytest.raises(BucketError, match="not the name of a file"):
      copy.fetch()
  assert sorted(tmp_path.rglob("*")) == before and held(folder) == {"notes": "mine"}


def test_a_key_with_dots_is_refused_as_a_server_gives_it(machine, s3):
  files, _ = fsspec.core.url_to_fs("s3://runs")
  files.call_s3("put_object", Bucket="runs", Key="dots/../../outside", Body=b"x")
  with pytest.raises(BucketError, match="not the name of a file"):
    Bucket("s3://runs/dots", machine("first")).fetch()


@pytest.mark.parametrize(
  "index",
  [b"5", b"null", b"", b"\xff", b'{"id": "1"', b'{"id": 1, "files": []}', b'{"files": []}',
   b'{"id": "1", "files": "abc"}', b'{"id": "1", "files": [5]}', b"[" * 100_000,
   b'{"id": "1", "files": ["a", "a"]}', b'{"id": "1", "files": {"a": 1}}'],
)  # fmt: skip
def test_a_damaged_index_is_an_error_and_nothing_is_touched(machine, tmp_path, index, monkeypatch):
  folder, url = machine("first"), f"file://{tmp_path}/bucket/run"
  write(folder, notes="mine")
  Bucket(url, machine("other")).upload()
  (tmp_path / "bucket/run/copy.json").write_bytes(index)
  for read in (Bucket(url, folder).take_over, Bucket(url, folder).fetch):
    with pytest.raises(BucketError, match=r"copy\.json is damaged"):
      read()
  assert held(folder) == {"notes": "mine"}
  monkeypatch.setattr("lhrm_jax.storage.bucket._LARGEST_INDEX", 3)
  (tmp_path / "bucket/run/copy.json").write_text('{"id": "1", "files": []}')
  with pytest.raises(BucketError, match="longer than 3 bytes"):
    Bucket(url, folder).fetch()


def test_a_copy_that_lacks_a_file_of_its_index_changes_nothing_here(url, machine):
  first, second = machine("first"), machine("second")
  write(first, metrics_jsonl="1\n", checkpoints__hft__3="three")
  Bucket(url, first).upload()
  files, root = fsspec.core.url_to_fs(url)
  files.rm_file(f"{root}/checkpoints/hft/3")
  write(second, notes="mine")
  with pytest.raises(BucketError, match="lacks checkpoints/hft/3"):
    Bucket(url, second).take_over()
  assert held(second) == {"notes": "mine"}


def test_a_folder_that_was_emptied_during_the_run_does_not_empty_its_copy(url, machine):
  folder = machine("first")
  bucket = Bucket(url, folder)
  bucket.take_over()
  write(folder, metrics_jsonl="1\n", checkpoints__hft__3="three")
  bucket.upload()
  copied = copy_of(url)
  shutil.rmtree(folder)
  for empty in (folder, folder / "checkpoints"):  # what a save would make again
    empty.mkdir()
    with pytest.raises(BucketError, match="was deleted or emptied"):
      bucket.upload()
  assert copy_of(url) == copied


def test_links_and_pipes_are_not_copied(url, machine, tmp_path):
  folder = machine("first")
  (tmp_path / "secret").write_text("secret")
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "elsewhere" / "secret").write_text("secret")
  write(folder, metrics_jsonl="1\n")
  (folder / "config.json").symlink_to(tmp_path / "secret")
  (folder / "rollouts").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
  os.mkfifo(folder / "pipe")
  (folder / "a\\b").write_text("a name that could not be fetched again")
  Bucket(url, folder).upload()
  assert copy_of(url) == ["copy.json", "metrics.jsonl"]


def test_a_link_in_the_folder_here_leads_no_file_out_of_it(machine, tmp_path, monkeypatch):
  url, first, second = f"file://{tmp_path}/bucket/run", machine("first"), machine("second")
  write(first, checkpoints__hft__3="three")
  Bucket(url, first).upload()
  (second / "checkpoints").symlink_to(machine("outside"), target_is_directory=True)
  bucket = Bucket(url, second)
  with monkeypatch.context() as patch:
    patch.setattr(bucket, "_held", lambda: [])  # as if it came after the folder was emptied
    with pytest.raises(BucketError, match="leads out of"):
      bucket.fetch()
  assert not list((tmp_path / "outside").iterdir())
  bucket.fetch()  # the link goes, and what it leads to stays
  assert held(second) == {"checkpoints/hft/3": "three"} and (tmp_path / "outside").is_dir()


def test_a_bracket_in_a_url_is_no_pattern(tmp_path, machine, s3):
  """`run[0]` as a pattern would be `run0`."""
  folders = {name: machine(f"of-{i}") for i, name in enumerate(("run[0]", "run0"))}
  for name, folder in folders.items():
    bucket = Bucket(f"s3://runs/{tmp_path.name}/{name}", folder)
    bucket.take_over()
    write(folder, checkpoints__hft__3=name)
    bucket.upload()
  (folders["run[0]"] / "checkpoints/hft/3").unlink()
  again = Bucket(f"s3://runs/{tmp_path.name}/run[0]", folders["run[0]"])
  again.take_over()
  again.upload()
  assert copy_of(f"s3://runs/{tmp_path.name}/run[0]") == ["copy.json"]
  assert copy_of(f"s3://runs/{tmp_path.name}/run0") == ["checkpoints/hft/3", "copy.json"]

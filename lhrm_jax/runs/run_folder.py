"""The folder of a run (`--workdir`): its lock, its config, and the checkpoint it resumes from.

config.json versions.json policy/    the resolved config, the versions, the policy's static part
config.py                            a copy of the config file that was named
checkpoints/STAGE/STEP/              see lhrm_jax.runs.checkpoints
metrics.jsonl tensorboard/ rollouts/ logs, truncated to the checkpoint that a run resumes from
evaluation/STAGE.json report/        results
dumps/                               non-finite updates, for experiments.replay
lock                                 held while a job works in the folder

A `--workdir` in a bucket is a copy of such a folder: see lhrm_jax.storage.bucket. Several processes
share no disk then: their checkpoints are in the bucket alone (lhrm_jax.runs.bucket_checkpoints),
the first one's folder is copied there, and the others start from that copy.
"""

import contextlib
import fcntl
import os
import pathlib
import platform
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

import jax
from ml_collections import ConfigDict

from lhrm_jax import parallel
from lhrm_jax.errors import UserError
from lhrm_jax.policy import hub_commit
from lhrm_jax.runs import command_line, committed, loading, log_files, resuming, setup
from lhrm_jax.runs.bucket_checkpoints import BucketCheckpoints
from lhrm_jax.runs.checkpoints import CheckpointError, Checkpoints, Saved
from lhrm_jax.runs.config import Config, from_config_dict, plain
from lhrm_jax.runs.json_files import read_json, write_json
from lhrm_jax.runs.metric_writer import damaged_lines
from lhrm_jax.runs.saved_arrays import save_base
from lhrm_jax.runs.versions import current_versions
from lhrm_jax.storage import bucket, urls
from lhrm_jax.storage.bucket import Bucket
from lhrm_jax.storage.folder import Folder
from lhrm_jax.storage.sharded_arrays import retried
from lhrm_jax.storage.urls import BucketError
from lhrm_jax.text.characters import printable

# Files that a run writes at the top of its folder, and folders that it writes into.
_FILES = ("config.json", "config.py", "copy.json", "lock", "metrics.jsonl", "versions.json")
_FOLDERS = ("evaluation", "policy", "report", "rollouts", "tensorboard")
RESERVED = (*_FOLDERS, "checkpoints", "dumps", "profile")
_OF_OTHERS, _WEIGHTS = ("config.json", "config.py", "tokenizer.json"), (".safetensors", ".gguf")


class RunFolder:
  """A run folder, locked and checked on entry as a context manager, before anything is computed.

  Attributes:
    path: path of the folder on this machine.
    shared: whether all processes have the same folder.
    checkpoints: checkpoints of each stage.
    saved: the whole checkpoint that each stage resumes from, `None` without one.
    began: start of the job by `time.perf_counter`, until its first stage has taken it.
  """

  def __init__(
    self, workdir: str, config: ConfigDict | Config, stages: Sequence[str], parts: str = ""
  ):
    """Args:
    workdir: a folder that all processes share, or the URL of one in a bucket; created if missing.
    config: config of the run.
    stages: training stages in order; empty for a job that never resumes, such as an evaluation.
    parts: pattern of the files that a job without stages adds to; it resumes if there are any.
    """
    self.began: float | None = time.perf_counter()
    self.path, self._workdir, self.shared = pathlib.Path(workdir), workdir, True
    self._straight = False  # whether checkpoints are saved straight into the bucket
    self._bucket: Bucket | None = None
    self._config, self._stages, self._parts = config, stages, parts
    self._locks: list[IO[str] | int] = []  # on the file "lock", and on the folder
    self._changed: dict[str, Any] = {}  # config keys that a resumed run changes
    self.checkpoints: dict[str, Checkpoints] = {}
    self.saved: dict[str, Saved | None] = {}

  def __enter__(self) -> "RunFolder":
    """Raises:
    UserError: the config is wrong, or the folder cannot be written, is in use, or holds a run with
      another config.
    """
    self._config = from_config_dict(self._config)
    try:
      if urls.is_url(self._workdir):
        self._open_bucket()
      else:
        self.path = _absolute(self._workdir)
      if parallel.is_writer():
        self._claim()
      c = self._config.checkpoint
      for stage in self._stages:
        folder = self.path / "checkpoints" / stage
        options = {"every": c.every, "keep": c.keep, "best": c.best}
        if self._straight:
          url = f"{self._saved}/{stage}"
          self.checkpoints[stage] = BucketCheckpoints(url, before_commit=self._copy_logs, **options)
        else:
          self.checkpoints[stage] = Checkpoints(folder, after_save=self._copy_or_say_why, **options)
        self.saved[stage] = self.checkpoints[stage].newest()
      for saved in filter(None, self.saved.values()):
        resuming.check_record(saved)
      resuming.check_effect(self._changed, self.saved, self._config)
      if parallel.is_writer():
        if self.newest:
          self._cut_logs(self.newest)
        elif not self._has_parts and (
          aside := log_files.set_aside(self.path, evaluations=bool(self._stages))
        ):
          print(f"{self.path} has no checkpoint to resume from; its logs are now in {aside.name}.")
      if self._bucket and parallel.is_writer():
        self._bucket.upload()  # a bucket that cannot be written fails before anything is computed
      if not self.shared:
        parallel.wait_for_all("copy of the run folder")
        if not parallel.is_writer():
          Bucket(self._workdir, self.path).fetch(may_be_empty=True)
    except BucketError as error:
      self._release()
      raise UserError(f"--workdir: {error}") from error
    except OSError as error:
      self._release()
      raise UserError(f"--workdir={self.path} cannot be written: {error}.") from error
    except (CheckpointError, UserError):
      self._release()
      raise
    if self.newest:
      stage = self.newest.path.parent.name
      if parallel.is_writer():
        print(f"Resuming in {self.path}: {stage} step {self.newest.step}", flush=True)
    parallel.wait_for_all("run folder")  # no process reads the logs before they are truncated
    return self

  def __exit__(self, error_type, error, _) -> None:
    if isinstance(error, CheckpointError | OSError):
      self.check_there(error)
    try:
      for checkpoints in self.checkpoints.values():
        checkpoints.close()
      if self._bucket and parallel.is_writer() and error_type is None:
        self._bucket.upload()
    except BucketError as error:
      raise UserError(
        f"{error} The run is whole in {self.path}; run the same command to copy it."
      ) from error
    finally:
      if error_type is not None:
        self._copy_or_say_why()
      self._release()

  @property
  def newest(self) -> Saved | None:
    """The checkpoint to resume from: the newest of the last stage that has one."""
    return next((self.saved[s] for s in reversed(self._stages) if self.saved[s]), None)

  @property
  def policy(self) -> pathlib.Path:
    """The folder of the policy's config and tokenizer."""
    return self.path / "policy"

  def describe(self, run: setup.Setup) -> None:
    """Writes config, versions, policy config and tokenizer, and the commit of a hub id.

    With adapters, also the policy that they belong to.

    Raises:
      UserError: the folder cannot be written.
    """
    if self._stages and run.params is not None and run.policy_config.lora_rank:
      save_base(self.path, run.params, self._saved if self._straight else "")
    if not parallel.is_writer():
      return
    versions = current_versions()
    try:
      for name in ("policy", "rollouts", "evaluation"):
        (self.path / name).mkdir(exist_ok=True)
      write_json(self.policy / "config.json", run.policy_config.to_dict())
      run.tokenizer.save(self.policy)
      if run.params is not None and (commit := hub_commit(run.config.init_from)):
        base = {"init_from": run.config.init_from, "commit": commit}
        write_json(self.policy / "base_model.json", base)
      write_json(self.path / "versions.json", versions)
      write_json(self.path / "config.json", plain(run.config))
      if source := command_line.config_file():
        (self.path / "config.py").write_bytes(source.read_bytes())
    except OSError as error:
      raise UserError(f"--workdir={self.path} cannot be written: {error}.") from error

  def check_there(self, cause: BaseException | None = None) -> None:
    """Checks that the folder still exists.

    Raises:
      UserError: it was deleted or moved since the run began.
    """
    marks = ("config.json", "lock")
    if self._locks and not any((self.path / name).exists() for name in marks):
      raise UserError(
        f"--workdir={self.path} was deleted or moved while the run wrote into it, and its files "
        "are gone. Start again in a folder that stays."
      ) from cause

  def _cut_logs(self, newest: Saved) -> None:
    """Truncates the logs to a checkpoint. Damaged logs are reported and never block a resume."""
    if shorter := log_files.cut(self.path, newest.record["logs"]):
      names = printable(", ".join(shorter), 300)
      warn(f"{names} in {self.path}: shorter than when step {newest.step} was saved, or missing.")
    if damaged := damaged_lines(self.path):
      warn(f"{self.path / 'metrics.jsonl'}: {damaged} damaged lines are left out of the report.")

  def _open_bucket(self) -> None:
    self.shared = jax.process_count() == 1
    use = "runs" if parallel.is_writer() else f"runs-{jax.process_index()}"
    self.path = bucket.folder_for(self._workdir, use)
    self._bucket = Bucket(self._workdir, self.path)
    self._straight = not self.shared or self._bucket.has_saved()
    if parallel.is_writer():
      what = "logs are copied" if self._straight else "is copied"
      print(f"{self.path}: {what} to {self._workdir} with every checkpoint.", flush=True)

  def _copy_or_say_why(self) -> None:
    """Uploads to the bucket, if any; a bucket out of reach is a warning, not the end of the run."""
    if self._bucket and parallel.is_writer():
      try:
        self._bucket.upload()
      except BucketError as error:
        warn(str(error))

  def _copy_logs(self) -> None:
    """Uploads what a checkpoint in the bucket belongs to; without it, the step is not whole."""
    retried(self._bucket.upload)

  def _claim(self) -> None:
    if not self._bucket:
      _check_new(self.path, self._config.init_from)
    self.path.mkdir(parents=True, exist_ok=True)
    _check_files(self.path)
    self._lock_folder()
    if self._bucket and (aside := self._bucket.take_over()):
      print(f"{self._workdir} holds another run than this machine's copy, which is now in {aside}.")
    (self.path / "checkpoints").mkdir(exist_ok=True)
    held = any((self.path / "checkpoints").glob("*/*"))
    if held and self._straight:
      raise UserError(
        f"--workdir={self._workdir} holds the checkpoints of one process, which several cannot "
        "resume: run one, or start another run from it (init_from)."
      )
    if self._has_parts or held or (self._straight and (self.path / "config.json").exists()):
      self._check_config()

  def _lock_folder(self) -> None:
    """Locks the folder. The system releases the locks however the process ends."""
    self._locks = [(self.path / "lock").open("a+", encoding="utf-8")]
    try:
      fcntl.flock(self._locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
      # The folder too: removing the lock file must not let a second job in.
      self._locks.append(os.open(self.path, os.O_RDONLY))
      try:
        fcntl.flock(self._locks[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise
      except OSError:  # a network file system may lock files only
        pass
    except BlockingIOError as error:
      self._locks[0].seek(0)
      holder = printable(self._locks[0].read(200).strip()) or "another process"
      raise UserError(
        f"--workdir={self.path} is in use by {holder}. Wait for it, stop it, or choose another "
        "folder."
      ) from error
    self._locks[0].truncate(0)
    self._locks[0].write(f"process {os.getpid()} on {platform.node()}")
    self._locks[0].flush()

  @property
  def _saved(self) -> str:
    """URL of the checkpoints in the bucket."""
    return f"{self._workdir.rstrip('/')}/{bucket.SAVED}"

  @property
  def _has_parts(self) -> bool:
    return bool(self._parts) and any(self.path.glob(self._parts))

  def _check_config(self) -> None:
    trained = {path.parent.name for path in (self.path / "checkpoints").glob("*/*")}
    if self._straight:
      there = retried(Folder(self._saved).names)
      trained |= {name.partition("/")[0] for name in there}
    trained.discard(committed.BASE.parts[0])
    if trained - set(self._stages):  # its logs would be cut to what another stage knows of
      raise UserError(
        f"--workdir={self.path} holds a training run ({', '.join(sorted(trained))}). Choose "
        "another folder."
      )
    path = self.path / "config.json"
    if not path.exists():
      raise UserError(
        f"--workdir={self.path} holds checkpoints without a config.json. Choose another folder."
      )
    try:
      before = read_json(path)
      if not isinstance(before, Mapping):
        raise ValueError(f"{path} is damaged: it is not a config")
    except ValueError as error:
      raise UserError(f"{error}. Each checkpoint beside it has a copy of the config.") from error
    self._changed = resuming.allowed_changes(before, self._config, str(self.path))

  def _release(self) -> None:
    for lock in self._locks:
      os.close(lock) if isinstance(lock, int) else lock.close()
    self._locks = []


def _absolute(workdir: str) -> pathlib.Path:
  """Returns the absolute path of a folder.

  Raises:
    UserError: the name is empty, or its `~user` does not exist.
  """
  if not workdir.strip():
    raise UserError("--workdir is empty: name a folder, such as runs/NAME.")
  try:
    return pathlib.Path(workdir).expanduser().absolute()
  except RuntimeError as error:
    raise UserError(f"--workdir={workdir}: {error}.") from error


def warn(message: str) -> None:
  """Prints a warning on the standard error."""
  print(f"warning: {message}", file=sys.stderr, flush=True)


def _check_new(path: pathlib.Path, init_from: str) -> None:
  """Checks that a run in this folder would not hide or overwrite other files.

  Raises:
    UserError: it holds a model or other files of the same names, or its path is a model's hub id.
  """
  model = pathlib.Path(init_from).expanduser().absolute()
  named = init_from and not urls.is_url(init_from) and not model.exists()
  if named and model in (path, *path.parents):
    raise UserError(
      f"--workdir={path} would from then on be taken for the model init_from={init_from!r}. "
      "Choose another folder."
    )
  if not path.is_dir() or loading.is_run(path) or (path / "checkpoints").is_dir():
    return
  theirs = [p.name for p in path.iterdir() if p.name in _OF_OTHERS or p.suffix in _WEIGHTS]
  if theirs:
    raise UserError(
      f"--workdir={path} holds {printable(min(theirs), 100)}, which no run wrote: a run there "
      "would hide a model or overwrite files. Choose another folder."
    )


def _check_files(path: pathlib.Path) -> None:
  """Checks that the paths a run writes are plain files and folders.

  Raises:
    UserError: one of them is a link, a pipe or a device.
  """
  expected = [(path / name, stat.S_ISREG) for name in _FILES]
  for folder in _FOLDERS:
    expected.append((path / folder, stat.S_ISDIR))
    for at, folders, files in os.walk(path / folder):
      expected += [(pathlib.Path(at, name), stat.S_ISDIR) for name in folders]
      expected += [(pathlib.Path(at, name), stat.S_ISREG) for name in files]
  for entry, holds in expected:
    with contextlib.suppress(FileNotFoundError):
      if not holds(entry.lstat().st_mode):
        raise UserError(
          f"{printable(str(entry))} is a link, a pipe or a device, where the run writes its own "
          "files. Remove it, or choose another --workdir."
        )

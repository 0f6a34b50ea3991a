"""The folder of a run (`--workdir`): whose it is, which config it is of, and where it goes on.

config.json versions.json policy/    what was run, and with what
config.py                            the config file that was named, as it was then
checkpoints/STAGE/STEP/              see lhrm_jax.training.checkpoints
metrics.jsonl tensorboard/ rollouts/ logs, cut back to the checkpoint a run goes on from
evaluation/STAGE.json report/        results
dumps/                               updates that were not finite, for experiments.replay
lock                                 held while a job works in the folder

A `--workdir` in a bucket is a copy of such a folder: see lhrm_jax.training.bucket.
"""

import fcntl
import json
import os
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

import jax
from ml_collections import ConfigDict

from experiments import command_line, setup, validation
from experiments.command_line import UserError
from lhrm_jax import parallel
from lhrm_jax.data import urls
from lhrm_jax.data.urls import BucketError
from lhrm_jax.policy import hub_commit
from lhrm_jax.training import bucket, log_files
from lhrm_jax.training.bucket import Bucket
from lhrm_jax.training.checkpoints import Checkpoints, Saved

# What may differ when a run goes on: it changes where and how fast, and no result.
FREE = ("allow_config_change", "checkpoint", "compilation_cache", "gates", "hgpo.reward_workers",
        "hgpo.sampling_chunks", "judging", "mesh", "profile_steps", "sampling_mesh")  # fmt: skip
_SHOWN = 20


class RunFolder:
  """Use as a context manager; entering refuses what cannot work, before anything is computed.

  Attributes:
    path: of the folder on this machine.
    checkpoints: by stage.
    saved: by stage, the whole checkpoint to go on from.
  """

  def __init__(self, workdir: str, config: ConfigDict, stages: Sequence[str]):
    """Args:
    workdir: a folder or, on one host, the URL of one in a bucket; created where missing.
    config: the run's.
    stages: of training, in order; none for a job that starts anew each time, such as evaluation.
    """
    self.path, self._workdir = pathlib.Path(workdir), workdir
    self._bucket: Bucket | None = None
    self._config, self._stages = config, stages
    self._lock: IO[str] | None = None
    self.checkpoints: dict[str, Checkpoints] = {}
    self.saved: dict[str, Saved | None] = {}

  def __enter__(self) -> "RunFolder":
    """Raises:
    UserError: the config cannot be, or the folder cannot be written, is in use, or holds a run of
      another config.
    """
    validation.check(self._config)
    try:
      if urls.is_url(self._workdir):
        self._open_bucket()
      if jax.process_index() == 0:
        self._claim()
      c = self._config.checkpoint
      for stage in self._stages:
        folder = self.path / "checkpoints" / stage
        self.checkpoints[stage] = Checkpoints(
          folder, every=c.every, keep=c.keep, best=c.best, after_save=self._copy_or_say_why
        )
        self.saved[stage] = self.checkpoints[stage].newest()
      if jax.process_index() == 0:
        if self.newest:
          log_files.cut(self.path, self.newest.record["logs"])
        elif aside := log_files.set_aside(self.path):
          print(f"{self.path} holds no checkpoint to go on from; its logs are now in {aside.name}.")
      if self._bucket:
        self._bucket.upload()  # what cannot be written is found before anything is computed
    except BucketError as error:
      self._release()
      raise UserError(f"--workdir: {error}") from error
    except OSError as error:
      self._release()
      raise UserError(f"--workdir={self.path} cannot be written: {error}.") from error
    except UserError:
      self._release()
      raise
    if self.newest:
      stage = self.newest.path.parent.name
      if parallel.is_writer():
        print(f"Going on in {self.path}: {stage} step {self.newest.step}", flush=True)
    parallel.wait_for_all("run folder")  # the logs are cut before any process reads them
    return self

  def __exit__(self, error_type, *_) -> None:
    try:
      for checkpoints in self.checkpoints.values():
        checkpoints.close()
      if self._bucket and error_type is None:
        self._bucket.upload()
    except BucketError as error:
      raise UserError(
        f"{error} The run is whole in {self.path}; the same command copies it."
      ) from error
    finally:
      if error_type is not None:
        self._copy_or_say_why()
      self._release()

  @property
  def newest(self) -> Saved | None:
    """Where the run goes on: the newest checkpoint of the last stage that has one."""
    return next((self.saved[s] for s in reversed(self._stages) if self.saved[s]), None)

  @property
  def policy(self) -> pathlib.Path:
    """The policy's config and tokenizer."""
    return self.path / "policy"

  def describe(self, run: setup.Setup) -> None:
    """Writes config, versions, policy config and tokenizer, and which commit a hub id stood for.

    Raises:
      UserError: the folder cannot be written.
    """
    if jax.process_index():
      return
    try:
      for name in ("policy", "rollouts", "evaluation"):
        (self.path / name).mkdir(exist_ok=True)
      setup.write_json(self.policy / "config.json", run.policy_config.to_dict())
      run.tokenizer.save(self.policy)
      if run.params is not None and (commit := hub_commit(run.config.init_from)):
        base = {"init_from": run.config.init_from, "commit": commit}
        setup.write_json(self.policy / "base_model.json", base)
      setup.write_json(self.path / "versions.json", setup.versions())
      setup.write_json(self.path / "config.json", setup.plain(run.config))
      if source := command_line.config_file():
        (self.path / "config.py").write_bytes(source.read_bytes())
    except OSError as error:
      raise UserError(f"--workdir={self.path} cannot be written: {error}.") from error

  def _open_bucket(self) -> None:
    if jax.process_count() > 1:
      raise UserError(
        f"--workdir={self._workdir} is a URL, and several processes need one folder: mount the "
        "bucket or a shared file system on every host and name the folder there "
        "(docs/launching.md)."
      )
    self.path = bucket.folder_for(self._workdir, "runs")
    self._bucket = Bucket(self._workdir, self.path)
    print(f"{self._workdir} is a copy of {self.path}, made after every checkpoint.", flush=True)

  def _copy_or_say_why(self) -> None:
    """A bucket that is out of reach for a while does not end the run."""
    if self._bucket:
      try:
        self._bucket.upload()
      except BucketError as error:
        print(f"warning: {error}", file=sys.stderr, flush=True)

  def _claim(self) -> None:
    self.path.mkdir(parents=True, exist_ok=True)
    self._lock = (self.path / "lock").open("a+", encoding="utf-8")
    try:
      # The system lets go of it when the process ends, however it ends.
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      self._lock.seek(0)
      holder = self._lock.read().strip() or "another process"
      raise UserError(
        f"--workdir={self.path} is in use by {holder}. Wait for it, end it, or choose another "
        "folder."
      ) from error
    self._lock.truncate(0)
    self._lock.write(f"process {os.getpid()} on {platform.node()}")
    self._lock.flush()
    if self._bucket and (aside := self._bucket.take_over()):
      print(f"{self._workdir} is another run than this machine knew; that is now in {aside}.")
    (self.path / "checkpoints").mkdir(exist_ok=True)
    if any((self.path / "checkpoints").glob("*/*")):
      self._check_config()

  def _check_config(self) -> None:
    if not self._stages:
      raise UserError(f"--workdir={self.path} holds a training run. Choose another folder.")
    path = self.path / "config.json"
    if not path.exists():
      raise UserError(
        f"--workdir={self.path} holds checkpoints without a config.json. Choose another folder."
      )
    try:
      before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
      raise UserError(
        f"{path} is damaged: {error}. The checkpoints beside it each hold their config."
      ) from error
    allowed = [*FREE, *filter(None, self._config.allow_config_change.replace(" ", "").split(","))]
    changed = {
      key: values
      for key, values in difference(before, setup.plain(self._config)).items()
      if not any(key == name or key.startswith(f"{name}.") for name in allowed)
    }
    if not changed:
      return
    lines = [f"  {key}: {old!r} -> {new!r}" for key, (old, new) in list(changed.items())[:_SHOWN]]
    more = [f"  and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
    raise UserError(
      "\n".join([
        f"--workdir={self.path} holds a run of another config:", *lines, *more,
        "Take another folder, or go on with the new values, if you know that they may differ:",
        f"  --config.allow_config_change={','.join(changed)}",
      ])
    )  # fmt: skip

  def _release(self) -> None:
    if self._lock is not None:
      self._lock.close()
      self._lock = None


def difference(
  before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
  """Dotted keys whose values differ, with both values; `None` where a side lacks the key."""
  found: dict[str, tuple[Any, Any]] = {}
  for key in sorted({*before, *now}):
    old, new = before.get(key), now.get(key)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
      found |= difference(old, new, f"{prefix}{key}.")
    elif old != new and (old is not None or new != {}):  # what names may be put into came later
      found[f"{prefix}{key}"] = (old, new)
  return found

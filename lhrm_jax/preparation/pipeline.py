"""The steps of a preparation as datatrove's executors run them, each after the one before."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dill
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
  ExactDedupFilter,
  ExactDedupSignature,
  ExactFindDedups,
  MinhashDedupBuckets,
  MinhashDedupCluster,
  MinhashDedupFilter,
)
from datatrove.utils.stats import PipelineStats
from loguru import logger

from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.prepare_config import PrepareConfig
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.data.shards import INDEX
from lhrm_jax.errors import UserError
from lhrm_jax.preparation import reading
from lhrm_jax.preparation.card import WriteIndex
from lhrm_jax.preparation.chat_filter import ChatFilter, FitChatFilter
from lhrm_jax.preparation.contamination import Decontaminate
from lhrm_jax.preparation.duplicates import (
  BUCKETS,
  QuestionSignature,
  exact_config,
  minhash_config,
)
from lhrm_jax.preparation.rows import Removal, Rows
from lhrm_jax.preparation.shard_writing import Limits, Tokenise, WriteShards
from lhrm_jax.preparation.verifying import VerifyAnswers
from lhrm_jax.storage.folder import Folder
from lhrm_jax.text import tags

CHAT, WRONG, EXACT, NEAR, EVALUATED, LONG = REMOVING = (
  "chat", "answers", "exact_duplicates", "near_duplicates", "evaluation", "length",
)  # fmt: skip
_CONFIG = "config.json"
_SUBMITTED = "submitted.json"
_NEAR_FOUND = "near/clusters"  # near duplicates, below the work folder
_RUNNING = ("workers", "executor", "executor_options")  # change nothing in what is written


@dataclasses.dataclass(frozen=True)
class Stage:
  """Steps that one executor runs.

  Attributes:
    name: of its folder of logs and of its job.
    pipeline: datatrove's blocks.
    tasks: number of tasks.
  """

  name: str
  pipeline: Sequence[PipelineStep]
  tasks: int


def stages(
  data: DataConfig, c: PrepareConfig, *, seed: int, work: str, out: str, tokenizer: str,
  evaluated: Mapping[str, Sequence[PromptRow]],
) -> list[Stage]:  # fmt: skip
  """The stages of a preparation, in order.

  Args:
    data: sources, weights and limits on tokens.
    c: of the steps.
    seed: of the order of the rows.
    work: folder of what lies between the steps.
    out: folder of the prepared data.
    tokenizer: model whose tokenizer encodes the rows.
    evaluated: rows of the evaluations, whose questions are removed, by name.

  Raises:
    ValueError: a source does not exist or is malformed, or a setting names one that is not read.
  """
  units, chat = reading.units(data), [n for part in c.chat.split(",") if (n := part.strip())]
  for key, named in (
    ("data.weights", data.weights), ("prepare.chat", chat), ("prepare.most_rows", c.most_rows),
  ):  # fmt: skip
    if unknown := sorted(set(named) - {unit.source for unit in units}):
      raise ValueError(f"{key} names {unknown[0]!r}, which is not among the sources that are read.")
  if few := sorted(name for name, most in c.most_rows.items() if most < 1):
    raise ValueError(f"prepare.most_rows leaves no row of {few[0]}: leave it out of the sources.")
  direct, thinking = (
    data.max_prompt_tokens + longest
    for longest in (data.max_no_think_tokens, data.max_response_tokens)
  )
  limits = Limits(
    data.max_prompt_tokens,
    {tags.MODES[tags.NO_THINK]: direct, tags.MODES[tags.THINK]: thinking},
  )
  filters: list[PipelineStep] = []
  if chat:
    filters.append(ChatFilter(work, chat, c.chat_threshold, CHAT))
  if c.verify:
    filters.append(VerifyAnswers(work, WRONG))
  rows = [row for found in evaluated.values() for row in found]
  decontaminated = [Decontaminate(work, rows, EVALUATED)] if rows else []
  fit = [Stage("fit", [FitChatFilter(work, chat, c.chat_examples, c.chat_threshold)], 1)]
  return [
    Stage("read", [reading.ReadSources(work, units, c.part_rows)], c.tasks),
    Stage("sources", [reading.CheckSources(work)], 1),
    *(fit if chat else []),
    *_deduplication(c, work, filters),
    Stage(
      "tokenise",
      [
        Rows(work, (CHAT, WRONG, EXACT)),
        MinhashDedupFilter(f"{work}/{_NEAR_FOUND}", Removal(work, NEAR, "near duplicate")),
        *decontaminated,
        Tokenise(work, tokenizer, limits, seed, LONG),
      ],
      c.tasks,
    ),
    Stage("shards", [WriteShards(work, out, c.shard_rows, c.most_rows, data.weights)], c.tasks),
    Stage("index", [WriteIndex(work, out, tokenizer, sorted(evaluated), REMOVING)], 1),
  ]


def _deduplication(c: PrepareConfig, work: str, filters: Sequence[PipelineStep]) -> list[Stage]:
  """Applies the filters, removes exact duplicates and finds near ones, in `_NEAR_FOUND`."""
  exact, near = f"{work}/exact", f"{work}/near"
  return [
    Stage(
      "filter",
      [Rows(work, ()), *filters, ExactDedupSignature(f"{exact}/signatures", exact_config())],
      c.tasks,
    ),
    Stage(
      "exact",
      [
        ExactFindDedups(
          f"{exact}/signatures", f"{exact}/found", exact_config(), lines_to_buffer=4096
        )
      ],
      1,
    ),
    Stage(
      "signatures",
      [
        Rows(work, (CHAT, WRONG)),
        ExactDedupFilter(f"{exact}/found", exact_config(), Removal(work, EXACT, "exact duplicate")),
        QuestionSignature(f"{near}/signatures"),
      ],
      c.tasks,
    ),
    Stage(
      "buckets",
      [
        MinhashDedupBuckets(
          f"{near}/signatures", f"{near}/buckets", config=minhash_config(), lines_to_buffer=4096
        )
      ],
      BUCKETS,
    ),
    Stage(
      "clusters",
      [
        MinhashDedupCluster(
          f"{near}/buckets", f"{work}/{_NEAR_FOUND}", config=minhash_config(), lines_to_buffer=4096
        )
      ],
      1,
    ),
  ]


def run(found: Sequence[Stage], c: PrepareConfig, work: str) -> list[str]:
  """Runs the stages that are not done yet, tasks that are done left out.

  With SLURM they are submitted, each to start after the one before.

  Returns:
    Ids of the submitted jobs; none where all is done.

  Raises:
    UserError: the executor's options are wrong, or its package or command is not installed; a task
      failed; or jobs that were submitted before are not done.
  """
  make = _executor(c)
  _check_queue(work)
  if c.executor == "slurm":
    return _submit(found, make, work)
  for number, stage in enumerate(found, start=1):
    print(f"{number}/{len(found)} {stage.name}: {stage.tasks} tasks", flush=True)
    logs = f"{work}/logs/{stage.name}"
    executor = make(stage, logs, None)
    executor.run()
    # Ray's executor only logs that tasks failed, and another one that depends on it would wait.
    if left := executor.get_incomplete_ranks(skip_completed=True):
      raise UserError(
        f"{len(left)} of {stage.tasks} tasks of {stage.name} did not end; {logs}/logs says why. "
        "The same command continues with them."
      )
  return []


def _submit(found: Sequence[Stage], make: Callable[..., Any], work: str) -> list[str]:
  folder, last, executors = Folder(work), None, []
  for stage in found:
    last = make(stage, f"{work}/logs/{stage.name}", last)
    executors.append(last)
  if shutil.which("sbatch") is None:
    raise UserError("prepare.executor='slurm' needs sbatch: run the command on a login node.")
  try:
    last.launch_job()  # and those that it depends on first
  except subprocess.CalledProcessError as error:
    raise UserError(
      f"sbatch ended with status {error.returncode}; it says why above. Correct "
      "prepare.executor_options."
    ) from error
  finally:
    jobs = [executor.job_id for executor in executors if executor.job_id not in (None, -1)]
    folder.write(_SUBMITTED, json.dumps(jobs).encode())
  return jobs


def _check_queue(work: str) -> None:
  """Raises:
  UserError: jobs that were submitted before may still write what the next would.
  """
  folder = Folder(work)
  jobs = json.loads(folder.read(_SUBMITTED)) if folder.has(_SUBMITTED) else []
  if left := [job for job in jobs if _in_queue(job)]:
    raise UserError(
      f"Jobs of this preparation are in SLURM's queue: {', '.join(left)}. Wait for them, or "
      f"scancel them and run the same command again. (Where none is, remove {work}/{_SUBMITTED}.)"
    )


def _in_queue(job: str) -> bool:
  """Whether SLURM may still run the job: it forgets one some minutes after its end."""
  try:
    asked = subprocess.run(
      ["squeue", "--noheader", "--jobs", job], capture_output=True, text=True, check=False
    )
  except OSError:
    return True
  if asked.returncode:
    return "invalid job id" not in asked.stderr.lower()
  return bool(asked.stdout.strip())


class _Local(LocalPipelineExecutor):
  """Runs tasks on this machine; on the terminal they report errors only, and all in their logs."""

  def run(self) -> PipelineStats | None:
    """Runs the tasks that are left.

    Raises:
      UserError: the system killed a worker, whose task datatrove's own pool would wait for forever.
    """
    logger.disable("datatrove.executor.local")
    left = self.get_incomplete_ranks(range(self.tasks))
    if self.workers == 1 or not left:
      return super().run()
    self._launched = True
    self.save_executor_as_json()
    context, task = multiprocessing.get_context(self.start_method), dill.dumps(self)
    try:
      with concurrent.futures.ProcessPoolExecutor(self.workers, context) as pool:
        return sum(pool.map(functools.partial(_run_task, task), left), start=PipelineStats())
    except concurrent.futures.process.BrokenProcessPool as error:
      raise UserError(
        "A worker of the preparation was killed, most likely for the memory it took. Lower "
        "prepare.workers and run the same command again: what is done is kept. A lower "
        "prepare.part_rows takes less too, and begins anew, in another --out."
      ) from error

  def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
    logger.disable("datatrove.executor.local")  # in a process of its own, too
    return super()._run_for_rank(rank, local_rank=1, node_rank=node_rank)


def _run_task(executor: bytes, rank: int) -> PipelineStats:
  return dill.loads(executor)._run_for_rank(rank)


def _executor(c: PrepareConfig) -> Callable[[Stage, str, Any], Any]:
  options = dict(c.executor_options)

  def local(stage: Stage, logs: str, before: Any) -> Any:
    workers = min(c.workers, stage.tasks)
    return _Local(list(stage.pipeline), stage.tasks, workers, logging_dir=logs, **options)

  def slurm(stage: Stage, logs: str, before: Any) -> Any:
    from datatrove.executor import SlurmPipelineExecutor

    activate = pathlib.Path(sys.prefix, "bin", "activate")
    if activate.exists() and not {"env_command", "condaenv", "venv_path"} & options.keys():
      options["venv_path"] = str(activate)  # a job has this environment, whatever it was started in
    # By default, what depends on a job that failed waits forever.
    options["sbatch_args"] = {"kill-on-invalid-dep": "yes", **options.get("sbatch_args", {})}
    return SlurmPipelineExecutor(
      pipeline=list(stage.pipeline), tasks=stage.tasks, workers=c.workers, logging_dir=logs,
      job_name=f"prepare-{stage.name}", depends=before, **options,
    )  # fmt: skip

  def ray(stage: Stage, logs: str, before: Any) -> Any:
    from datatrove.executor import RayPipelineExecutor

    return RayPipelineExecutor(
      list(stage.pipeline), tasks=stage.tasks, workers=c.workers, logging_dir=logs, **options
    )  # fmt: skip

  makers = {"local": local, "slurm": slurm, "ray": ray}

  def make(stage: Stage, logs: str, before: Any) -> Any:
    try:
      return makers[c.executor](stage, logs, before)
    except (ImportError, TypeError) as error:
      raise UserError(f"prepare.executor={c.executor!r}: {error}.") from error

  return make


def check_config(work: Folder, out: Folder, settings: Mapping[str, Any]) -> None:
  """Records the settings of a preparation; refuses to continue one with others.

  Raises:
    UserError: the folder holds a preparation with other settings, or prepared data whose work
      folder is gone.
  """
  if out.has(INDEX) and not work.has(_CONFIG):
    raise UserError(
      f"{out.root} holds prepared data, and {work.root} not the work that it came from: writing "
      "there would mix the two. Choose another --out, or remove it."
    )
  held = {key: value for key, value in settings.items() if key not in _RUNNING}
  content = json.dumps(held, indent=1, sort_keys=True, default=dict).encode()
  if work.has(_CONFIG) and work.read(_CONFIG) != content:
    before = json.loads(work.read(_CONFIG))
    now = json.loads(content)
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    raise UserError(
      f"{work.root} holds a preparation with other settings of {', '.join(changed)}. Choose "
      "another --out, or remove it."
    )
  work.write(_CONFIG, content)


def fingerprint_of(evaluated: Mapping[str, Sequence[PromptRow]]) -> str:
  """SHA-256 of evaluation rows, by which a change of them is noticed."""
  held = {name: [row.prompt for row in rows] for name, rows in evaluated.items()}
  return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()

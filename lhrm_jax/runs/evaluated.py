"""What a config evaluates on and what judges the replies: suites, or the task's own prompts."""

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.sharding import Mesh

from lhrm_jax import parallel, rewards
from lhrm_jax.data import limits, tasks
from lhrm_jax.data.fields import Fields
from lhrm_jax.data.row_task import RowTask
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.evaluation import Evaluator, judge, suites
from lhrm_jax.evaluation.config import EvaluationConfig, judged
from lhrm_jax.evaluation.suites import arena_hard, livecodebench
from lhrm_jax.evaluation.suites.suite import SuiteRow
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.rewards import RewardFn
from lhrm_jax.rewards import model as reward_model
from lhrm_jax.runs.config import Config

if TYPE_CHECKING:
  from lhrm_jax.runs.setup import Setup

_CODE = "code"
_SEED = 3  # of the choice among a suite's rows


def suite_rows(c: EvaluationConfig) -> list[SuiteRow]:
  """The rows of the suites that a config names, at most `c.prompts` of each, in their order.

  Raises:
    UserError: a suite cannot be read, or none of its rows is wanted.
  """
  rows: list[SuiteRow] = []
  for name, found in _by_suite(c, c.suites, "evaluation.suites"):
    if suites.REGISTRY.get(name).scorer == _CODE:
      found = _judgeable(name, found)
    chosen = np.random.default_rng(_SEED).permutation(len(found))[: c.prompts]
    rows += [found[i] for i in sorted(chosen)]
  return rows


def by_suite(c: EvaluationConfig, named: str) -> dict[str, list[SuiteRow]]:
  """All rows of suites, named as in `evaluation.suites`, to remove their questions from data.

  Raises:
    UserError: a suite cannot be read.
  """
  return dict(_by_suite(c, named, "prepare.suites"))


def overlap_warning(c: Config, task: tasks.Task) -> str:
  """Says which evaluated questions prepared demonstrations may hold; "" if none."""
  named = list(suites.names_and_paths(c.evaluation.suites)) or _names(c.data.evaluation)
  missing = task.missing_removals(named) if isinstance(task, RowTask) else []
  if not missing:
    return ""
  return (
    f"data.root={c.data.root} was prepared without removing the questions of {', '.join(missing)}: "
    "what is evaluated may be among the demonstrations. Prepare them with prepare.suites or "
    "data.evaluation naming these."
  )


def _names(listed: str) -> list[str]:
  return [name for part in listed.split(",") if (name := part.strip())]


def _by_suite(c: EvaluationConfig, named: str, key: str) -> Iterator[tuple[str, list[SuiteRow]]]:
  for name, path in suites.names_and_paths(named).items():
    subset = c.livecodebench.version if name == "livecodebench" else ""
    try:
      yield name, suites.load(name, path, subset=subset, prepare=_prepare(name, c)).rows
    except (ImportError, OSError, ValueError) as error:
      raise UserError(f"{key}: {name}: {error}") from error


def _judgeable(name: str, rows: list[SuiteRow]) -> list[SuiteRow]:
  """The programs whose tests can be judged; says how many cannot.

  Raises:
    UserError: none can.
  """
  kept, why = [], ""
  for row in rows:
    try:
      rewards.check_answer(rewards.get(_CODE), row.answer)
      kept.append(row)
    except rewards.BadAnswer as error:
      why = str(error)
  if not kept:
    raise UserError(f"evaluation.suites: {name}: no problem can be judged: {why}")
  if (left_out := len(rows) - len(kept)) and parallel.is_writer():
    print(f"{name}: {left_out} of {len(rows)} problems are left out, e.g. {why}", flush=True)
  return kept


def _prepare(name: str, c: EvaluationConfig) -> Callable[[Fields], Fields | None] | None:
  if name == "livecodebench":
    return lambda fields: fields if livecodebench.in_window(fields, c.livecodebench) else None
  if name == "arena_hard" and c.judge.baseline:
    answers = arena_hard.baseline_answers(c.judge.baseline)
    return functools.partial(arena_hard.with_baseline, answers=answers)
  return None


def suite_reward(c: Config, mesh: Mesh) -> RewardFn:
  """The reward of replies to suites: each row's scorer is that of its suite.

  Args:
    c: the config.
    mesh: of this process's devices, for a reward model that judges.

  Raises:
    UserError: the reward model cannot be loaded.
  """
  names = suites.names_and_paths(c.evaluation.suites)
  own: dict[str, Any] = {}
  if judged(c.evaluation):
    own[suites.JUDGE] = _judge(c, mesh)
  return rewards.chosen("", None, suites.scorers(list(names)), **own)


def _judge(c: Config, mesh: Mesh) -> RewardFn:
  if c.evaluation.judge.endpoint:
    return judge.EndpointJudge(c.evaluation.judge)
  try:
    model = reward_model.from_config(c.reward_model, mesh)
  except (ImportError, OSError, ValueError) as error:
    raise UserError(f"reward_model: {error}") from error
  return judge.by_reward_model(model.with_scale("raw").score_batch)


def make_evaluator(run: "Setup") -> Evaluator:
  """Returns the evaluator that a job's config describes.

  Raises:
    UserError: a prompt is too long or cannot be encoded, or the policy has too few positions.
  """
  c, data = run.config.evaluation, run.config.data
  check_positions(run.config, run.policy_config)
  key = "evaluation" if c.max_prompt_tokens else "data"
  most = c.max_prompt_tokens or data.max_prompt_tokens
  with as_user_error(ValueError):
    rows, long = limits.within_limits(
      list(run.suite_rows) or list(run.task.evaluation(c.prompts)), run.tokenizer,
      max_tokens=most, long_prompts=data.long_prompts,
    )  # fmt: skip
    if long and parallel.is_writer():
      done = {"skip": "left out", "truncate_left": "cut"}[data.long_prompts]
      print(
        f"{long:,} evaluation prompts have more than {key}.max_prompt_tokens={most} tokens and are "
        f"{done}.",
        flush=True,
      )
    own = suite_reward(run.config, run.sampling.mesh) if run.suite_rows else run.reward_fn
    return Evaluator(
      run.policy_config, run.tokenizer, own, rows, c, data, task=run.config.task,
      **run.scoring_options(),
    )  # fmt: skip


def check_positions(c: Config, policy: PolicyConfig) -> None:
  """Checks the lengths of an evaluation against the policy's positions.

  Raises:
    UserError: they exceed these.
  """
  prompt = c.evaluation.max_prompt_tokens or c.data.max_prompt_tokens
  response = c.evaluation.max_response_tokens or c.data.max_response_tokens
  if prompt + response <= policy.max_positions:
    return
  raise UserError(
    f"an evaluation needs {prompt + response} positions (max_prompt_tokens={prompt} + "
    f"max_response_tokens={response} of evaluation or data), more than policy.max_positions="
    f"{policy.max_positions}. Lower them; or set policy.max_positions={prompt + response}: rotary "
    "positions are computed, whether or not the policy was trained on them."
  )


def training_texts(c: Config, task: tasks.Task) -> Iterator[str] | None:
  """Prompts and responses that a config trains on; `None` where it names no rows of text.

  Prepared data holds no text; the evaluation's questions were removed when it was prepared.
  """
  if c.task != tasks.ROWS or c.data.root or not (c.data.prompts or c.data.demonstrations):
    return None

  def texts() -> Iterator[str]:
    if c.data.prompts:
      yield from (row.prompt for row in task.queries)
    if c.data.demonstrations:
      for row in task.shown:
        yield row.prompt
        yield row.response

  return texts()

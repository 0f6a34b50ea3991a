"""Decodes rollouts and scores them by a reward, while the next ones are sampled."""

import collections
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from lhrm_jax.data.schema import PromptRow
from lhrm_jax.rewards import rules
from lhrm_jax.rewards.background import BusyClock, Worker
from lhrm_jax.rewards.judging import FailureBound, judge
from lhrm_jax.rewards.pool import VerifierPool, failure_of
from lhrm_jax.rewards.registry import (
  BadAnswer,
  ByQuery,
  BySource,
  Composed,
  Failed,
  RewardError,
  RewardFn,
  check_answer,
  has_answer,
  name_of,
)
from lhrm_jax.sampling import STOPPED, Rollouts
from lhrm_jax.text import TagIds, Tokenizer
from lhrm_jax.text.form import well_formed


@dataclasses.dataclass(frozen=True)
class Judgements:
  """Scores of the responses to some queries.

  Attributes:
    scores: `[B, M, G]` float32.
    components: each single reward by name, `[B, M, G]` float32, unweighted; NaN on queries that
      another scorer judges.
    undecided: number of responses the verifier could not decide, scored 0; `None` without one.
    failed: number of failed judgements, scored 0, by reason.
  """

  scores: np.ndarray
  components: dict[str, np.ndarray]
  undecided: int | None
  failed: dict[str, int] = dataclasses.field(default_factory=dict)

  def metrics(self) -> dict[str, float]:
    """`rewards/<name>/mean` of every component, `reward/failed/<reason>` where judgements failed
    and, where known, `reward/undecided`.
    """
    means = {
      f"rewards/{name}/mean": float(np.nanmean(values))
      for name, values in self.components.items()
      if not np.isnan(values).all()
    }
    counts = {f"reward/failed/{reason}": count for reason, count in self.failed.items()}
    if self.undecided is not None:
      counts["reward/undecided"] = self.undecided
    return means | counts


def merged(chunks: Sequence[Judgements]) -> Judgements:
  """The scores of several chunks of queries as one."""
  components = {
    name: np.concatenate([chunk.components[name] for chunk in chunks])
    for name in chunks[0].components
  }
  counts = [chunk.undecided for chunk in chunks if chunk.undecided is not None]
  scores = np.concatenate([chunk.scores for chunk in chunks])
  failed = sum((collections.Counter(chunk.failed) for chunk in chunks), collections.Counter())
  return Judgements(scores, components, sum(counts) if counts else None, dict(failed))


def decode(tokenizer: Tokenizer, rollouts: Rollouts) -> list[str]:
  """Texts of all responses, tags kept, in the order of `[B, M, G]` flattened."""
  responses = np.asarray(rollouts.responses)
  flat = responses.reshape(-1, responses.shape[-1])
  lengths = np.asarray(rollouts.lengths).reshape(-1)
  return [
    tokenizer.decode(ids[:length].tolist()) for ids, length in zip(flat, lengths, strict=True)
  ]


def score(
  reward_fn: RewardFn, rows: Sequence[PromptRow], rollouts: Rollouts, texts: Sequence[str],
  tag_ids: TagIds | None = None,
) -> np.ndarray:  # fmt: skip
  """Scores every response against its query's answer: `[B, M, G]` float32.

  See `Scorer.start` for the arguments, and for the responses that always score 0. To score
  repeatedly, keep a `Scorer`, whose worker processes start once.

  Raises:
    RewardError: see `Scorer.wait`.
  """
  with Scorer(reward_fn, background=False, tag_ids=tag_ids) as scorer:
    return scorer.wait([scorer.start(rows, rollouts, texts)]).scores


@dataclasses.dataclass(frozen=True)
class _Leaf:
  """A single reward, and which of the responses it scores, `[N]` bool."""

  name: str
  fn: RewardFn
  asked: np.ndarray


class Scorer:
  """Scores chunks of rollouts as futures, while the next chunk is sampled.

  ```python
  with Scorer(reward_fn) as scorer:
    futures = [scorer.start(rows, rollouts, texts) for rows, rollouts, texts in chunks]
    scored = scorer.wait(futures)
  ```

  `math` and `multiple_choice`, which parse what a model wrote, are judged by a `VerifierPool`, and
  the programs of `code` in sandboxes that threads of their own drive; both start with the first
  response that needs them. Other rewards run in one thread, in order, and need not be
  thread-safe. A reward with `on_device` runs in the caller's thread: it would share the
  accelerators with sampling, which hides nothing, and programs that two threads launch can reach
  the devices in different orders. Composed rewards are split into their parts first.

  No single response ends a run: one that its reward fails on scores 0 and is counted, and only too
  many raise a `RewardError` (`judging.FailureBound`).

  Args:
    reward_fn: `reward_fn(prompt, response, answer) -> score`.
    workers: processes of the pool; twice as many programs run at a time, since many only wait.
    background: if unset, rewards that need neither pool nor sandbox score in `start` itself.
    tag_ids: the policy's; they decide the mode of a response, see `form.well_formed`.
    deadline_s: seconds for the programs of one `start`, from the start of the first. Those not
      judged by then score 0 and are counted.
    max_failed_share: share of a reward's judgements that may fail.
  """

  def __init__(
    self,
    reward_fn: RewardFn,
    *,
    workers: int = 2,
    background: bool = True,
    tag_ids: TagIds | None = None,
    deadline_s: float = 300.0,
    max_failed_share: float = 0.1,
  ):
    self._reward_fn, self._tag_ids = reward_fn, tag_ids
    self._workers, self._deadline_s = workers, deadline_s
    self._bound = FailureBound(max_failed_share)
    self._clock = BusyClock()
    self._worker = Worker("rewards") if background else None
    self._pool: VerifierPool | None = None
    self._programs: Worker | None = None

  def start(
    self, rows: Sequence[PromptRow], rollouts: Rollouts, texts: Sequence[str]
  ) -> Future[Judgements]:
    """Starts scoring; an error that ends the run is the future's `RewardError` (see `wait`).

    Args:
      rows: the `B` queries.
      rollouts: their responses, on the host. A response cut off by the length limit, or
        malformed, scores 0 without being shown to a reward.
      texts: `decode(tokenizer, rollouts)`.
    """
    shape, n = rollouts.lengths.shape, len(texts)
    of_text = [row for row in rows for _ in range(n // len(rows))]
    stopped = np.asarray(jax.device_get(rollouts.finish_reason)).reshape(-1) == STOPPED
    first_ids = np.asarray(jax.device_get(rollouts.responses))[..., 0].reshape(-1)
    finished = stopped & well_formed(texts, first_ids, self._tag_ids)
    try:
      self._check_answers(rows)
    except RewardError as error:
      return _failed(error)
    leaves: list[_Leaf] = []
    combine = _plan(self._reward_fn, "", np.ones(n, bool), of_text, leaves)

    with self._clock.busy():
      # What runs in this thread comes last, when the rest has started.
      order = sorted(range(len(leaves)), key=lambda i: self._runs_here(leaves[i].fn))
      futures: list[Future | None] = [None] * len(leaves)
      for i in order:
        chosen = np.flatnonzero(leaves[i].asked & finished)
        futures[i] = self._submit(
          leaves[i],
          [_asked(leaves[i].fn, of_text[j]) for j in chosen],
          [texts[j] for j in chosen],
          [of_text[j].answer for j in chosen],
        )
        self._clock.follow(futures[i])

    def gather(parts: list[tuple[list[float], int | None]]) -> Judgements:
      columns = []
      for leaf, (values, _) in zip(leaves, parts, strict=True):
        column = np.where(leaf.asked, 0.0, np.nan)
        column[leaf.asked & finished] = values
        columns.append(column)
      components = {
        leaf.name: column.reshape(shape).astype(np.float32)
        for leaf, column in zip(leaves, columns, strict=True)
      }
      known = [undecided for _, undecided in parts if undecided is not None]
      with np.errstate(over="ignore", invalid="ignore"):
        scores = combine(columns).reshape(shape).astype(np.float32)
      failed = collections.Counter(
        value.reason for values, _ in parts for value in values if isinstance(value, Failed)
      )
      if overflown := int((~np.isfinite(scores)).sum()):  # finite parts, a sum beyond float32
        failed["not_finite"] += overflown
      scores = np.where(np.isfinite(scores), scores, np.float32(0))
      return Judgements(scores, components, sum(known) if known else None, dict(failed))

    return _joined(futures, gather)

  def wait(self, futures: Sequence[Future[Judgements]]) -> Judgements:
    """The scores of all chunks as one.

    Raises:
      RewardError: a row's answer is not what its reward needs, a reward cannot judge at all, or too
        many of its judgements failed; says which, on what response, and where.
    """
    return merged([future.result() for future in futures])

  def take_seconds(self) -> float:
    """Seconds since the last call during which something was being scored, hidden or not."""
    return self._clock.take()

  def close(self) -> None:
    """Ends the workers and drops what is still being scored."""
    for part in (self._worker, self._programs, self._pool):
      if part is not None:
        part.close()

  def __enter__(self) -> "Scorer":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _runs_here(self, fn: RewardFn) -> bool:
    return self._worker is None or getattr(fn, "on_device", False)

  def _check_answers(self, rows: Sequence[PromptRow]) -> None:
    for row in rows:
      try:
        check_answer(self._reward_fn, row.answer, row.source)
      except BadAnswer as error:
        raise RewardError(f"{error} (of the row with the prompt {row.prompt[:200]!r})") from error

  def _submit(
    self, leaf: _Leaf, prompts: list[Any], responses: list[str], answers: list[str]
  ) -> Future:
    """A future of the scores and the number of undecided ones."""

    def job(fn: RewardFn = leaf.fn, of=(prompts, responses, answers)) -> list[float]:
      scores = judge(leaf.name, fn, *of)
      self._bound.add(leaf.name, scores)
      return scores

    if not responses:
      return _done(([], 0 if leaf.fn is rules.math else None))
    if leaf.fn in (rules.math, rules.multiple_choice):
      self._pool = self._pool or VerifierPool(self._workers)
      rule = leaf.fn.__name__
      verdicts = self._pool.score_async(answers, responses, rule)
      return _joined([verdicts], functools.partial(self._of_verdicts, leaf.name, rule))
    if leaf.fn is rules.code:
      self._programs = self._programs or Worker("programs", 2 * self._workers)
      fn = _by_deadline(self._deadline_s)
      single = [
        self._programs.submit(functools.partial(job, fn, ([p], [r], [a])))
        for p, r, a in zip(prompts, responses, answers, strict=True)
      ]
      return _joined(single, lambda found: ([scores[0] for scores in found], None))
    if not self._runs_here(leaf.fn):
      return self._worker.submit(lambda: (job(), None))
    try:
      return _done((job(), None))
    except Exception as error:
      return _failed(error)

  def _of_verdicts(self, name: str, rule: str, found: list[list]) -> tuple[list[float], int | None]:
    scores, undecided = [], 0
    for verdict in found[0]:
      failure = failure_of(verdict)
      undecided += verdict.correct is None and failure is None
      scores.append(
        Failed(failure, f"reward {name!r}: {verdict.reason}.") if failure else verdict.score
      )
    self._bound.add(name, scores)
    return scores, undecided if rule == "math" else None


def _asked(fn: RewardFn, row: PromptRow) -> str | tuple[tuple[str, str], ...]:
  """What a reward is told of a query: its prompt, or the conversation if the reward reads it."""
  if row.earlier and getattr(fn, "reads_earlier", False):
    return (*row.earlier, ("user", row.prompt))
  return row.prompt


def _by_deadline(seconds: float) -> RewardFn:
  """The code reward for one batch, whose time starts with its first call."""
  from lhrm_jax.rewards import code  # not needed by runs that only use the other rewards

  lock, ends = threading.Lock(), []

  def scored(prompt: str, response: str, answer: str) -> float:
    with lock:
      if not ends:
        ends.append(time.monotonic() + seconds)
    return code.score(response, answer, deadline=ends[0])

  return scored


def _plan(
  fn: RewardFn, name: str, asked: np.ndarray, rows: Sequence[PromptRow], leaves: list[_Leaf]
) -> Callable[[list[np.ndarray]], np.ndarray]:
  """Appends the single rewards of `fn` to `leaves`; returns how their columns are combined.

  Args:
    fn: the reward.
    name: name of `fn` in the sum that holds it; "" for its own.
    asked: `[N]` bool, the responses it scores.
    rows: `N` queries, one for each response.
    leaves: appended to.
  """
  if isinstance(fn, Composed):
    terms = [
      (fn.weights[part], _plan(fn.parts[part], part, asked, rows, leaves)) for part in fn.parts
    ]
    return lambda columns: sum(weight * combine(columns) for weight, combine in terms)
  if isinstance(fn, ByQuery):
    definite = np.array([has_answer(row.answer) for row in rows], bool)
    by_rule = _plan(fn.definite, "", asked & definite, rows, leaves)
    by_model = _plan(fn.open_ended, "", asked & ~definite, rows, leaves)
    return lambda columns: np.where(definite, by_rule(columns), by_model(columns))
  if isinstance(fn, BySource):
    names = np.array([fn.name_for(row.source) for row in rows])
    plans = {
      part: _plan(fn.parts[part], part, asked & (names == part), rows, leaves) for part in fn.parts
    }
    return lambda columns: np.select(
      [names == part for part in plans], [combine(columns) for combine in plans.values()]
    )
  place = len(leaves)
  leaves.append(_Leaf(name or name_of(fn), fn, asked))
  return lambda columns: columns[place]


def _done(result: object) -> Future:
  future: Future = Future()
  future.set_result(result)
  return future


def _failed(error: Exception) -> Future:
  future: Future = Future()
  future.set_exception(error)
  return future


def _joined(futures: Sequence[Future], gather: Callable[[list], object]) -> Future:
  """A future of `gather(results)`; it fails as soon as one of `futures` does."""
  joined: Future = Future()
  joined.set_running_or_notify_cancel()
  lock, left = threading.Lock(), len(futures)

  def on_done(future: Future) -> None:
    nonlocal left
    with lock:
      left -= 1
      failed = future.cancelled() or future.exception() is not None
      if joined.done() or (left and not failed):
        return
      try:
        future.result()
        joined.set_result(gather([f.result() for f in futures]))
      except BaseException as error:  # whatever it is, the caller must not wait forever
        joined.set_exception(error)

  for future in futures:
    future.add_done_callback(on_done)
  return joined

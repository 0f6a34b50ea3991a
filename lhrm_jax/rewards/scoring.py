"""Scores of rollouts: text out of ids, one reward per response, while sampling goes on."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import jax
import numpy as np

from lhrm_jax.data.schema import PromptRow
from lhrm_jax.rewards import rules
from lhrm_jax.rewards.background import BusyClock, Worker
from lhrm_jax.rewards.judging import judge
from lhrm_jax.rewards.pool import VerifierPool
from lhrm_jax.rewards.registry import (
  ByQuery,
  Composed,
  RewardError,
  RewardFn,
  has_answer,
  name_of,
)
from lhrm_jax.sampling import STOPPED, Rollouts
from lhrm_jax.text import TagIds, Tokenizer
from lhrm_jax.text.form import well_formed


@dataclasses.dataclass(frozen=True)
class Scored:
  """Scores of some queries' responses.

  Attributes:
    scores: `[B, M, G]` float32.
    components: each single reward by name, `[B, M, G]` float32, unweighted; NaN on queries that
      another scorer judges.
    undecided: responses on which the scorer could not decide, scored 0; `None` where it never says.
  """

  scores: np.ndarray
  components: dict[str, np.ndarray]
  undecided: int | None

  def metrics(self) -> dict[str, float]:
    """`rewards/<name>/mean` of every component and, where known, `reward/undecided`."""
    means = {
      f"rewards/{name}/mean": float(np.nanmean(values))
      for name, values in self.components.items()
      if not np.isnan(values).all()
    }
    return means | ({} if self.undecided is None else {"reward/undecided": self.undecided})


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
  """Scores every response by its query's answer, here and now: `[B, M, G]` float32.

  See `Scorer.start` for the arguments, and for what scores 0 whatever it says.

  Raises:
    RewardError: the reward failed, or gave a score that is not finite.
  """
  with Scorer(reward_fn, background=False, tag_ids=tag_ids) as scorer:
    scores = scorer.wait([scorer.start(rows, rollouts, texts)]).scores
  if not np.isfinite(scores).all():
    at = int(np.flatnonzero(~np.isfinite(scores))[0])
    raise RewardError(
      f"the reward gave {scores.flat[at]} for the response {texts[at][:200]!r}: a score is a "
      "finite number."
    )
  return scores


@dataclasses.dataclass(frozen=True)
class _Leaf:
  """A single reward and the responses `[N]` bool that it is asked about."""

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

  The reward `math` is judged by a `VerifierPool`. Other rewards run in one thread of their own, in
  order, so they need not be thread-safe. A reward with `on_device` runs in the caller's thread: it
  would share the accelerators with sampling, which hides nothing, and programs that two threads
  launch can reach the devices in different orders. Sums and `by_query` are taken apart first.

  Args:
    reward_fn: `reward_fn(prompt, response, answer) -> score`.
    workers: processes of the pool, which is started only where `math` is asked for.
    background: if not, everything is scored in `start`.
    tag_ids: the policy's; they decide which mode a response opens, see `form.well_formed`.
  """

  def __init__(
    self, reward_fn: RewardFn, *, workers: int = 2, background: bool = True,
    tag_ids: TagIds | None = None,
  ):  # fmt: skip
    self._reward_fn, self._tag_ids = reward_fn, tag_ids
    self._clock = BusyClock()
    self._worker = Worker("rewards") if background else None
    leaves: list[_Leaf] = []
    _plan(reward_fn, "", np.zeros(0, bool), np.zeros(0, bool), leaves)
    wants_pool = background and any(leaf.fn is rules.math for leaf in leaves)
    self._pool = VerifierPool(workers) if wants_pool else None

  def start(
    self, rows: Sequence[PromptRow], rollouts: Rollouts, texts: Sequence[str]
  ) -> Future[Scored]:
    """Starts scoring; a failed reward fails the future with a `RewardError` that says which.

    Args:
      rows: the `B` queries.
      rollouts: their responses, on the host. A response cut off by the length limit, or
        malformed, scores 0 whatever it says; no reward is asked about it.
      texts: `decode(tokenizer, rollouts)`.
    """
    shape, n = rollouts.lengths.shape, len(texts)
    of_text = [row for row in rows for _ in range(n // len(rows))]
    stopped = np.asarray(jax.device_get(rollouts.finish_reason)).reshape(-1) == STOPPED
    first_ids = np.asarray(jax.device_get(rollouts.responses))[..., 0].reshape(-1)
    finished = stopped & well_formed(texts, first_ids, self._tag_ids)
    definite = np.array([has_answer(row.answer) for row in of_text], bool)
    leaves: list[_Leaf] = []
    combine = _plan(self._reward_fn, "", np.ones(n, bool), definite, leaves)

    with self._clock.busy():
      # What runs in this thread comes last, when the rest is under way.
      order = sorted(range(len(leaves)), key=lambda i: self._runs_here(leaves[i].fn))
      futures: list[Future | None] = [None] * len(leaves)
      for i in order:
        chosen = np.flatnonzero(leaves[i].asked & finished)
        futures[i] = self._submit(
          leaves[i],
          [of_text[j].prompt for j in chosen],
          [texts[j] for j in chosen],
          [of_text[j].answer for j in chosen],
        )
        self._clock.follow(futures[i])

    def gather(parts: list[tuple[list[float], int | None]]) -> Scored:
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
      scores = combine(columns).reshape(shape).astype(np.float32)
      return Scored(scores, components, sum(known) if known else None)

    return _joined(futures, gather)

  def wait(self, futures: Sequence[Future[Scored]]) -> Scored:
    """The scores of all chunks as one.

    Raises:
      RewardError: a reward failed; says which, on what response, and where.
    """
    chunks = [future.result() for future in futures]
    components = {
      name: np.concatenate([chunk.components[name] for chunk in chunks])
      for name in chunks[0].components
    }
    counts = [chunk.undecided for chunk in chunks if chunk.undecided is not None]
    scores = np.concatenate([chunk.scores for chunk in chunks])
    return Scored(scores, components, sum(counts) if counts else None)

  def take_seconds(self) -> float:
    """Seconds since the last call during which scoring was under way, hidden or not."""
    return self._clock.take()

  def close(self) -> None:
    """Ends the workers; what is still being scored is dropped."""
    if self._worker is not None:
      self._worker.close()
    if self._pool is not None:
      self._pool.close()

  def __enter__(self) -> "Scorer":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _runs_here(self, fn: RewardFn) -> bool:
    return self._worker is None or getattr(fn, "on_device", False)

  def _submit(
    self, leaf: _Leaf, prompts: list[str], responses: list[str], answers: list[str]
  ) -> Future:
    """A future of the scores, and of how many were undecided."""
    if self._pool is not None and leaf.fn is rules.math:
      return _verdicts(self._pool, answers, responses)
    job = functools.partial(judge, leaf.name, leaf.fn, prompts, responses, answers)
    if not self._runs_here(leaf.fn):
      return self._worker.submit(lambda: (job(), None))
    future: Future = Future()
    try:
      future.set_result((job(), None))
    except Exception as error:
      future.set_exception(error)
    return future


def _plan(
  fn: RewardFn, name: str, asked: np.ndarray, definite: np.ndarray, leaves: list[_Leaf]
) -> Callable[[list[np.ndarray]], np.ndarray]:
  """Appends the single rewards of `fn` to `leaves`; returns how their columns make its scores.

  Args:
    fn: the reward.
    name: of `fn`, where a sum names it; else its own.
    asked: `[N]` bool, the responses it is asked about.
    definite: `[N]` bool, whose queries have a definite answer.
    leaves: grows.
  """
  if isinstance(fn, Composed):
    terms = [
      (fn.weights[part], _plan(fn.parts[part], part, asked, definite, leaves)) for part in fn.parts
    ]
    return lambda columns: sum(weight * combine(columns) for weight, combine in terms)
  if isinstance(fn, ByQuery):
    by_rule = _plan(fn.definite, "", asked & definite, definite, leaves)
    by_model = _plan(fn.open_ended, "", asked & ~definite, definite, leaves)
    return lambda columns: np.where(definite, by_rule(columns), by_model(columns))
  place = len(leaves)
  leaves.append(_Leaf(name or name_of(fn), fn, asked))
  return lambda columns: columns[place]


def _verdicts(pool: VerifierPool, golds: list[str], responses: list[str]) -> Future:
  return _joined(
    [pool.score_async(golds, responses)],
    lambda verdicts: (
      [verdict.score for verdict in verdicts[0]],
      sum(verdict.correct is None for verdict in verdicts[0]),
    ),
  )


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
      except BaseException as error:  # whatever it is, the caller must not wait for ever
        joined.set_exception(error)

  for future in futures:
    future.add_done_callback(on_done)
  return joined

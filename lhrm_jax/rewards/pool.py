"""Verdicts from worker processes, each under a hard time limit.

A verdict that takes too long costs its worker: the process is killed and replaced, the verdict is
undecided, and no other verdict is affected. Workers are fresh interpreters started by
`subprocess`, so nothing is forked after JAX has started its threads, the user's `__main__` is not
imported again, and the pool works from any thread, from asyncio and in each process of a multi-host
run.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import queue
import sys
import threading
import time
from collections.abc import Iterable, Sequence

import lhrm_jax
from lhrm_jax.rewards.math.verdicts import Verdict
from lhrm_jax.rewards.worker import LOADING, RAISED
from lhrm_jax.worker_process import WorkerProcess

Gold = str | Sequence[str]
_START_LIMIT_S = 30.0
_TOOK_LONGER, _ENDED = "the verdict took longer than", "the worker ended"
_CLOSED = "the VerifierPool was closed"


def failure_of(verdict: Verdict) -> str | None:
  """Why the pool has no verdict: `timeout`, `worker` or `raised`; `None` where it has one.

  The verifier's own undecided verdict is one.
  """
  if verdict.correct is not None:
    return None
  kinds = {_TOOK_LONGER: "timeout", _ENDED: "worker", _CLOSED: "worker", RAISED: "raised"}
  return next((kind for start, kind in kinds.items() if verdict.reason.startswith(start)), None)


class VerifierPool:
  """Scores responses with `rewards.math.verify`, or another rule, in worker processes.

  ```python
  with VerifierPool(workers=2) as pool:
    future = pool.score_async(golds, responses)   # runs while the next chunk is sampled
    verdicts = future.result()
  ```

  Args:
    workers: number of processes.
    limit_s: seconds one verdict may take before its worker is killed. The verifier itself is
      bounded, so this second line of defence is seldom reached.
    memory_mib: address space of one worker, where the platform can limit it.
    command: starts one worker; for tests.
  """

  def __init__(
    self,
    workers: int = 2,
    *,
    limit_s: float = 5.0,
    memory_mib: int = 1024,
    command: Sequence[str] | None = None,
  ):
    if workers < 1:
      raise ValueError(f"VerifierPool(workers={workers}): at least one worker is needed")
    self.limit_s = limit_s
    self.replaced = 0
    self._command = list(
      command or (sys.executable, "-P", "-m", "lhrm_jax.rewards.worker", str(memory_mib))
    )
    self._jobs: queue.Queue = queue.Queue()
    self._closed = False
    self._lock = threading.Lock()
    self.workers = [_Worker(self._command) for _ in range(workers)]  # all start at the same time
    try:
      for worker in self.workers:
        worker.wait_ready()
    except Exception:
      for worker in self.workers:
        worker.kill()
      raise
    self._threads = [
      threading.Thread(target=self._serve, args=(i,), daemon=True, name=f"verifier-{i}")
      for i in range(workers)
    ]
    for thread in self._threads:
      thread.start()

  # Scoring.

  def score_async(
    self, golds: Sequence[Gold], responses: Sequence[str], rule: str = "math"
  ) -> concurrent.futures.Future[list[Verdict]]:
    """Starts scoring `responses[i]` against `golds[i]`; the future's list keeps their order.

    Args:
      golds: one for each response.
      responses: whole texts.
      rule: `math`, or another reward of `rewards.rules`.

    Raises:
      ValueError: the two sequences differ in length.
      RuntimeError: the pool is closed.
    """
    if len(golds) != len(responses):
      raise ValueError(f"{len(golds)} golds for {len(responses)} responses; give one for each")
    batch = _Batch(len(responses))
    with self._lock:
      if self._closed:
        raise RuntimeError("the VerifierPool is closed; score inside its `with` block")
      for i, (gold, response) in enumerate(zip(golds, responses, strict=True)):
        gold = gold if isinstance(gold, str) else list(gold)
        self._jobs.put((batch, i, {"rule": rule, "gold": gold, "response": response}))
    return batch.future

  def score(self, golds: Sequence[Gold], responses: Sequence[str]) -> list[Verdict]:
    """Scores a batch and waits for the verdicts."""
    return self.score_async(golds, responses).result()

  # Lifetime.

  def close(self) -> None:
    """Ends the workers. Verdicts not given yet are undecided."""
    with self._lock:
      if self._closed:
        return
      self._closed = True
    for job in _drain(self._jobs):
      if job is not None:
        job[0].put(job[1], Verdict(None, None, _CLOSED))
    for _ in self._threads:
      self._jobs.put(None)
    for thread in self._threads:
      thread.join(self.limit_s + _START_LIMIT_S)

  def __enter__(self) -> VerifierPool:
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _serve(self, slot: int) -> None:
    """One thread feeds one worker, and replaces it when it hangs or dies."""
    worker = self.workers[slot]
    try:
      while (job := self._jobs.get()) is not None:
        batch, i, message = job
        verdict, alive = worker.judge(message, self.limit_s)
        if not alive:
          worker.kill()
          with self._lock:
            self.replaced += 1
        batch.put(i, verdict)
        if not alive and not self._closed:
          worker = self.workers[slot] = self._replacement()
    finally:
      worker.kill()

  def _replacement(self) -> _Worker:
    pause = 0.1
    while True:  # a machine out of processes for a moment must not end the pool
      worker = None
      try:
        worker = _Worker(self._command)
        worker.wait_ready()
        return worker
      except (OSError, RuntimeError):
        if worker is not None:
          worker.kill()
        if self._closed:
          raise
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def _drain(jobs: queue.Queue) -> Iterable:
  with contextlib.suppress(queue.Empty):
    while True:
      yield jobs.get_nowait()


class _Batch:
  """Collects the verdicts of a batch and sets its future once all are in."""

  def __init__(self, size: int):
    self.future: concurrent.futures.Future[list[Verdict]] = concurrent.futures.Future()
    self.verdicts: list[Verdict | None] = [None] * size
    self.missing = size
    self.lock = threading.Lock()
    self.future.set_running_or_notify_cancel()  # a batch that runs is not cancelled half-way
    if size == 0:
      self.future.set_result([])

  def put(self, i: int, verdict: Verdict) -> None:
    with self.lock:
      self.verdicts[i] = verdict
      self.missing -= 1
      done = self.missing == 0
    if done:
      self.future.set_result(self.verdicts)


class _Worker(WorkerProcess):
  """One verifier process."""

  def __init__(self, command: Sequence[str]):
    root = str(pathlib.Path(lhrm_jax.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    super().__init__(command, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)})

  def wait_ready(self) -> None:
    """Raises `RuntimeError` where the worker does not start."""
    try:
      self.receive(_START_LIMIT_S)
    except (EOFError, OSError, ValueError) as error:
      code = self.process.poll()
      raise RuntimeError(
        f"a verifier worker did not start ({error}; exit status {code}); "
        f"run it by hand to see why: {' '.join(self.process.args)}"
      ) from error

  def judge(self, message: dict, limit_s: float) -> tuple[Verdict, bool]:
    """Returns the verdict, and whether the worker can judge further responses."""
    try:
      reply = self.ask(message, limit_s)
      if LOADING in reply:
        reply = self.receive(_START_LIMIT_S)
      return Verdict(reply["correct"], reply["extracted"], reply["reason"]), True
    except TimeoutError:
      return Verdict(None, None, f"{_TOOK_LONGER} {limit_s:g} s"), False
    except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
      return Verdict(None, None, f"{_ENDED}: {type(error).__name__}: {error}"), False

"""Background threads, and a clock of the time they are busy."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future


class Worker:
  """Runs jobs in order, in daemon threads; with one thread, one after another.

  A `ThreadPoolExecutor` would keep the interpreter from ending until its last job has; a reward
  that hangs must not outlive the run.
  """

  def __init__(self, name: str, threads: int = 1):
    self._jobs: queue.SimpleQueue = queue.SimpleQueue()
    self._closed = False
    self._threads = threads
    for i in range(threads):
      threading.Thread(target=self._serve, daemon=True, name=f"{name}-{i}").start()

  def submit(self, job: Callable[[], object]) -> Future:
    """A future of `job()`."""
    if self._closed:
      raise RuntimeError("the worker is closed; score inside the scorer's `with` block")
    future: Future = Future()
    self._jobs.put((future, job))
    return future

  def close(self) -> None:
    """Cancels the jobs that have not started, and does not wait for those that run."""
    self._closed = True
    for _ in range(self._threads):
      self._jobs.put(None)

  def _serve(self) -> None:
    while (item := self._jobs.get()) is not None:
      future, job = item
      if self._closed:
        future.cancel()
      if not future.set_running_or_notify_cancel():
        continue
      try:
        future.set_result(job())
      except BaseException as error:  # a dead thread would leave its callers waiting
        future.set_exception(error)


class BusyClock:
  """Adds up the seconds during which at least one job was running."""

  def __init__(self):
    self._lock = threading.Lock()
    self._under_way = 0
    self._since = self._seconds = 0.0

  @contextlib.contextmanager
  def busy(self) -> Iterator[None]:
    """Counts the block."""
    self._change(+1)
    try:
      yield
    finally:
      self._change(-1)

  def follow(self, future: Future) -> None:
    """Counts until `future` is done."""
    self._change(+1)
    future.add_done_callback(lambda _: self._change(-1))

  def take(self) -> float:
    """Seconds since the last call."""
    with self._lock:
      self._settle()
      seconds, self._seconds = self._seconds, 0.0
    return seconds

  def _change(self, by: int) -> None:
    with self._lock:
      self._settle()
      self._under_way += by

  def _settle(self) -> None:
    now = time.perf_counter()
    if self._under_way:
      self._seconds += now - self._since
    self._since = now

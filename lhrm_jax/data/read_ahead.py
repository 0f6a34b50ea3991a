"""Makes the items of coming steps in a thread, while the current one is used."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReadAhead(contextlib.AbstractContextManager, Generic[Item]):
  """Items of consecutive steps, each made before it is asked for.

  Items are functions of the step alone, so that nothing is lost when a run ends in between.

  Args:
    make: makes the item of a step; called in one thread, in the order of the steps.
    stop: one beyond the last step.
    ahead: most items that wait to be taken.
  """

  def __init__(self, make: Callable[[int], Item], stop: int, ahead: int = 2):
    self._make, self._stop, self._ahead = make, stop, ahead
    self._pending: OrderedDict[int, Future[Item]] = OrderedDict()
    self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")

  def take(self, step: int) -> Item:
    """The item of a step; those that follow are made meanwhile.

    Raises:
      Exception: whatever making it raised.
    """
    while self._pending and next(iter(self._pending)) < step:
      self._pending.popitem(last=False)[1].cancel()
    future = self._pending.pop(step, None) or self._thread.submit(self._make, step)
    for later in range(step + 1, min(step + 1 + self._ahead, self._stop)):
      if later not in self._pending:
        self._pending[later] = self._thread.submit(self._make, later)
    return future.result()

  def __exit__(self, *_) -> None:
    self._thread.shutdown(wait=True, cancel_futures=True)

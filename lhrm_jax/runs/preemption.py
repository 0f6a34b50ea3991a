"""Preemption: a signal ends the run after the step under way, with its state saved.

SIGTERM is what schedulers send before they take a machine away; SIGINT is Ctrl-C. The first asks
for an orderly end, the second ends the process at once: the last checkpoint stays whole, since a
save is atomic.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

# The exit status of a run that was asked to end and can go on: sysexits.h's EX_TEMPFAIL, "try
# again". Schedulers restart on it.
EXIT_STATUS = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def disregard_signals() -> None:
  """For a process whose work is done: a signal while Python shuts down changes no exit status."""
  for number in _SIGNALS:
    signal.signal(number, signal.SIG_IGN)


class Preempted(Exception):
  """The run was asked to end, and its state is saved; the same command goes on."""


class Preemption:
  """Listens for the signals while used as a context manager (main thread only).

  Several processes agree on the step they end at through JAX's preemption service, which then
  listens for SIGTERM itself.
  """

  def __init__(self):
    self._requested: signal.Signals | None = None
    self._interruptible = False
    self._before: dict[signal.Signals, object] = {}

  def __enter__(self) -> "Preemption":
    # JAX's service holds SIGTERM where there are several processes.
    mine = _SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
    self._before = {number: signal.signal(number, self._on_signal) for number in mine}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def reached(self, step: int) -> bool:
    """Whether the run must end now, after `step`; every process asks after every step."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._requested is not None

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """A block that changes nothing worth saving: a signal ends it at once.

    Raises:
      Preempted: the signal came, in the block or before it.
    """
    self._interruptible = True
    try:
      if self._requested and jax.process_count() == 1:
        raise Preempted(f"{self._requested.name} received")
      yield
    finally:
      self._interruptible = False

  def _on_signal(self, number: int, _frame) -> None:
    received = signal.Signals(number)
    if self._requested:
      # No clean-up: what is being written is a temporary file until it is whole.
      os.write(sys.stderr.fileno(), b"second signal: ending at once\n")
      os._exit(128 + number)
    self._requested = received
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)  # to JAX's service, which tells the other processes
    elif self._interruptible:
      raise Preempted(f"{received.name} received")
    os.write(sys.stderr.fileno(), f"{received.name}: ending after this step\n".encode())

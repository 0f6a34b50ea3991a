"""Preemption: a signal stops the run after the current step, with its state saved.

Schedulers send SIGTERM before they take a machine away; SIGINT is Ctrl-C. The first signal asks for
an orderly stop, a second one ends the process at once: saves are atomic, so the last checkpoint
stays whole.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

# Exit status of a run that was asked to stop and can be resumed: EX_TEMPFAIL of sysexits.h, "try
# again". Schedulers restart on it.
EXIT_STATUS = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def disregard_signals() -> None:
  """Ignores signals, so that one during Python's shutdown cannot change the exit status."""
  for number in _SIGNALS:
    signal.signal(number, signal.SIG_IGN)


class Preempted(Exception):
  """The run was asked to stop, and its state is saved; the same command resumes it."""


class Preemption:
  """Listens for the signals while used as a context manager (main thread only).

  Several processes agree on the step to stop at through JAX's preemption service, which then
  handles SIGTERM.
  """

  def __init__(self):
    self._requested: signal.Signals | None = None
    self._interruptible = False
    self._before: dict[signal.Signals, object] = {}

  def __enter__(self) -> "Preemption":
    # With several processes, JAX's service handles SIGTERM.
    mine = _SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
    self._before = {number: signal.signal(number, self._on_signal) for number in mine}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def reached(self, step: int) -> bool:
    """Whether the run must stop after `step`; every process calls this after every step."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._requested is not None

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """Marks a block with nothing to save, which a signal ends at once.

    Raises:
      Preempted: a signal came, in the block or before it.
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
      # No clean-up needed: a file is temporary until it is whole.
      os.write(sys.stderr.fileno(), b"second signal: stopping at once\n")
      os._exit(128 + number)
    self._requested = received
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)  # to JAX's service, which tells the other processes
    elif self._interruptible:
      raise Preempted(f"{received.name} received")
    os.write(sys.stderr.fileno(), f"{received.name}: stopping after this step\n".encode())

"""A progress bar with metrics and time left; plain lines where there is no terminal."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lhrm_jax import parallel

_LINE_EVERY_SECONDS = 10.0


class ProgressBar:
  """Use as a context manager, then call `update` after each step."""

  def __init__(self, title: str, total: int, *, at_most: bool = False):
    """Args:
    title: name of the stage.
    total: number of steps.
    at_most: whether it may end early; the time left is then shown as an upper bound.
    """
    self._silent = not parallel.is_writer()
    self._console = Console()
    self._title, self._total, self._at_most = title, total, "at most " if at_most else ""
    self._started = self._last_line = time.monotonic()
    self._before: int | None = None  # steps made before this process
    self._bar = Progress(
      TextColumn("[bold]{task.description}"),
      BarColumn(bar_width=24),
      MofNCompleteColumn(),
      TextColumn("{task.fields[metrics]}"),
      TextColumn(self._at_most.strip()),
      TimeRemainingColumn(),
      console=self._console,
      disable=self._silent or not self._console.is_terminal,
    )
    self._task = self._bar.add_task(title, total=total, metrics="")

  def __enter__(self) -> "ProgressBar":
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()

  def update(self, done: int, metrics: Mapping[str, float]) -> None:
    """Shows `done` steps as finished, with a few metrics."""
    text = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    self._bar.update(self._task, completed=done, metrics=text)
    if self._before is None:
      self._before = done - 1
    now = time.monotonic()
    due = now - self._last_line > _LINE_EVERY_SECONDS or done == self._total
    if not self._console.is_terminal and due and not self._silent:
      self._last_line = now
      left = (now - self._started) / (done - self._before) * (self._total - done)
      parts = (f"{self._title} {done}/{self._total}", text, f"{self._at_most}{left:.0f} s left")
      print("  ".join(filter(None, parts)), flush=True)

  def say(self, message: str) -> None:
    """Prints a line above the bar, on process 0 only."""
    if not self._silent:
      self._bar.console.print(message, highlight=False, markup=False, soft_wrap=True)

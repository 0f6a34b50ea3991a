"""Tasks by name: where queries, demonstrations and evaluation prompts come from."""

import difflib
from collections.abc import Callable, Sequence
from typing import Protocol

from lhrm_jax.data.arithmetic import Arithmetic
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.reasoning_tasks import ReasoningTasks
from lhrm_jax.data.row_task import RowTask
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import Tokenizer


class Task(Protocol):
  """A source of rows. Everything is a function of its arguments, so that a resumed or replayed run
  sees the same rows.

  Attributes:
    notes: what a reader of the report must know about the task.
  """

  notes: tuple[str, ...]

  def tokenizer(self) -> Tokenizer:
    """The tokenizer of a policy trained from scratch on this task."""
    ...

  def prompts(self, seed: int, step: int, count: int) -> Sequence[PromptRow]:
    """The training queries of one HGPO step."""
    ...

  def demonstrations(
    self, seed: int, step: int, think: int, no_think: int
  ) -> tuple[Sequence[HFTRow], Sequence[HFTRow]]:
    """The thinking and the direct demonstrations of one HFT step."""
    ...

  def evaluation(self, count: int) -> Sequence[PromptRow]:
    """Evaluation queries, the same for every seed."""
    ...


ROWS = "rows"  # made from the config's sources, see `row_task`
_REGISTRY: dict[str, Callable[[], Task]] = {
  "arithmetic": Arithmetic,
  "reasoning": ReasoningTasks,
}


def register(name: str, make: Callable[[], Task]) -> None:
  """Makes a task known to configs as `task = name`."""
  _REGISTRY[name] = make


def get(name: str, data: DataConfig | None = None) -> Task:
  """Makes the task of that name.

  Args:
    name: a registered one, or "rows": rows from files and data sets.
    data: for "rows", which sources.

  Raises:
    ValueError: no such task; says which is nearest. For "rows", a source that cannot be.
  """
  if name == ROWS:
    return RowTask.from_config(data or DataConfig())
  if name not in _REGISTRY:
    known = [*_REGISTRY, ROWS]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}."
    raise ValueError(f"task={name!r} is not registered; {hint}")
  return _REGISTRY[name]()

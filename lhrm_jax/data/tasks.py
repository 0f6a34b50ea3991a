"""Tasks by name: where queries, demonstrations and evaluation prompts come from."""

from collections.abc import Callable, Sequence
from typing import Protocol

from lhrm_jax.data.arithmetic import Arithmetic
from lhrm_jax.data.batches import Encoded
from lhrm_jax.data.config import DataConfig
from lhrm_jax.data.guessing import Guessing
from lhrm_jax.data.reasoning_tasks import ReasoningTasks
from lhrm_jax.data.row_task import RowTask
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.registry import Registry
from lhrm_jax.text import Tokenizer


class Task(Protocol):
  """A source of rows. Everything is a function of its arguments, so that a resumed or replayed run
  sees the same rows.

  Attributes:
    notes: what a reader of the report must know about the task.
  """

  notes: tuple[str, ...]

  def tokenizer(self) -> Tokenizer | None:
    """The tokenizer of a policy trained from scratch on this task; `None` where the task needs a
    pretrained policy.
    """
    ...

  def prompts(self, seed: int, step: int, count: int) -> Sequence[PromptRow]:
    """The training queries of one HGPO step."""
    ...

  def demonstrations(
    self, seed: int, step: int, think: int, no_think: int
  ) -> tuple[Sequence[HFTRow | Encoded], Sequence[HFTRow | Encoded]]:
    """The thinking and the direct demonstrations of one HFT step, as text or as token ids."""
    ...

  def evaluation(self, count: int) -> Sequence[PromptRow]:
    """Evaluation queries, the same for every seed."""
    ...


ROWS = "rows"  # made from the config's sources, see `row_task`
# `register("mine", Mine)` makes `Mine()` available to configs as `task = "mine"`.
REGISTRY: Registry[Callable[..., Task]] = Registry("task")
register, names = REGISTRY.register, REGISTRY.names
register("arithmetic", Arithmetic)
register("guessing", Guessing)
register("reasoning", ReasoningTasks)
register(ROWS, RowTask.from_config)


def get(name: str, data: DataConfig | None = None) -> Task:
  """Makes the task registered as `name`.

  Args:
    name: a registered one.
    data: names the sources of "rows".

  Raises:
    UnknownName: there is none; the message names the nearest.
    ValueError: a source of "rows" does not exist or has a malformed field.
  """
  make = REGISTRY.get(name)
  return make(data or DataConfig()) if name == ROWS else make()


def own_tokenizer(name: str, task: Task) -> Tokenizer:
  """The tokenizer of a policy trained from scratch on `task`, which is registered as `name`.

  Raises:
    ValueError: the task needs a pretrained policy.
  """
  tokenizer = task.tokenizer()
  if tokenizer is None:
    raise ValueError(
      f"task={name!r} needs a pretrained policy: set init_from to a model folder, a hub id, a GGUF "
      "file or package:NAME."
    )
  return tokenizer

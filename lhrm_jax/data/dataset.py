"""What a known data set is, and what mathematical ones have in common."""

import dataclasses
from collections.abc import Callable

from lhrm_jax.data.fields import BadRow, Fields
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.data.sources import Source
from lhrm_jax.text import boxes

# What the paper appends to a mathematical question (https://arxiv.org/abs/2505.14631).
MATH_SUFFIX = "Let's think step by step and output the final answer within \\boxed{}."


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set: where its rows are, the function that reads one, and the kind of row it returns."""

  source: Source
  to_row: Callable[[Fields], PromptRow | HFTRow]
  kind: type[PromptRow] | type[HFTRow] = PromptRow


def math_prompt(question: str) -> str:
  """`question` with the request for a boxed answer."""
  return f"{question.strip()}\n{MATH_SUFFIX}"


def boxed(solution: str) -> str:
  """The content of the last `\\boxed{...}` of a solution.

  Raises:
    BadRow: there is none, or it is never closed.
  """
  box = boxes.last(solution)
  if box is None:
    raise BadRow("the solution boxes no answer")
  if box.content is None:
    raise BadRow("the \\boxed{ of the solution never closes")
  return box.content

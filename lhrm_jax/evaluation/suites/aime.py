"""AIME 2024 and 2025: 30 competition problems each, whose answers are whole numbers below 1,000."""

import re
from collections.abc import Callable

from lhrm_jax.data.fields import Fields
from lhrm_jax.evaluation.suites.suite import SuiteRow, first_text, math_row, register

# Some copies already ask for the form of answer that `math_row` asks for.
_REQUEST = re.compile(r"\n+Please reason step by step[^\n]*\\boxed\{\}\.?\s*$")


def _reader(suite: str) -> Callable[[Fields], SuiteRow]:
  def read(fields: Fields) -> SuiteRow:
    question = first_text(fields, "problem", "Problem", "question", "Question", "prompt")
    answer = fields.get("answer", fields.get("Answer"))
    return math_row(suite, _REQUEST.sub("", question), answer)

  return read


register("aime24", "HuggingFaceH4/aime_2024", "train")(_reader("aime24"))
register("aime25", "math-ai/aime25")(_reader("aime25"))

"""AMC 2023: 40 competition problems with numbers as answers."""

from lhrm_jax.data.fields import Fields
from lhrm_jax.evaluation.suites.suite import SuiteRow, first_text, math_row, register


@register("amc23", "math-ai/amc23")
def read(fields: Fields) -> SuiteRow:
  """The choices of the contest are left out: the answer itself is asked for."""
  return math_row("amc23", first_text(fields, "question", "problem"), fields.get("answer"))

"""SVAMP: one-step word problems with varied wording (https://arxiv.org/abs/2103.07191)."""

from lhrm_jax.data.fields import Fields, text_field
from lhrm_jax.evaluation.suites.suite import SuiteRow, math_row, register


@register("svamp", "ChilleD/SVAMP")
def read(fields: Fields) -> SuiteRow:
  """The story is in `Body`, what is asked in `Question`."""
  question = f"{text_field(fields, 'Body')} {text_field(fields, 'Question')}"
  return math_row("svamp", question, fields.get("Answer"), subject=fields.get("Type"))

"""GSM8K: grade-school word problems (https://arxiv.org/abs/2110.14168), 1,319 in the test split."""

from lhrm_jax.data.fields import BadRow, Fields, text_field
from lhrm_jax.evaluation.suites.suite import SuiteRow, math_row, register


@register("gsm8k", "openai/gsm8k", subset="main")
def read(fields: Fields) -> SuiteRow:
  """The number after the solution's "####" is the gold."""
  _, mark, answer = text_field(fields, "answer").rpartition("####")
  if not mark:
    raise BadRow("the answer holds no '####'")
  return math_row("gsm8k", text_field(fields, "question"), answer.strip().replace(",", ""))

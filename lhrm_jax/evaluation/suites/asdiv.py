"""ASDiv: diverse word problems of elementary school (https://arxiv.org/abs/2106.15772)."""

import re

from lhrm_jax.data.fields import Fields, text_field
from lhrm_jax.evaluation.suites.suite import SuiteRow, math_row, register

_UNIT = re.compile(r"\s*\([^()]*\)")


@register("asdiv", "EleutherAI/asdiv", "validation")
def read(fields: Fields) -> SuiteRow:
  """The gold is the answer less its unit, as in "9 (apples)"; several have semicolons between."""
  question = f"{text_field(fields, 'body')} {text_field(fields, 'question')}"
  answers = [_UNIT.sub("", part).strip() for part in text_field(fields, "answer").split(";")]
  return math_row("asdiv", question, ", ".join(answers), subject=fields.get("solution_type"))

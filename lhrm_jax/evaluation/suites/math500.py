"""MATH500: 500 problems of MATH with levels 1 to 5 and subjects (https://arxiv.org/abs/2305.20050)."""

import re

from lhrm_jax.data import catalog
from lhrm_jax.data.fields import Fields, text_field
from lhrm_jax.evaluation.suites.suite import SuiteRow, math_row, register


@register("math500", "HuggingFaceH4/MATH-500")
def read(fields: Fields) -> SuiteRow:
  """Also reads MATH itself, whose gold is the last box of the solution."""
  level = re.search(r"\d", str(fields.get("level", "")))  # "Level 5", 5, or "Level ?"
  answer = fields.get("answer") or catalog.boxed(str(fields.get("solution", "")))
  return math_row(
    "math500", text_field(fields, "problem"), answer,
    level=int(level[0]) if level else 0, subject=fields.get("subject") or fields.get("type"),
  )  # fmt: skip

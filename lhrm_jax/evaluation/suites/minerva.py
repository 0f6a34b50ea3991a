"""Minerva: 272 problems of undergraduate science courses (https://arxiv.org/abs/2206.14858)."""

from lhrm_jax.data import catalog
from lhrm_jax.data.fields import Fields, text_field
from lhrm_jax.evaluation.suites.suite import SuiteRow, first_text, math_row, register


@register("minerva", "math-ai/minervamath")
def read(fields: Fields) -> SuiteRow:
  """The gold is `answer`, or the last box of the solution; the subject is the course."""
  answer = fields.get("answer") or catalog.boxed(text_field(fields, "solution"))
  question = first_text(fields, "problem", "question")
  return math_row("minerva", question, answer, subject=fields.get("type"))

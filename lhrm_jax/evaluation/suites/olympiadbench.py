"""OlympiadBench: open-ended English problems of mathematics in text alone, 674 or 675 of them.

https://arxiv.org/abs/2402.14008, the subset OE_TO_maths_en_COMP.
"""

from lhrm_jax.data.fields import BadRow, Fields, text_field
from lhrm_jax.evaluation.suites.suite import SuiteRow, math_row, register


@register("olympiadbench", "Hothan/OlympiadBench", "train", subset="OE_TO_maths_en_COMP")
def read(fields: Fields) -> SuiteRow:
  """`final_answer` is a list of one text, in which several answers stand with commas between."""
  answers = fields.get("final_answer")
  if isinstance(answers, str):
    answers = [answers]
  if not isinstance(answers, list) or not answers or not all(isinstance(a, str) for a in answers):
    raise BadRow("'final_answer' is no list of texts")
  question, context = text_field(fields, "question"), fields.get("context")
  if context:
    question = f"{context}\n{question}"
  return math_row("olympiadbench", question, ", ".join(answers), subject=fields.get("subfield"))

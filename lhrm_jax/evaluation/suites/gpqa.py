"""GPQA diamond: 198 graduate-level questions with four choices (https://arxiv.org/abs/2311.12022)."""

import hashlib

from lhrm_jax.data.fields import Fields, text_field
from lhrm_jax.evaluation.suites.suite import SuiteRow, register, row

_CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
_LETTERS = "ABCD"


@register(
  "gpqa_diamond", "Idavidrein/gpqa", "train", subset="gpqa_diamond", scorer="multiple_choice"
)
def read(fields: Fields) -> SuiteRow:
  """The order of the choices is a function of the question."""
  question = text_field(fields, "Question").strip()
  choices = [text_field(fields, name).strip() for name in _CHOICES]
  order = sorted(
    range(len(choices)), key=lambda i: hashlib.sha256(f"{question}{i}".encode()).digest()
  )
  listed = "\n".join(f"{_LETTERS[at]}) {choices[i]}" for at, i in enumerate(order))
  prompt = (
    f"{question}\n\n{listed}\n\nThink step by step, and put the letter of the right choice "
    "within \\boxed{}."
  )
  return row(
    "gpqa_diamond", prompt, _LETTERS[order.index(0)], subject=fields.get("High-level domain")
  )

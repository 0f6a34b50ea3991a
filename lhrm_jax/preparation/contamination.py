"""Removes rows that hold a question of an evaluation."""

from collections.abc import Sequence

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from lhrm_jax.data.questions import Asked
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.evaluation.overlap import GramIndex
from lhrm_jax.preparation.rows import Removal, row_of

# A run of words in more of the evaluation's prompts than this is how a suite words its requests.
_MOST_PROMPTS = 10


class Decontaminate(BaseFilter):
  """Removes rows that ask a question of an evaluation, or share a run of 13 words with one.

  Words are compared normalised (`data.questions`), in prompts, earlier turns and responses.
  """

  name = "questions of the evaluation"

  def __init__(self, work: str, evaluated: Sequence[PromptRow], step: str):
    super().__init__(Removal(work, step))
    self._evaluated = tuple(evaluated)
    self._asked: Asked | None = None

  def filter(self, doc: Document) -> bool | tuple[bool, str]:
    if self._asked is None:  # not before: it would be copied to every worker
      self._asked = Asked(self._evaluated)
      prompts = [row.prompt for row in self._evaluated]
      self._grams = GramIndex(prompts, most_prompts=_MOST_PROMPTS)
    row = row_of(doc.metadata)
    if row in self._asked:
      return False, "asks a question of the evaluation"
    prompts = [*(content for _, content in row.earlier), row.prompt]
    if any(map(self._grams.places, prompts)) or self._grams.places(
      doc.metadata["response"], response=True
    ):
      return False, "shares 13 words with the evaluation"
    return True

"""Splits a response into its mode, its reasoning and its answer part."""

import dataclasses

from lhrm_jax.text import tags


@dataclasses.dataclass(frozen=True)
class ParsedResponse:
  """The parts of one response.

  Attributes:
    mode: `tags.THINK`, `tags.NO_THINK` or `tags.INVALID_MODE`.
    reasoning: the text between `<think>` and the last `</think>`; empty in no-think mode.
    answer: the part an answer is looked for in; `None` where the mode's closing tag is missing, or
      the response opens with no tag.
  """

  mode: int
  reasoning: str
  answer: str | None

  @property
  def closed(self) -> bool:
    return self.answer is not None


def parse_response(text: str) -> ParsedResponse:
  """Parses the text of a whole response, opening tag included.

  The mode is the tag the text *starts* with, which is the first token's own text: a tag further
  inside never decides it. In think mode the answer stands after the last `</think>`, so that a
  model which closes twice is judged by what it says last; in no-think mode it stands inside the
  tags, and what follows `</no_think>` does not count.
  """
  for mode, (opening, closing) in enumerate(zip(tags.OPENING_TAGS, tags.CLOSING_TAGS, strict=True)):
    if not text.startswith(opening):
      continue
    inside = text[len(opening) :]
    if closing not in inside:
      return ParsedResponse(mode, inside if mode == tags.THINK else "", None)
    if mode == tags.THINK:
      reasoning, _, answer = inside.rpartition(closing)
      return ParsedResponse(mode, reasoning, answer)
    return ParsedResponse(mode, "", inside.partition(closing)[0])
  return ParsedResponse(tags.INVALID_MODE, "", None)

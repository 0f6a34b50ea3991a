"""Splits a response into its mode, its reasoning and its answer part, if it is well formed."""

import dataclasses
import re

from lhrm_jax.text import tags

_TAG = re.compile("|".join(map(re.escape, tags.TAGS)))


@dataclasses.dataclass(frozen=True)
class ParsedResponse:
  """The parts of one response.

  Attributes:
    mode: of the tag it opens with: `tags.THINK`, `tags.NO_THINK` or `tags.INVALID_MODE`.
    reasoning: the text between `<think>` and the last `</think>`; empty in no-think mode.
    answer: the part an answer is looked for in; `None` where the response is malformed.
    problem: why it is malformed; empty where it is well formed.
  """

  mode: int
  reasoning: str
  answer: str | None
  problem: str = ""

  @property
  def well_formed(self) -> bool:
    return not self.problem


def without_tags(text: str) -> str:
  """What a response says after its last closing tag, or all of it, without any tags."""
  last = max((text.rfind(tag) + len(tag) for tag in tags.CLOSING_TAGS if tag in text), default=0)
  after = _TAG.sub("", text[last:])
  return after if after.strip() else _TAG.sub("", text)


def parse_response(text: str) -> ParsedResponse:
  """Parses the text of a whole response, opening tag included.

  A response is well formed when it begins with an opening tag, that mode's closing tag follows, no
  tag stands anywhere else, and in no-think mode only whitespace follows the closing tag. In think
  mode the answer stands after `</think>`, in no-think mode inside the tags. A tag that is spelled
  out in ordinary tokens counts as one: the text does not show the difference.

  The text alone is judged here. Where ids are known, see `form.well_formed`: they decide the mode.
  """
  found = _TAG.findall(text)
  if not text.startswith(tags.OPENING_TAGS):
    return ParsedResponse(tags.INVALID_MODE, "", None, "opens with no tag")
  mode = tags.OPENING_TAGS.index(found[0])
  closing = tags.CLOSING_TAGS[mode]
  inside, closed, after = text[len(found[0]) :].rpartition(closing)
  reasoning = (inside if closed else after) if mode == tags.THINK else ""
  problem = ""
  if not closed:
    problem = f"lacks {closing}"
  elif found != [found[0], closing]:
    problem = "holds further tags inside"
  elif mode == tags.NO_THINK and after.strip():
    problem = f"continues after {closing}"
  answer = after if mode == tags.THINK else inside
  return ParsedResponse(mode, reasoning, None if problem else answer, problem)

r"""Boxed answers in LaTeX: `\boxed{...}`, `\fbox{...}` and `\boxed 7`."""

import dataclasses
import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\boxed\s+(?P<bare>[\dA-Za-z]+(?:\.\d+)?)")


@dataclasses.dataclass(frozen=True)
class Box:
  """One box of a text.

  Attributes:
    start: index of the command's backslash.
    end: index behind the argument.
    content: the argument; `None` where its brace is never closed.
  """

  start: int
  end: int
  content: str | None


def outermost(text: str) -> list[Box]:
  """The boxes of `text` in order, without those inside another; nothing follows an unclosed one."""
  found: list[Box] = []
  for match in _BOX.finditer(text):
    if not found or match.start() >= found[-1].end:
      found.append(_read(text, match))
  return found


def last(text: str) -> Box | None:
  """The box of `text` that opens last, if there is any."""
  *_, match = None, *_BOX.finditer(text)
  return match and _read(text, match)


def _read(text: str, match: re.Match) -> Box:
  if match["bare"]:
    return Box(match.start(), match.end(), match["bare"])
  depth = 1
  for i in range(match.end(), len(text)):
    if text[i] in "{}" and text[i - 1] != "\\":
      depth += 1 if text[i] == "{" else -1
      if depth == 0:
        return Box(match.start(), i + 1, text[match.end() : i])
  return Box(match.start(), len(text), None)

"""Turns the fields of a file's row into the rows that training reads, or says what is wrong."""

import re
from typing import Any

from lhrm_jax.data.fields import BadRow, Fields, answer_text, columns, short, text_field, writable
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import parse_response, tags

__all__ = [
  "BadRow", "Fields", "answer_text", "columns", "hft_row", "prompt_row", "text_field"
]  # fmt: skip
_MAX_LEVEL = 2**31 - 1
_TAG = re.compile("|".join(map(re.escape, tags.TAGS)))


def prompt_row(fields: Fields) -> PromptRow:
  """A query from `prompt`, `answer` and, where present, `level` and `source`.

  Raises:
    BadRow: a field is missing or has the wrong type.
  """
  answer = fields.get("answer")
  if answer is None:
    raise BadRow("no 'answer'. Rows for a reward model have answer=\"\"")
  source = str(fields.get("source") or "")
  return PromptRow(
    text_field(fields, "prompt"), answer_text(answer), _level(fields.get("level")),
    writable(source, "source"),
  )  # fmt: skip


def _level(value: Any) -> int:
  if value is None or value == "":
    return 0
  try:
    level = int(value)
  except (OverflowError, TypeError, ValueError):
    raise BadRow(f"level={short(value)} is no number") from None
  if abs(level) > _MAX_LEVEL:
    raise BadRow(f"level={short(value)} is beyond {_MAX_LEVEL:,}")
  return level


def hft_row(fields: Fields) -> HFTRow:
  """A demonstration from `messages`, or `prompt` and `response`, and, where present, `mode`.

  `messages` ends with the user's prompt and the assistant's response; what stands before them is
  kept as context. A response without tags is a direct one if `mode` says so, and gets its tags.

  Raises:
    BadRow: a field is missing, the mode is unknown, or the tags don't fit it.
  """
  if fields.get("messages") is not None:
    earlier, prompt, response = _conversation(fields["messages"])
  else:
    earlier, prompt, response = (), text_field(fields, "prompt"), text_field(fields, "response")
  mode, response = _tagged(response.strip(), fields.get("mode"))
  return HFTRow(prompt, response, mode, earlier=earlier)


def _conversation(messages: Any) -> tuple[tuple[tuple[str, str], ...], str, str]:
  """Splits `[{"role": ..., "content": ...}, ...]` into context, last prompt and last response."""
  try:
    turns = [(message["role"], message["content"]) for message in messages]
  except (TypeError, KeyError, IndexError):
    raise BadRow("'messages' is no list of {role, content}") from None
  roles = [role for role, _ in turns]
  if roles[-2:] != ["user", "assistant"]:
    raise BadRow(f"'messages' must end with user, assistant; the roles are {short(roles)}")
  for role, content in turns:
    if not isinstance(role, str) or not role:
      raise BadRow(f"a message has the role {short(role)}, not a name")
    if not isinstance(content, str) or not content.strip():
      raise BadRow(f"a message of {short(role)} holds no text")
    writable(role + content, "messages")
  return tuple(turns[:-2]), turns[-2][1], turns[-1][1]


def _tagged(response: str, wanted: Any) -> tuple[int, str]:
  """Mode and response, with the tags of a direct response added where it has none."""
  if wanted not in (None, "", *tags.MODES):
    raise BadRow(f"mode={short(wanted)} is none of {', '.join(tags.MODES)}")
  parsed = parse_response(response)
  if parsed.mode == tags.INVALID_MODE and wanted == tags.MODES[tags.NO_THINK]:
    response = f"{tags.OPENING_TAGS[tags.NO_THINK]}{response}{tags.CLOSING_TAGS[tags.NO_THINK]}"
    parsed = parse_response(response)
  if parsed.mode == tags.INVALID_MODE:
    raise BadRow(
      "the response opens with no tag" + ("" if wanted else " and the row has no 'mode'")
    )
  if wanted and parsed.mode != tags.MODES.index(wanted):
    raise BadRow(f"mode={wanted!r}, but the response opens {tags.OPENING_TAGS[parsed.mode]}")
  if not parsed.closed:
    raise BadRow(f"the response lacks {tags.CLOSING_TAGS[parsed.mode]}")
  if len(_TAG.findall(response)) != 2:
    # They would become the tags' own tokens, in the middle of a text about them.
    raise BadRow("the response holds further tags inside")
  return parsed.mode, response

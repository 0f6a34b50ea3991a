"""Turns the fields of a file's row into a `PromptRow` or an `HFTRow`."""

import re
from collections.abc import Mapping
from typing import Any

from lhrm_jax.data import messages
from lhrm_jax.data.fields import BadRow, Fields, answer_text, columns, short, text_field, writable
from lhrm_jax.data.messages import Message
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import parse_response, tags

__all__ = [
  "BadRow", "Fields", "answer_text", "columns", "hft_row", "prompt_row", "text_field"
]  # fmt: skip
_MAX_LEVEL = 2**31 - 1
_CONVERSATIONS = ("messages", "conversations")
_RESPONSES = ("response", "completion")
_LISTS = (list, Mapping)  # of messages; a mapping of columns is one too
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](?:role|from|content|value)['"]\s*:""")
# How a template switches thinking off; white space may be of any kind.
_EMPTY_THOUGHT = re.compile(r"<think>[\s\u200b-\u200f\u2060\ufeff]*</think>")
# How other models open a thought.
_FOREIGN_THOUGHT = re.compile(
  r"<thinking>|<thought>|<reasoning>|\[THINK\]|<\|begin_of_thought\|>|<\|channel\|>analysis|◁think▷",
  re.IGNORECASE,
)


def prompt_row(fields: Fields) -> PromptRow:
  """A query from `prompt`, `answer` and, where present, `level`, `source` and `system`.

  `prompt` is text or a list of messages; `messages` or `conversations` may take its place, without
  their last reply. verl's names, `reward_model.ground_truth` and `data_source`, are read as
  `answer` and `source`.

  Raises:
    BadRow: a field is missing or has the wrong type.
  """
  answer, judged = fields.get("answer"), fields.get("reward_model")
  if answer is None and isinstance(judged, Mapping):
    answer = judged.get("ground_truth")
  if answer is None:
    raise BadRow("no 'answer'. Rows for a reward model have answer=\"\"")
  messages.refuse_what_is_not_text(fields)
  key = next((k for k in ("prompt", *_CONVERSATIONS) if fields.get(k) is not None), "prompt")
  conversation = _conversation(fields, key)
  if key in _CONVERSATIONS and len(conversation) > 1 and conversation[-1].role == "assistant":
    conversation.pop()
  earlier, prompt = messages.split(conversation, key)
  source = str(fields.get("source") or fields.get("data_source") or "")
  return PromptRow(
    prompt, answer_text(answer), _level(fields.get("level")), writable(source, "source"), earlier
  )


def _conversation(fields: Fields, key: str) -> list[Message]:
  """The messages in column `key`, plain text being the user's, after the row's system prompt."""
  if key in _CONVERSATIONS or isinstance(fields.get(key), _LISTS):
    found = messages.read(fields[key], key)
  else:
    found = [Message("user", text_field(fields, key))]
    if _MESSAGES_AS_TEXT.match(found[0].content):
      raise BadRow(f"{key!r} is messages written as text: store them as a list")
  return messages.with_system(found, fields.get("system"))


def _level(value: Any) -> int:
  if value is None or value == "":
    return 0
  try:
    level = int(value)
  except (OverflowError, TypeError, ValueError):
    raise BadRow(f"level={short(value)} is not a number") from None
  if abs(level) > _MAX_LEVEL:
    raise BadRow(f"level={short(value)} is beyond {_MAX_LEVEL:,}")
  return level


def hft_row(fields: Fields) -> HFTRow:
  """A demonstration from `messages`, or `prompt` and `response`, and, where present, `mode`.

  `messages` or `conversations` end with the user's prompt and the assistant's response; earlier
  messages are kept as context. `prompt` may be a list of messages, `completion` another name for
  `response`, text or one message. A thought in a field of its own is put between its tags; without
  one, a response without tags is a direct one if `mode` says so, and gets its tags. An empty
  thought counts as none.

  Raises:
    BadRow: a field is missing, the mode is unknown, or the tags or a thought don't fit it.
  """
  messages.refuse_what_is_not_text(fields)
  key = next((k for k in _CONVERSATIONS if fields.get(k) is not None), "prompt")
  conversation = _conversation(fields, key)
  if key == "prompt":
    reply = _reply(fields)
  else:
    reply = conversation.pop()
    if reply.role != "assistant" or not conversation or conversation[-1].role != "user":
      roles = [message.role for message in (*conversation, reply)]
      raise BadRow(f"{key!r} must end with user, assistant; the roles are {short(roles)}")
  earlier, prompt = messages.split(conversation, key)
  thought = messages.one_thought(reply.thought, messages.thought_of(fields))
  response, wanted = _with_thought(reply.content.strip(), thought, fields.get("mode"))
  mode, response = _tagged(response, wanted)
  if not (parse_response(response).answer or "").strip():
    raise BadRow("the response holds no answer")
  return HFTRow(prompt, response, mode, earlier=earlier)


def _reply(fields: Fields) -> Message:
  """The assistant's message of a row that has its prompt in a column of its own."""
  key = next((k for k in _RESPONSES if fields.get(k) is not None), _RESPONSES[0])
  if not isinstance(fields.get(key), _LISTS):
    return Message("assistant", text_field(fields, key))
  reply = messages.read(fields[key], key)
  if [message.role for message in reply] != ["assistant"]:
    raise BadRow(f"{key!r} is a list of other messages than one of the assistant")
  return reply[0]


def _with_thought(response: str, thought: str, wanted: Any) -> tuple[str, Any]:
  """The response with a separate thought put between its tags, and its mode where that tells.

  An empty thought is removed: the response is a direct one.
  """
  direct = tags.MODES[tags.NO_THINK]
  if thought:
    if wanted == direct:
      raise BadRow(f"mode={direct!r}, but the row holds a thought in a field of its own")
    if response.startswith(tags.OPENING_TAGS):
      raise BadRow("the row holds a thought in a field of its own, and tags in the response")
    opening, closing = tags.OPENING_TAGS[tags.THINK], tags.CLOSING_TAGS[tags.THINK]
    return f"{opening}{thought}{closing}{response}", wanted
  if empty := _EMPTY_THOUGHT.match(response):
    if wanted == tags.MODES[tags.THINK]:
      raise BadRow(f"mode={wanted!r}, but the thought is empty")
    return response[empty.end() :].strip(), wanted or direct
  if wanted == direct and (mark := _FOREIGN_THOUGHT.match(response)):
    raise BadRow(
      f"mode={direct!r}, but the response opens a thought with {mark[0]}: put it between "
      "<think> and </think>, or in 'reasoning_content'"
    )
  return response, wanted


def _tagged(response: str, wanted: Any) -> tuple[int, str]:
  """Mode and response, with the tags of a direct response added where it has none."""
  if wanted not in (None, "", *tags.MODES):
    raise BadRow(f"mode={short(wanted)} is not one of {', '.join(tags.MODES)}")
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
  if not parsed.well_formed:
    # Further tags would become the tags' own tokens, in the middle of a text about them.
    raise BadRow(f"the response {parsed.problem}")
  return parsed.mode, response

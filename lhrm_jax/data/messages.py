"""Conversations in the formats of data sets: OpenAI's, TRL's, verl's and ShareGPT's.

A message is `{"role": ..., "content": ...}` or `{"from": ..., "value": ...}`; content is text, or a
list of parts of which only text is read. A thought may have a field or part of its own.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lhrm_jax.data.fields import BadRow, Fields, short, writable

# Names of fields in which servers and data sets keep a thought apart from the answer.
THOUGHTS = (
  "reasoning_content", "reasoning", "thinking", "thought", "thinking_content", "reasoning_text",
)  # fmt: skip
_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
             "assistant": "assistant", "system": "system"}  # fmt: skip
_SYSTEM = ("system", "developer")
# Columns, and fields of a message, whose content a text-only prompt would leave out.
_NOT_TEXT = ("image", "images", "video", "videos", "audio", "audios", "tools", "tool_calls",
             "function_call")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Message:
  """One turn.

  Attributes:
    role: "system", "user", "assistant", or another that a chat template knows.
    content: its text; never blank.
    thought: reasoning that stands apart from the content; "" where there is none.
  """

  role: str
  content: str
  thought: str = ""


def read(value: Any, key: str) -> list[Message]:
  """The messages in column `key`, at least one.

  Raises:
    BadRow: it holds no messages, or other than text.
  """
  if isinstance(value, Mapping) and all(isinstance(column, list) for column in value.values()):
    lengths = {len(column) for column in value.values()}
    if len(lengths) == 1:  # a sequence of structures, as tensorflow_datasets gives it: by column
      value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
  if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
    raise BadRow(f"{key!r} is not a list of {{role, content}}")
  return [_message(message, key) for message in value]


def _message(message: Any, key: str) -> Message:
  if not isinstance(message, Mapping):
    raise BadRow(f"{key!r} is not a list of {{role, content}}")
  if message.get("from") is not None and message.get("role") is None:
    role, content = _SHAREGPT.get(_name(message["from"])), message.get("value")
    if role is None:
      raise BadRow(f"a message is from {short(message['from'])}, none of {', '.join(_SHAREGPT)}")
  elif {"role", "content"} <= message.keys():
    role, content = _name(message["role"]), message["content"]
  else:
    raise BadRow(f"{key!r} is not a list of {{role, content}}")
  refuse_what_is_not_text(message)
  text, thought = _parts(content) if isinstance(content, list) else (content, "")
  if not isinstance(text, str) or not text.strip():
    raise BadRow(f"a message of {short(role)} holds no text")
  writable(role + text, key)
  return Message(role, text, one_thought(thought, thought_of(message)))


def _name(role: Any) -> str:
  if not isinstance(role, str) or not role:
    raise BadRow(f"a message has the role {short(role)}, not a name")
  return role


def _parts(content: list) -> tuple[str, str]:
  """Text and thought of a list of parts, joined by newlines as vLLM joins them."""
  found: tuple[list[str], list[str]] = ([], [])
  for part in content:
    fields = {"text": part} if isinstance(part, str) else part
    if not isinstance(fields, Mapping):
      raise BadRow(f"a message holds the part {short(part)}, not text")
    kind = fields.get("type") or "text"
    apart = kind in THOUGHTS
    text = next((t for name in (kind, "text") if isinstance(t := fields.get(name), str)), None)
    if text is None or not (apart or kind == "text"):
      raise BadRow(f"a message holds a part of type {short(kind)}; only text is read")
    found[apart].append(text)
  return "\n".join(found[0]), "\n".join(found[1])


def thought_of(fields: Fields) -> str:
  """The thought in a field of its own, "" where there is none.

  Raises:
    BadRow: it is not text, or two fields hold different ones.
  """
  thought = ""
  for name in THOUGHTS:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
      raise BadRow(
        f"{name!r} is {type(value).__name__}, not a thought in words; if it means something else, "
        f"leave it out with constants={{{name!r}: None}}"
      )
    thought = one_thought(thought, writable(value or "", name))
  return thought


def one_thought(first: str, second: str) -> str:
  """The thought that two fields hold between them; raises `BadRow` where they differ."""
  first, second = first.strip(), second.strip()
  if first and second and first != second:
    raise BadRow("the thought stands in two places, with different words")
  return first or second


def refuse_what_is_not_text(fields: Fields) -> None:
  """Raises:
  BadRow: a column or message holds images, sound or tools, which training would leave out.
  """
  for name in _NOT_TEXT:
    if fields.get(name):
      raise BadRow(f"{name!r} is not empty, and only text is read")


def with_system(messages: list[Message], system: Any) -> list[Message]:
  """The messages, preceded by the system prompt of a column `system`."""
  if system is not None and not isinstance(system, str):
    raise BadRow(f"'system' is {type(system).__name__}, not text")
  if not (system or "").strip():
    return messages
  if messages[0].role in _SYSTEM:
    if messages[0].content.strip() == system.strip():
      return messages
    raise BadRow("'system' is another system prompt than the messages begin with")
  return [Message("system", writable(system, "system")), *messages]


def split(messages: Sequence[Message], key: str) -> tuple[tuple[tuple[str, str], ...], str]:
  """Role and content of the messages before the last, which is the user's, and its content.

  Thoughts of earlier turns are dropped, as chat templates drop them when serving.

  Raises:
    BadRow: the user does not speak last.
  """
  if messages[-1].role != "user":
    roles = [message.role for message in messages]
    raise BadRow(f"{key!r} must end with the user's message; the roles are {short(roles)}")
  return tuple((m.role, m.content) for m in messages[:-1]), messages[-1].content

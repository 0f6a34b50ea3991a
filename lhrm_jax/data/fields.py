"""Reads single fields of a row; what is malformed raises `BadRow`."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from lhrm_jax.text import printable

Fields = Mapping[str, Any]
_SHOWN = 60  # characters of a value, or columns of a row, in a message


class BadRow(ValueError):
  """A row that can't be trained on; the message says why, and the reader adds its location."""


class Unwanted(ValueError):
  """A good row that is not wanted, e.g. of another subject; the message says why."""


def text_field(fields: Fields, key: str) -> str:
  """The text in column `key`, which must not be blank."""
  value = fields.get(key)
  if value is None:
    raise BadRow(f"no {key!r}; the row has {columns(fields) or 'no fields'}")
  if not isinstance(value, str):
    raise BadRow(f"{key!r} is {type(value).__name__}, not text")
  if not value.strip():
    raise BadRow(f"{key!r} is empty")
  return writable(value, key)


def answer_text(answer: Any) -> str:
  """An answer, text or a finite number, as the text that rewards take."""
  if not isinstance(answer, str | numbers.Real):
    raise BadRow(f"'answer' is {type(answer).__name__}, neither text nor a number")
  if isinstance(answer, float) and not math.isfinite(answer):
    raise BadRow(f"answer={answer}")
  return writable(str(answer), "answer")


def writable(text: str, key: str) -> str:
  """`text` itself; raises `BadRow` for a lone surrogate, which JSON can name and UTF-8 cannot."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise BadRow(
      f"{key!r} holds {text[error.start]!a} at character {error.start}, half of a character"
    ) from None
  return text


def columns(fields: Fields) -> str:
  """The names of a row's columns, for a message."""
  return printable(", ".join(sorted(map(str, fields))), _SHOWN)


def short(value: Any) -> str:
  """A value, shortened for a message."""
  try:
    return printable(repr(value), _SHOWN)
  except (RecursionError, ValueError):  # a whole number of more digits than Python prints
    return f"<{type(value).__name__}>"

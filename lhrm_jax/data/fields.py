"""Single fields of a file's row: read as what they must be, or said to be bad."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from lhrm_jax.text import printable

Fields = Mapping[str, Any]
_SHOWN = 60  # characters of a value, or columns of a row, in a message


class BadRow(ValueError):
  """A row that can't be trained on; the message says why, the reader adds where it stands."""


def text_field(fields: Fields, key: str) -> str:
  """The text in column `key`; missing, empty and other than text are bad."""
  value = fields.get(key)
  if value is None:
    raise BadRow(f"no {key!r}; the row has {columns(fields) or 'no fields'}")
  if not isinstance(value, str):
    raise BadRow(f"{key!r} is {type(value).__name__}, not text")
  if not value.strip():
    raise BadRow(f"{key!r} is empty")
  return writable(value, key)


def answer_text(answer: Any) -> str:
  """An answer as rewards take it; what is neither text nor a finite number is bad."""
  if not isinstance(answer, str | numbers.Real):
    raise BadRow(f"'answer' is {type(answer).__name__}, neither text nor a number")
  if isinstance(answer, float) and not math.isfinite(answer):
    raise BadRow(f"answer={answer}")
  return writable(str(answer), "answer")


def writable(text: str, key: str) -> str:
  """The text, if it can be written and read by a tokenizer: JSON can name half of a character, a
  lone surrogate.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise BadRow(
      f"{key!r} holds {text[error.start]!a} at character {error.start}, half of a character"
    ) from None
  return text


def columns(fields: Fields) -> str:
  """The names of a row's columns, as a message lists them."""
  return printable(", ".join(sorted(map(str, fields))), _SHOWN)


def short(value: Any) -> str:
  """A value as a message shows it."""
  try:
    return printable(repr(value), _SHOWN)
  except (RecursionError, ValueError):  # a whole number of more digits than Python prints
    return f"<{type(value).__name__}>"

"""The error class for a user's mistakes."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
  """A mistake of the user; the message says what is wrong, where, and how to correct it."""


@contextlib.contextmanager
def as_user_error(*errors: type[Exception]) -> Iterator[None]:
  """Turns these errors into `UserError`s with the same message."""
  try:
    yield
  except errors as error:
    message = error.args[0] if isinstance(error, KeyError) else error
    raise UserError(str(message)) from error

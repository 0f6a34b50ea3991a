"""The one error class for mistakes in what a user gave."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
  """A mistake in what the user gave; the message says what, where and how to mend it."""


@contextlib.contextmanager
def as_user_error(*errors: type[Exception]) -> Iterator[None]:
  """Within it, these errors are mistakes in what the user gave: their messages say all there is."""
  try:
    yield
  except errors as error:
    message = error.args[0] if isinstance(error, KeyError) else error
    raise UserError(str(message)) from error

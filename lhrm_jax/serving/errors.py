"""Errors of the API, in OpenAI's form."""

from collections.abc import Mapping
from typing import Any

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
  """An answer other than 200.

  Attributes:
    status: of HTTP.
    message: what is wrong, where, and how to mend it.
    param: field of the request, if it is one's fault.
    code: word for programs.
    headers: of the answer.
  """

  def __init__(
    self, status: int, message: str, *, param: str | None = None, code: str | None = None,
    headers: Mapping[str, str] | None = None,
  ):  # fmt: skip
    super().__init__(message)
    self.status, self.message, self.param, self.code = status, message, param, code
    self.headers = dict(headers or {})

  def body(self) -> dict[str, Any]:
    kind = _TYPES.get(
      self.status, "server_error" if self.status >= 500 else "invalid_request_error"
    )
    return {
      "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}
    }


def wrong(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
  """A request that asks for something it cannot have."""
  return ApiError(400, message, param=param, code=code)

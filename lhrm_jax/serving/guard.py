"""What stands before the API: who may ask, under which host name, and how large a body may be."""

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lhrm_jax.serving.errors import ApiError

# What a browser and a supervisor fetch without a key; nothing of the model is in it.
OPEN_PATHS = frozenset({"/", "/chat.js", "/chat.css", "/health"})


def is_loopback(host: str) -> bool:
  """Whether only this machine reaches the address."""
  if host == "localhost":
    return True
  try:
    return ipaddress.ip_address(host.strip("[]")).is_loopback
  except ValueError:
    return False


class Guard:
  """Answers what may not pass itself; the application sees whole, bounded bodies.

  Without a key, a server on a loopback address answers to loopback names only: a page on the web
  could point a name of its own at this machine.
  """

  def __init__(
    self, app: ASGIApp, key: str, body_bytes: int, body_seconds: float,
    refused: Callable[[int], None],
  ):  # fmt: skip
    """Args:
    app: the application.
    key: bearer token; "" asks for none.
    body_bytes: longest body.
    body_seconds: time in which a body has to arrive.
    refused: called with the status of each answer given here.
    """
    self._app, self._digest = app, _digest(key) if key else b""
    self._body_bytes, self._body_seconds, self._refused = body_bytes, body_seconds, refused

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
      await self._app(scope, receive, send)
      return
    if scope["type"] != "http":
      return
    try:
      headers = Headers(scope=scope)
      self._check_caller(scope["path"], headers)
      body = await self._body(headers, receive)
    except ApiError as error:
      self._refused(error.status)
      answer = JSONResponse(error.body(), error.status, {**error.headers, "connection": "close"})
      await answer(scope, receive, send)
      return
    await self._app(scope, _after(body, receive), send)

  def _check_caller(self, path: str, headers: Headers) -> None:
    if not self._digest:
      host = headers.get("host", "")
      name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
      if not is_loopback(name):
        raise ApiError(
          403, "This server answers to localhost only; to serve other names, start it with a key.",
          code="host_not_allowed",
        )  # fmt: skip
      return
    if path in OPEN_PATHS:
      return
    scheme, _, given = headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(_digest(given.strip()), self._digest)
    if scheme.lower() != "bearer" or not right:
      raise ApiError(
        401, "The key is missing or wrong: send it as `Authorization: Bearer KEY`.",
        code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
      )  # fmt: skip

  async def _body(self, headers: Headers, receive: Receive) -> bytes:
    too_large = ApiError(
      413, f"The body exceeds {self._body_bytes:,} bytes, the most this server reads.",
      code="body_too_large",
    )  # fmt: skip
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > self._body_bytes:
      raise too_large
    parts, size = [], 0
    try:
      async with asyncio.timeout(self._body_seconds):
        while True:
          message = await receive()
          if message["type"] == "http.disconnect":
            raise ApiError(400, "The client left before its request was complete.")
          parts.append(message.get("body", b""))
          size += len(parts[-1])
          if size > self._body_bytes:
            raise too_large
          if not message.get("more_body"):
            return b"".join(parts)
    except TimeoutError:
      raise ApiError(
        408, f"The body did not arrive within {self._body_seconds:g} seconds.", code="timeout"
      ) from None


def _digest(key: str) -> bytes:
  # Of equal length, so that a comparison does not tell the length of the key.
  return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _after(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
  """`receive` of an application that gets a body already read, then what comes next."""
  messages = [{"type": "http.request", "body": body, "more_body": False}]

  async def next_message() -> Message:
    return messages.pop() if messages else await receive()

  return next_message

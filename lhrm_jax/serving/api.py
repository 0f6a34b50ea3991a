"""The API over HTTP: OpenAI's routes, health, metrics, and the page to chat with."""

import asyncio
import contextlib
import dataclasses
import importlib.resources
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from lhrm_jax.config import nearest
from lhrm_jax.serving import answers, asked
from lhrm_jax.serving.bodies import ChatRequest, CompletionRequest, StreamOptions
from lhrm_jax.serving.config import ServingConfig
from lhrm_jax.serving.errors import ApiError
from lhrm_jax.serving.guard import Guard
from lhrm_jax.serving.jobs import Job
from lhrm_jax.serving.lanes import Lane
from lhrm_jax.serving.metrics import Metrics

_LAST_READ_S = 10.0  # beyond its deadline, for a client to read the end of a stream
_GONE = 499  # status of a request whose client left, in metrics and logs
_SECURITY = {
  "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
  "cache-control": "no-store",
}  # fmt: skip
_PAGE = {"/": ("chat.html", "text/html"), "/chat.js": ("chat.js", "text/javascript"),
         "/chat.css": ("chat.css", "text/css")}  # fmt: skip
_ERRORS = {
  status: {"description": what}
  for status, what in (
    (400, "The request asks for something it cannot have."), (401, "No key, or a wrong one."),
    (403, "Another host name."), (404, "No such model."), (408, "The body came too slowly."),
    (413, "The body is too large."), (415, "Not JSON."),
    (429, "The queue is full."), (500, "An error of the server."),
    (502, "A lane's endpoint failed."), (503, "The engine has stopped."),
    (504, "The reply took too long."),
  )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Service:
  """What the routes work with.

  Attributes:
    lanes: by name.
    defaults: what the server sets for all requests.
    config: knobs of the server.
    metrics: counters.
  """

  lanes: Mapping[str, Lane]
  defaults: asked.Defaults
  config: ServingConfig
  metrics: Metrics


def create_app(service: Service, key: str = "") -> Guard:
  """The application.

  Args:
    service: see `Service`.
    key: bearer token that requests have to bear; "" for none.
  """
  # No pages of documentation: they load scripts from elsewhere.
  app = FastAPI(title="lhrm_jax", docs_url=None, redoc_url=None)
  metrics, c = service.metrics, service.config

  def answered(error: ApiError) -> JSONResponse:
    metrics.requests.labels(str(error.status)).inc()
    return JSONResponse(error.body(), error.status, error.headers)

  @app.exception_handler(ApiError)
  async def of_ours(_: Request, error: ApiError) -> JSONResponse:
    return answered(error)

  @app.exception_handler(RequestValidationError)
  async def of_a_body(_: Request, error: RequestValidationError) -> JSONResponse:
    return answered(_explained(error.errors()))

  @app.exception_handler(HTTPException)
  async def of_http(_: Request, error: HTTPException) -> JSONResponse:
    return answered(ApiError(error.status_code, f"{error.detail}.", headers=error.headers))

  @app.exception_handler(Exception)
  async def of_a_bug(_: Request, error: Exception) -> JSONResponse:
    return answered(ApiError(500, "The server made an error; its log has more."))

  @app.post("/v1/chat/completions", responses=_ERRORS)
  async def chat_completions(body: ChatRequest, request: Request) -> Response:
    return await _reply(service, body, request)

  @app.post("/v1/completions", responses=_ERRORS)
  async def completions(body: CompletionRequest, request: Request) -> Response:
    return await _reply(service, body, request)

  @app.get("/v1/models", responses={401: _ERRORS[401]})
  async def models() -> dict[str, Any]:
    found = [
      {"id": name, "object": "model", "created": 0, "owned_by": "lhrm_jax"}
      for name in service.defaults.models()
    ]
    return {"object": "list", "data": found}

  @app.get("/health", responses={503: _ERRORS[503]})
  async def health() -> dict[str, str]:
    for lane in service.lanes.values():
      if lane.failed:
        raise ApiError(503, f"{lane.failed}.", code="unavailable")
    return {"status": "ok"}

  @app.get("/metrics", responses={401: _ERRORS[401]}, response_class=PlainTextResponse)
  async def exposition() -> Response:
    return Response(metrics.text(), media_type="text/plain; version=0.0.4")

  for path, (file, media_type) in _PAGE.items():
    _add_file(app, path, file, media_type)
  return Guard(
    app, key, int(c.body_mib * 2**20), c.body_seconds,
    lambda status: metrics.requests.labels(str(status)).inc(),
  )  # fmt: skip


def _add_file(app: FastAPI, path: str, file: str, media_type: str) -> None:
  content = (importlib.resources.files("lhrm_jax.serving") / "page" / file).read_bytes()

  @app.get(path, include_in_schema=False)
  async def page() -> Response:
    return Response(content, media_type=media_type, headers=_SECURITY)


def _explained(problems: list[dict[str, Any]]) -> ApiError:
  """The first problem of a body, in words, with the nearest name for an unknown field."""
  problem = problems[0]
  path = [str(part) for part in problem["loc"] if part != "body"]
  where = ".".join(path)
  if problem["type"] == "extra_forbidden":
    kind = CompletionRequest if "prompt" in where else ChatRequest
    near = nearest(path[-1], list(kind.model_fields)) if len(path) == 1 else ""
    what = f"{where!a:.100} is not a field of this API" + (
      f"; did you mean {near}?" if near else "."
    )
    return ApiError(400, what, param=where[:100], code="unknown_field")
  message = f"{where[:100] or 'body'}: {problem['msg']}."
  return ApiError(400, message, param=where[:100] or None, code=problem["type"])


async def _reply(
  service: Service, body: ChatRequest | CompletionRequest, request: Request
) -> Response:
  """Runs a request, and answers it whole or as a stream."""
  raw = isinstance(body, CompletionRequest)
  prompts = await run_in_threadpool(asked.prompts_by_lane, body, service.lanes)
  c = service.config
  deadline = time.monotonic() + c.request_seconds
  wanted = await run_in_threadpool(
    asked.of_request, body, prompts, service.lanes, service.defaults, deadline
  )
  job = Job(wanted, body.model, service.lanes, service.defaults.router_lane)
  job.submit()
  events, gone = job.events(), asyncio.ensure_future(_disconnected(request.receive))

  def end(status: int) -> None:
    gone.cancel()
    job.cancel()
    job.account(service.metrics, c.log, status, lambda: _texts(job))

  def stream_end(status: int) -> None:
    service.metrics.requests.labels(str(status)).inc()
    end(status)

  try:
    if body.stream:
      # The headers tell what the first token decides.
      first = await _unless(gone, anext(events))
      options = body.stream_options or StreamOptions()
      chunks = _chunks(job, first, events, raw, options)
      return Stream(chunks, job.headers(), gone, stream_end, deadline)
    await _unless(gone, _to_the_end(events))
  except BaseException as error:
    end(error.status if isinstance(error, ApiError) else _GONE)
    raise
  end(200)
  service.metrics.requests.labels("200").inc()
  whole = (answers.completion if raw else answers.chat)(job)
  return JSONResponse(whole, headers=job.headers())


async def _to_the_end(events: AsyncIterator) -> None:
  async for _ in events:
    pass


async def _disconnected(receive: Receive) -> None:
  while (await receive())["type"] != "http.disconnect":
    pass


async def _unless(gone: asyncio.Future, awaited) -> Any:
  """The result of `awaited`, unless the client leaves first.

  Raises:
    ApiError: it has left.
  """
  task = asyncio.ensure_future(awaited)
  try:
    await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
      return task.result()
    raise ApiError(_GONE, "The client has left.")
  finally:
    if not task.done():
      task.cancel()
      with contextlib.suppress(asyncio.CancelledError):
        await task


async def _chunks(
  job: Job, first: tuple, events: AsyncIterator, raw: bool, options: StreamOptions
) -> AsyncIterator[bytes]:
  """The events of a stream as bytes; an error ends it with an event of its own."""
  chunk = answers.completion_chunk if raw else answers.chat_chunk

  def with_usage(told: dict[str, Any]) -> dict[str, Any]:
    return told | {"usage": job.usage()} if options.continuous_usage_stats else told

  told = chunk(job, *first)
  yield answers.as_event(with_usage(told))
  async for index, event in events:
    if (told := chunk(job, index, event)) is not None:
      yield answers.as_event(with_usage(told))
  if options.include_usage:
    yield answers.as_event(answers.usage_chunk(job, told["object"]))
  yield b"data: [DONE]\n\n"


class Stream(Response):
  """A stream of events that ends when the client leaves, or reads nothing until the deadline."""

  def __init__(
    self, chunks: AsyncIterator[bytes], headers: dict, gone: asyncio.Future, end, deadline: float
  ):
    self._chunks, self._gone, self._end, self._deadline = chunks, gone, end, deadline
    self.status_code, self.background = 200, None
    self.media_type = "text/event-stream"
    self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no", **headers})

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    status = _GONE
    try:
      await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
      # The engine ends a reply at the deadline; what is late then is the client's reading.
      late = asyncio.timeout(self._deadline - time.monotonic() + _LAST_READ_S)
      with contextlib.suppress(ApiError, OSError):  # the client has left
        async with late:
          status = await _unless(self._gone, self._write(send))
    finally:
      self._end(status)

  async def _write(self, send: Send) -> int:
    status = 200
    try:
      async for chunk in self._chunks:
        await send(_part(chunk))
    except ApiError as error:
      status = error.status
      await send(_part(answers.as_event(error.body())))
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return status


def _part(data: bytes) -> dict[str, Any]:
  return {"type": "http.response.body", "body": data, "more_body": True}


def _texts(job: Job) -> dict[str, Any]:
  prompt, tokenizer = job.choices[0].prompt, job.tokenizer(0)
  return {
    "prompt": tokenizer.decode(list(prompt)) if tokenizer else prompt,
    "replies": [choice.texts for choice in job.choices],
  }

"""A lane elsewhere: any endpoint with OpenAI's API, such as vLLM with an exported policy."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx2

from lhrm_jax.serving.bodies import ChatRequest, CompletionRequest
from lhrm_jax.serving.errors import wrong
from lhrm_jax.serving.lanes import Part
from lhrm_jax.serving.reply import CONTENT, LENGTH, REASONING, STOP, Piece
from lhrm_jax.serving.sequences import Decided, Event, Failed, Finished, Settings
from lhrm_jax.text import tags

_CONNECT_S = 10.0


@dataclasses.dataclass(eq=False)
class RemoteRow:
  """One reply of an endpoint; see `sequences.Row`."""

  prompt: Sequence[dict[str, str]]
  part: Part
  settings: Settings
  emit: Callable[[Event], None]


class RemoteLane:
  """An endpoint. See `lanes.Lane` for the methods.

  The mode is forced by `chat_template_kwargs.enable_thinking`; the endpoint tells thoughts apart
  as `reasoning` or `reasoning_content`. The log-probability of its choice is not known here, so it
  never chooses: the router is a lane of this process.
  """

  context, failed, tokenizer = None, "", None

  def __init__(self, url: str, model: str, key: str, transport: Any = None):
    """Args:
    url: up to and with `/v1`.
    model: its name there.
    key: bearer token, "" for none.
    transport: of httpx2, in place of the network.
    """
    self._url, self._model, self._transport = url.rstrip("/"), model, transport
    self._headers = {"Authorization": f"Bearer {key}"} if key else {}
    self._tasks: dict[RemoteRow, asyncio.Task] = {}

  def prompt(self, body: ChatRequest | CompletionRequest) -> list[dict[str, str]]:
    if isinstance(body, CompletionRequest):
      raise wrong("prompt: raw texts are continued by lanes of this process only.", "prompt")
    return [{"role": message.role, "content": message.text()} for message in body.messages]

  def row(self, part: Part, settings: Settings, emit: Callable[[Any, Event], None]) -> RemoteRow:
    row = RemoteRow(part.prompt, part, settings, lambda event: None)
    row.emit = lambda event: emit(row, event)
    return row

  def submit(self, rows: Sequence[RemoteRow]) -> None:
    for row in rows:
      task = asyncio.get_running_loop().create_task(self._run(row))
      self._tasks[row] = task
      task.add_done_callback(lambda _, row=row: self._tasks.pop(row, None))

  def cancel(self, rows: Sequence[RemoteRow]) -> None:
    for row in rows:
      if task := self._tasks.get(row):
        task.cancel()

  async def _run(self, row: RemoteRow) -> None:
    try:
      async with asyncio.timeout(row.part.deadline - time.monotonic()):
        await self._stream(row)
    except TimeoutError:
      row.emit(Failed("timeout", "the request took longer than the server allows"))
    except Exception as error:  # whatever an endpoint sends, the request must end
      what = str(error) if isinstance(error, _RefusedError) else type(error).__name__
      row.emit(Failed("lane_error", f"the endpoint of a lane failed: {what}"))

  async def _stream(self, row: RemoteRow) -> None:
    reason, usage, decided = "", None, False
    async for chunk in self._chunks(self._body(row)):
      if not decided:  # the endpoint has begun
        row.emit(Decided(row.settings.forced, None, None, 0))
        decided = True
      usage = chunk.get("usage") or usage
      for choice in chunk["choices"]:
        delta = choice["delta"]
        thought = delta.get("reasoning") or delta.get("reasoning_content")
        if thought:
          row.emit(Piece(REASONING, thought))
        if delta.get("content"):
          row.emit(Piece(CONTENT, delta["content"]))
        reason = choice.get("finish_reason") or reason
    if not reason:
      raise _RefusedError("its reply has no end")
    details = (usage or {}).get("completion_tokens_details") or {}
    counts = ((usage or {}).get(name) or 0 for name in ("prompt_tokens", "completion_tokens"))
    row.emit(
      Finished(
        LENGTH if reason == LENGTH else STOP, (*counts, details.get("reasoning_tokens") or 0)
      )
    )

  async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    timeout = httpx2.Timeout(None, connect=_CONNECT_S)  # the whole has a deadline of its own
    async with (
      httpx2.AsyncClient(
        headers=self._headers, timeout=timeout, transport=self._transport
      ) as client,
      client.stream("POST", f"{self._url}/chat/completions", json=body) as answer,
    ):
      if answer.status_code != 200:
        raise _RefusedError(f"status {answer.status_code}")
      async for line in answer.aiter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
          chunk = json.loads(data)
          if "error" in chunk:
            raise _RefusedError("it broke off with an error")
          yield chunk

  def _body(self, row: RemoteRow) -> dict[str, Any]:
    s, part = row.settings, row.part
    stops = list(part.stops)
    if s.forced == tags.NO_THINK:  # servers that know nothing of the tags would show this one
      stops.append(tags.CLOSING_TAGS[tags.NO_THINK])
    body = {
      "model": self._model, "messages": list(row.prompt), "stream": True,
      "stream_options": {"include_usage": True}, "temperature": s.temperature, "top_p": s.top_p,
      "seed": (s.seed + s.choice) % 2**63,
      "chat_template_kwargs": {"enable_thinking": s.forced == tags.THINK},
    }  # fmt: skip
    optional = {
      "max_tokens": part.max_tokens, "stop": stops, "top_k": s.top_k,
      "thinking_token_budget": s.budget, "ignore_eos": part.ignore_eos,
    }  # fmt: skip
    return body | {name: value for name, value in optional.items() if value}


class _RefusedError(ValueError):
  """What an endpoint did wrong, in words without any of its text."""

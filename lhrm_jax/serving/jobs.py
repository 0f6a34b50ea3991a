"""A request on its way through the engine: its replies as they grow, counted and logged."""

import asyncio
import contextlib
import dataclasses
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable

from lhrm_jax.serving.asked import Asked
from lhrm_jax.serving.engine import BusyError, Engine
from lhrm_jax.serving.errors import ApiError
from lhrm_jax.serving.metrics import Metrics
from lhrm_jax.serving.reply import CONTENT, REASONING, Piece, Reply, TokenLogprob
from lhrm_jax.serving.sequences import Decided, Event, Failed, Row
from lhrm_jax.text import Tokenizer, tags

LANE = "core"  # the one lane there is: the policy as it was loaded


@dataclasses.dataclass
class Choice:
  """One reply of a request.

  Attributes:
    row: the engine's side.
    decided: its first token, `None` before it is known.
    texts: what was said so far, by part.
    tokens: its tokens with their log-probabilities.
    reasoning_tokens: of these, tokens of the thought.
    finish_reason: "" before its end.
    first_at: time of its first token.
  """

  row: Row
  decided: Decided | None = None
  texts: dict[str, str] = dataclasses.field(default_factory=lambda: {REASONING: "", CONTENT: ""})
  tokens: list[TokenLogprob] = dataclasses.field(default_factory=list)
  reasoning_tokens: int = 0
  finish_reason: str = ""
  first_at: float = 0.0

  def mode(self) -> str | None:
    """Name of its mode; `None` where its first token was no tag, or is not known."""
    if self.decided is None or self.decided.mode == tags.INVALID_MODE:
      return None
    return tags.MODES[self.decided.mode]


class Job:
  """One request in the engine; the caller reads `events` to the end, or cancels.

  Attributes:
    asked: what was asked for.
    model: name of the model, as the request gave it.
    choices: its replies.
    id: unique name of the request.
    created: time of day, in seconds since 1970.
  """

  def __init__(self, asked: Asked, model: str, tokenizer: Tokenizer, seconds: float, *, raw: bool):
    self.asked, self.model = asked, model
    self.id, self.created = f"{'cmpl' if raw else 'chatcmpl'}-{uuid.uuid4().hex}", int(time.time())
    self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
    self._loop = asyncio.get_running_loop()
    self._arrived = time.monotonic()
    self.choices = [
      Choice(
        Row(
          asked.prompt, Reply(tokenizer, asked.max_tokens, asked.stops, raw=raw), settings,
          self._emitter(settings.choice), self._arrived + seconds,
        )
      )
      for settings in asked.settings
    ]  # fmt: skip

  def _emitter(self, index: int) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
      with contextlib.suppress(RuntimeError):  # the loop has ended
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

    return emit

  def submit(self, engine: Engine) -> None:
    """Raises:
    ApiError: the queue is full, or the engine has stopped.
    """
    try:
      engine.submit([choice.row for choice in self.choices])
    except BusyError as error:
      raise ApiError(
        429, f"{error} Try again later.", code="queue_full",
        headers={"Retry-After": str(error.retry_after)},
      ) from error  # fmt: skip
    except RuntimeError as error:
      raise ApiError(503, f"{error}.", code="unavailable") from error

  async def events(self) -> AsyncIterator[tuple[int, Event]]:
    """Yields the index of a choice and what happened to it, until all have ended.

    Raises:
      ApiError: a reply failed.
    """
    open_choices = len(self.choices)
    while open_choices:
      index, event = await self._queue.get()
      choice = self.choices[index]
      if isinstance(event, Failed):
        raise ApiError(
          504 if event.code == "timeout" else 500, f"{event.message}.", code=event.code
        )
      if isinstance(event, Decided):
        choice.decided, choice.first_at = event, time.monotonic()
      elif isinstance(event, Piece):
        choice.texts[event.part] += event.text
        if event.token is not None:
          choice.tokens.append(event.token)
          choice.reasoning_tokens += event.thought
      else:
        choice.finish_reason = event.reason
        open_choices -= 1
      yield index, event

  def cancel(self, engine: Engine) -> None:
    """Frees what is not finished."""
    if rows := [choice.row for choice in self.choices if not choice.finish_reason]:
      engine.cancel(rows)

  def usage(self) -> dict:
    """Tokens of the prompt and of all replies so far."""
    completion = sum(len(choice.tokens) for choice in self.choices)
    cached = max((c.decided.cached_tokens for c in self.choices if c.decided), default=0)
    return {
      "prompt_tokens": len(self.asked.prompt),
      "completion_tokens": completion,
      "total_tokens": len(self.asked.prompt) + completion,
      "prompt_tokens_details": {"cached_tokens": cached},
      "completion_tokens_details": {
        "reasoning_tokens": sum(choice.reasoning_tokens for choice in self.choices)
      },
    }

  def routing(self, index: int) -> dict:
    """What decided the mode of a choice."""
    choice, settings = self.choices[index], self.asked.settings[index]
    found = {
      "mode": choice.mode(),
      "p_think": None,
      "p_neither": None,
      "lane": LANE,
      "threshold": settings.threshold,
      "tag_bias": settings.tag_bias,
      "decided_by": self.asked.decided_by,
    }
    if choice.decided:
      found |= {"p_think": choice.decided.p_think, "p_neither": choice.decided.p_neither}
    return found

  def headers(self) -> dict[str, str]:
    """The routing of the first choice, as headers."""
    r = self.routing(0)
    found = {"mode": r["mode"] or "none", "lane": r["lane"], "p-think": f"{r['p_think']:.6f}"}
    if r["threshold"] is not None:
      found["threshold"] = f"{r['threshold']:.6f}"
    return {f"x-lhrm-{name}": value for name, value in found.items()}

  def account(self, metrics: Metrics, log: str, status: int, texts: Callable[[], dict]) -> None:
    """Counts and logs the request at its end, whatever that was.

    Args:
      metrics: counters.
      log: see `ServingConfig.log`.
      status: of HTTP; 499 where the client has left.
      texts: prompt and replies, for a log with text.
    """
    usage, now = self.usage(), time.monotonic()
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    metrics.tokens.labels("prompt").inc(usage["prompt_tokens"])
    metrics.tokens.labels("cached").inc(usage["prompt_tokens_details"]["cached_tokens"])
    metrics.tokens.labels("reasoning").inc(reasoning)
    metrics.tokens.labels("answer").inc(usage["completion_tokens"] - reasoning)
    for choice in self.choices:
      if choice.decided is None:
        continue
      by = choice.mode() or "none", LANE
      finish = choice.finish_reason or ("cancelled" if status == 499 else "failed")
      metrics.replies.labels(*by, self.asked.decided_by, finish).inc()
      metrics.first_token.labels(*by).observe(choice.first_at - self._arrived)
      if len(choice.tokens) > 1 and choice.finish_reason:
        metrics.per_token.labels(*by).observe((now - choice.first_at) / (len(choice.tokens) - 1))
    if log == "off":
      return
    line = {"id": self.id, "model": self.model, "status": status, "seconds": now - self._arrived,
            **usage, "routing": [self.routing(i) for i in range(len(self.choices))]}  # fmt: skip
    print(json.dumps(line | (texts() if log == "text" else {})), file=sys.stderr, flush=True)

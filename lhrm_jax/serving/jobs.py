"""A request on its way through the lanes: its replies as they grow, counted and logged."""

import asyncio
import contextlib
import dataclasses
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from lhrm_jax.serving.asked import Asked
from lhrm_jax.serving.engine import BusyError
from lhrm_jax.serving.errors import ApiError
from lhrm_jax.serving.lanes import CORE, FAST, Lane, first_lane, lane_of
from lhrm_jax.serving.metrics import Metrics
from lhrm_jax.serving.reply import CONTENT, REASONING, Piece, TokenLogprob
from lhrm_jax.serving.sequences import Decided, Event, Failed, Settings
from lhrm_jax.text import Tokenizer, tags


@dataclasses.dataclass
class Choice:
  """One reply of a request.

  Attributes:
    lane: name of the lane that writes it.
    row: the lane's side.
    prompt: ids of the prompt; messages for an endpoint.
    decided: its first token, `None` before it is known.
    texts: what was said so far, by part.
    tokens: its tokens with their log-probabilities.
    reasoning_tokens: of these, tokens of the thought.
    finish_reason: "" before its end.
    first_at: time of its first token.
    counted: what `counts` returns, where an endpoint has counted.
    handed_over: whether the fast lane writes the answer to the core's thought.
    offset: characters of the tokens whose log-probabilities a stream has told.
  """

  lane: str
  row: Any
  prompt: Sequence[Any]
  decided: Decided | None = None
  texts: dict[str, str] = dataclasses.field(default_factory=lambda: {REASONING: "", CONTENT: ""})
  tokens: list[TokenLogprob] = dataclasses.field(default_factory=list)
  reasoning_tokens: int = 0
  finish_reason: str = ""
  first_at: float = 0.0
  counted: tuple[int, int, int] | None = None
  handed_over: bool = False
  offset: int = 0

  def counts(self) -> tuple[int, int, int]:
    """Tokens of the prompt, of the reply so far, and of its thought."""
    if self.counted:
      return self.counted
    messages = self.prompt and isinstance(self.prompt[0], dict)  # which an endpoint counts
    return 0 if messages else len(self.prompt), len(self.tokens), self.reasoning_tokens

  def mode(self) -> str | None:
    """Name of its mode; `None` where its first token was no tag, or is not known."""
    if self.decided is None or self.decided.mode == tags.INVALID_MODE:
      return None
    return tags.MODES[self.decided.mode]


class Job:
  """One request in the lanes; the caller reads `events` to the end, or cancels.

  Attributes:
    asked: what was asked for.
    model: name of the model, as the request gave it.
    choices: its replies.
    id: unique name of the request.
    created: time of day, in seconds since 1970.
  """

  def __init__(self, asked: Asked, model: str, lanes: Mapping[str, Lane], router: str):
    self.asked, self.model, self._lanes = asked, model, lanes
    kind = "cmpl" if asked.parts[CORE].raw else "chatcmpl"
    self.id, self.created = f"{kind}-{uuid.uuid4().hex}", int(time.time())
    self._queue: asyncio.Queue[tuple[Any, Event]] = asyncio.Queue()
    self._loop = asyncio.get_running_loop()
    self._arrived = time.monotonic()
    lane = first_lane(asked.settings[0].forced, router, asked.parts)
    rows = [self._row(lane, settings) for settings in asked.settings]
    self.choices = [Choice(lane, row, row.prompt) for row in rows]

  def _row(self, lane: str, settings: Settings) -> Any:
    return self._lanes[lane].row(self.asked.parts[lane], settings, self._emit)

  def _emit(self, row: Any, event: Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
      self._loop.call_soon_threadsafe(self._queue.put_nowait, (row, event))

  def tokenizer(self, index: int) -> Tokenizer:
    """The tokenizer of a choice's tokens."""
    return self._lanes[self.choices[index].lane].tokenizer

  def submit(self) -> None:
    """Raises:
    ApiError: the queue is full, or the engine has stopped.
    """
    self._submit(self.choices[0].lane, [choice.row for choice in self.choices])

  def _submit(self, lane: str, rows: list[Any]) -> None:
    try:
      self._lanes[lane].submit(rows)
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
      row, event = await self._queue.get()
      choice = next((choice for choice in self.choices if choice.row is row), None)
      if choice is None:  # of a reply that has moved to another lane
        continue
      if isinstance(event, Failed):
        status = {"timeout": 504, "lane_error": 502}.get(event.code, 500)
        raise ApiError(status, f"{event.message}.", code=event.code)
      if isinstance(event, Decided):
        if choice.handed_over or self._moves(choice, event):
          continue
        event = choice.decided
        choice.first_at = time.monotonic()
      elif isinstance(event, Piece):
        choice.texts[event.part] += event.text
        if event.token is not None:
          choice.tokens.append(event.token)
          choice.reasoning_tokens += event.thought
          if self.asked.handover and choice.lane == CORE and event.part == REASONING:
            self._hand_over(choice)
      else:
        choice.finish_reason, choice.counted = event.reason, event.counted
        open_choices -= 1
      yield self.choices.index(choice), event

  def _moves(self, choice: Choice, decided: Decided) -> bool:
    """Keeps a decision, and moves the reply to the lane that it belongs into, if that is another.

    Raises:
      ApiError: that lane has no room.
    """
    if choice.decided is not None:  # the first token in the other lane, which is forced
      choice.decided = dataclasses.replace(choice.decided, cached_tokens=decided.cached_tokens)
      return False
    choice.decided = decided
    lane = lane_of(decided.mode, choice.lane, self.asked.parts)
    if lane == choice.lane:
      return False
    self._lanes[choice.lane].cancel([choice.row])
    forced = dataclasses.replace(choice.row.settings, forced=decided.mode)
    choice.lane, choice.row = lane, self._row(lane, forced)
    choice.prompt = choice.row.prompt
    self._submit(lane, [choice.row])
    return True

  def _hand_over(self, choice: Choice) -> None:
    """Lets the fast lane continue a reply whose thought has just ended, if it has room."""
    ids, lane = self._lanes[CORE].tokenizer.tag_ids, self._lanes[FAST]
    if choice.tokens[-1].token_id != ids.closing[tags.THINK]:
      return
    thought = [token.token_id for token in choice.tokens[1:-1]]
    part = lane.concluded(
      self.asked.parts[FAST], thought[-self.asked.handover :], len(choice.tokens)
    )
    s = choice.row.settings
    settings = dataclasses.replace(
      s, forced=tags.INVALID_MODE, threshold=None, tag_bias=0.0, budget=0,
      seed=s.seed ^ 1 << 63,  # not the random numbers of the thought once more
    )  # fmt: skip
    row = lane.row(part, settings, self._emit)
    with contextlib.suppress(BusyError, RuntimeError):  # the core then writes its answer itself
      if part.max_tokens > 0:
        lane.submit([row])
        self._lanes[CORE].cancel([choice.row])
        choice.lane, choice.row, choice.handed_over = FAST, row, True

  def cancel(self) -> None:
    """Frees what is not finished."""
    for choice in self.choices:
      if not choice.finish_reason:
        self._lanes[choice.lane].cancel([choice.row])

  def usage(self) -> dict:
    """Tokens of the prompt and of all replies so far."""
    counts = [choice.counts() for choice in self.choices]
    prompt, completion, reasoning = counts[0][0], *map(sum, list(zip(*counts, strict=True))[1:])
    cached = max((c.decided.cached_tokens for c in self.choices if c.decided), default=0)
    return {
      "prompt_tokens": prompt,
      "completion_tokens": completion,
      "total_tokens": prompt + completion,
      "prompt_tokens_details": {"cached_tokens": cached},
      "completion_tokens_details": {"reasoning_tokens": reasoning},
    }

  def routing(self, index: int) -> dict:
    """What decided the mode of a choice."""
    choice, settings = self.choices[index], self.asked.settings[index]
    found = {
      "mode": choice.mode(),
      "p_think": None,
      "p_neither": None,
      "lane": choice.lane,
      "handed_over": choice.handed_over,
      "threshold": settings.threshold,
      "tag_bias": settings.tag_bias,
      "decided_by": self.asked.decided_by,
      "p_router": self.asked.p_router,
    }
    if choice.decided:
      found |= {"p_think": choice.decided.p_think, "p_neither": choice.decided.p_neither}
    return found

  def headers(self) -> dict[str, str]:
    """The routing of the first choice, as headers."""
    r = self.routing(0)
    found = {"mode": r["mode"] or "none", "lane": r["lane"]}
    if r["p_think"] is not None:
      found["p-think"] = f"{r['p_think']:.6f}"
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
      by = choice.mode() or "none", choice.lane
      finish = choice.finish_reason or ("cancelled" if status == 499 else "failed")
      metrics.replies.labels(*by, self.asked.decided_by, finish).inc()
      if not choice.first_at:  # it moved, and its new lane had not begun
        continue
      metrics.first_token.labels(*by).observe(choice.first_at - self._arrived)
      if (tokens := choice.counts()[1]) > 1 and choice.finish_reason:
        metrics.per_token.labels(*by).observe((now - choice.first_at) / (tokens - 1))
    if log == "off":
      return
    line = {"id": self.id, "model": self.model, "status": status, "seconds": now - self._arrived,
            **usage, "routing": [self.routing(i) for i in range(len(self.choices))]}  # fmt: skip
    print(json.dumps(line | (texts() if log == "text" else {})), file=sys.stderr, flush=True)

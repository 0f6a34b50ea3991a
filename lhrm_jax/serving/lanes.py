"""Lanes: policies behind one name, and which of them writes a reply.

The core lane writes whatever is thought about. A fast lane, where there is one, writes direct
answers: a smaller policy, with memory and a context of its own. The opening tag is the router: of
the core's policy, which knows best whether it needs to think, or of the fast lane's, which costs
less. A reply that begins in the one lane and belongs into the other starts there anew, with its
mode forced. With a hand-over the core thinks, and the fast lane writes the answer from the end of
the thought. A lane is an engine in this process, or an endpoint elsewhere (`remote`).
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from lhrm_jax.serving.bodies import ChatRequest, CompletionRequest
from lhrm_jax.serving.config import CORE, FAST
from lhrm_jax.serving.engine import Engine
from lhrm_jax.serving.errors import wrong
from lhrm_jax.serving.prompts import prompt_ids
from lhrm_jax.serving.reply import Reply
from lhrm_jax.serving.sequences import Event, Row, Settings
from lhrm_jax.text import Tokenizer, tags


@dataclasses.dataclass(frozen=True)
class Part:
  """A request in one lane.

  Attributes:
    prompt: ids of the prompt; messages for an endpoint.
    max_tokens: longest reply; `None` leaves it to an endpoint.
    stops: strings that end the answer.
    raw: whether the reply is one text with its tags.
    deadline: time of `time.monotonic` at which the reply fails.
    ignore_eos: whether nothing but its length and its stop strings ends the reply.
  """

  prompt: Sequence[Any]
  max_tokens: int | None
  stops: Sequence[str] = ()
  raw: bool = False
  deadline: float = float("inf")
  ignore_eos: bool = False


class Lane(Protocol):
  """A policy that replies.

  Attributes:
    context: longest request in tokens; `None` where an endpoint knows it.
    failed: why it has stopped for good; "" while it works.
    tokenizer: of its tokens; `None` for an endpoint, which tells none.
  """

  context: int | None
  failed: str
  tokenizer: Tokenizer | None

  def prompt(self, body: ChatRequest | CompletionRequest) -> Sequence[Any]:
    """The prompt of a request, see `Part`. Raises `ApiError` where the lane does not take it."""
    ...

  def row(self, part: Part, settings: Settings, emit: Callable[[Any, Event], None]) -> Any:
    """A reply to be, which calls `emit(row, event)`."""
    ...

  def submit(self, rows: Sequence[Any]) -> None:
    """Starts the replies. Raises what `Engine.submit` does."""
    ...

  def cancel(self, rows: Sequence[Any]) -> None:
    """Ends replies that nobody reads any more."""
    ...


class LocalLane:
  """An engine of this process. See `Lane` for the methods."""

  def __init__(self, engine: Engine, tokenizer: Tokenizer):
    self.engine, self.tokenizer, self.context = engine, tokenizer, engine.context
    self.submit, self.cancel = engine.submit, engine.cancel

  @property
  def failed(self) -> str:
    return self.engine.failed

  def prompt(self, body: ChatRequest | CompletionRequest) -> Sequence[int]:
    ids = prompt_ids(body, self.tokenizer)
    size = self.tokenizer.vocab_size
    if (bad := next((i for i in ids if not 0 <= i < size), None)) is not None:
      raise wrong(f"prompt: token {bad} is not one of {size}.", "prompt")
    return ids

  def same_tokens(self, other: "LocalLane") -> bool:
    """Whether ids mean the same in another lane, as far as sizes and tags tell."""
    mine, its = self.tokenizer, other.tokenizer
    return (mine.vocab_size, mine.tag_ids) == (its.vocab_size, its.tag_ids)

  def concluded(self, part: Part, thought: Sequence[int], written: int) -> Part:
    """The rest of a reply whose thought is over.

    Args:
      part: the request.
      thought: ids of the thought, or of its end, without tags.
      written: tokens of the reply so far.
    """
    ids = self.tokenizer.tag_ids
    prompt = [*part.prompt, ids.opening[tags.THINK], *thought, ids.closing[tags.THINK]]
    return dataclasses.replace(part, prompt=prompt, max_tokens=part.max_tokens - written)

  def row(self, part: Part, settings: Settings, emit: Callable[[Any, Event], None]) -> Row:
    reply = Reply(
      self.tokenizer, part.max_tokens, part.stops, raw=part.raw, ignore_eos=part.ignore_eos
    )
    row = Row(part.prompt, reply, settings, lambda event: None, part.deadline)
    row.emit = lambda event: emit(row, event)
    return row


def first_lane(forced: int, router: str, fitting: Collection[str]) -> str:
  """The lane in which a reply begins.

  Args:
    forced: mode that the request forces, -1 for none.
    router: lane whose policy chooses the mode.
    fitting: lanes whose context holds the request; the core's always does.
  """
  wanted = router if forced == tags.INVALID_MODE else lane_of(forced, CORE, fitting)
  return wanted if wanted in fitting else CORE


def lane_of(mode: int, current: str, fitting: Collection[str]) -> str:
  """The lane that writes a reply of this mode; one without a mode stays where it is."""
  if mode == tags.INVALID_MODE:
    return current
  return FAST if mode == tags.NO_THINK and FAST in fitting else CORE

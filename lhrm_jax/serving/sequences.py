"""One reply in the engine, what it tells its request, and the order in which replies get memory."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence

from lhrm_jax.policy.pages import PagePool
from lhrm_jax.serving.reply import Piece, Reply

_PATIENCE = 4  # quanta that a preempted reply waits before it precedes newer requests


@dataclasses.dataclass(frozen=True)
class Settings:
  """How one reply is drawn.

  Attributes:
    seed: from 0 to 2**64 - 1.
    choice: index among the choices of a request.
    temperature: 0 is greedy.
    top_p: see `sampling.sample_tokens`.
    top_k: see `sampling.sample_tokens`.
    tops: alternatives of each token to tell.
    forced: mode that the request forces, -1 where the policy chooses.
    tag_bias: added to the logit of `<think>` where the policy chooses.
    threshold: p(think) from which the reply thinks; `None` leaves the choice to the policy.
    budget: longest thought in tokens; 0 for none.
  """

  seed: int
  choice: int = 0
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  tops: int = 0
  forced: int = -1
  tag_bias: float = 0.0
  threshold: float | None = None
  budget: int = 0


@dataclasses.dataclass(frozen=True)
class Decided:
  """The first token of a reply, its choice of mode.

  Attributes:
    mode: see `tags`.
    p_think: probability of `<think>` of the two tags, before bias and threshold; `None` where an
      endpoint does not tell it.
    p_neither: probability of any other first token, likewise.
    cached_tokens: tokens of the prompt whose keys and values were shared.
  """

  mode: int
  p_think: float | None
  p_neither: float | None
  cached_tokens: int


@dataclasses.dataclass(frozen=True)
class Finished:
  """The end of a reply.

  Attributes:
    reason: see `Reply`.
    counted: tokens of prompt, reply and thought, where an endpoint has counted them.
  """

  reason: str
  counted: tuple[int, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Failed:
  """A reply that will not be finished.

  Attributes:
    code: "timeout", "engine_error" or "lane_error".
    message: what happened, for the user.
  """

  code: str
  message: str


Event = Decided | Piece | Finished | Failed


@dataclasses.dataclass(eq=False)
class Row:
  """One reply from its submission to its end.

  Attributes:
    prompt: ids of the prompt.
    reply: the reply so far.
    settings: how it is drawn.
    emit: called with each event, on the engine's thread.
    deadline: time of `time.monotonic` at which it fails.
    keys: names of the prompt's pages, see `memory.prefix_keys`.
    order: place in the order of arrival.
    slot: row of the compiled programs; `None` while it waits.
    pages: pages that it holds, in the order of its tokens.
    filled: tokens of the prompt that have run.
    cached: of these, tokens that another request had run.
    kept: pages of a reply that was preempted.
    served: tokens since it last got a slot.
    waits_since: engine step at which it was preempted.
    cancelled: whether nobody reads it any more.
    unseen: whether the draft has not run all of its tokens; its proposals are then worse.
  """

  prompt: Sequence[int]
  reply: Reply
  settings: Settings
  emit: Callable[[Event], None]
  deadline: float
  keys: list[bytes] = dataclasses.field(default_factory=list)
  order: int = 0
  slot: int | None = None
  pages: list[int] = dataclasses.field(default_factory=list)
  filled: int = 0
  cached: int = 0
  kept: list[PagePool] | None = None
  served: int = 0
  waits_since: int = 0
  cancelled: bool = False
  unseen: bool = False
  arrived: float = dataclasses.field(default_factory=time.monotonic)

  @property
  def decoding(self) -> bool:
    """Whether its first token is known."""
    return bool(self.reply.tokens)

  @property
  def position(self) -> int:
    """Position of the last token of the reply."""
    return len(self.prompt) + len(self.reply.tokens) - 1

  @property
  def last_position(self) -> int:
    """Position of the last token that the reply may have."""
    return len(self.prompt) + self.reply.max_tokens - 1


def next_waiting(waiting: Iterable[Row], step: int, quantum: int) -> Row | None:
  """The reply that gets the next slot.

  New requests come before replies that were preempted, so that a long thought doesn't hold up short
  answers; one that has waited for long comes first all the same.
  """
  waiting = list(waiting)
  preempted = [row for row in waiting if row.kept is not None]
  if preempted:
    oldest = min(preempted, key=lambda row: row.order)
    if len(preempted) == len(waiting) or step - oldest.waits_since >= _PATIENCE * quantum:
      return oldest
  new = [row for row in waiting if row.kept is None]
  return min(new, key=lambda row: row.order) if new else None


def victim(running: Iterable[Row], quantum: int, wanted_by: Row | None = None) -> Row | None:
  """The reply that is preempted: the youngest long one.

  Args:
    running: replies with a slot.
    quantum: tokens from which a reply is long.
    wanted_by: a waiting request that would take its place: then only long replies yield, and to a
      preempted reply only younger ones. Without it memory has run out: if no reply is long, the
      youngest yields.
  """
  running = list(running)
  long = [row for row in running if row.served >= quantum]
  if wanted_by is not None and wanted_by.kept is not None:
    long = [row for row in long if row.order > wanted_by.order]
  if wanted_by is None and not long:
    long = running
  return max(long, key=lambda row: row.order, default=None)

"""The decode engine: replies enter and leave its slots between two steps.

One thread runs steps while there is work. A step admits requests, runs some pages of prompts, and
draws one token for every slot. Its state is on the host but for the pool of keys and values: a
reply that leaves its slot takes its pages with it, and continues from the same bits.
"""

import dataclasses
import itertools
import logging
import math
import threading
import time
from collections.abc import Sequence

import numpy as np

from lhrm_jax import policy
from lhrm_jax.policy import PolicyConfig, pages
from lhrm_jax.sampling.dials import closing_ids
from lhrm_jax.serving import programs
from lhrm_jax.serving.config import EngineConfig
from lhrm_jax.serving.memory import Pages, prefix_keys
from lhrm_jax.serving.reply import TokenLogprob
from lhrm_jax.serving.runner import Runner
from lhrm_jax.serving.sequences import Decided, Failed, Finished, Row, next_waiting, victim
from lhrm_jax.serving.speculation import Payoff
from lhrm_jax.text import Tokenizer


class BusyError(Exception):
  """The queue is full.

  Attributes:
    retry_after: seconds after which a place may be free.
  """

  def __init__(self, message: str, retry_after: int):
    super().__init__(message)
    self.retry_after = retry_after


class Engine:
  """Decodes replies of one policy on one device.

  Attributes:
    context: longest request in tokens, prompt and reply together.
    page_bytes: memory of one page of KV memory.
    pages: which pages are free.
    steps: decoding steps so far.
    preemptions: replies that have left their slot for another so far.
    payoff: what speculation has brought; `None` without a draft.
    failed: why the engine has stopped for good; "" while it works.
  """

  def __init__(
    self, config: PolicyConfig, params: policy.Params, tokenizer: Tokenizer, c: EngineConfig,
    closing: str = "", draft: tuple[PolicyConfig, policy.Params] | None = None,
  ):  # fmt: skip
    """Args:
      config: static part of the policy.
      params: its parameters.
      tokenizer: its tokenizer.
      c: knobs.
      closing: sentence that ends a thought cut by its budget.
      draft: policy of the same tokens that proposes them, where `c.draft` names one.

    Raises:
      ValueError: the context exceeds the policy's positions, or the memory is less than one
        request's, or the draft is of other tokens.
    """
    self._c = c
    config, params = policy.lora.merge(config, params)
    self.context = c.context or config.max_positions
    drafts = _draft(c, config, params, draft)
    configs = [config, *(other for other, _ in drafts)]
    if self.context > (most := min(each.max_positions for each in configs)):
      raise ValueError(
        f"context={self.context} exceeds the {most} positions of the policy"
        f"{' and its draft' if drafts else ''}."
      )
    in_int8 = c.kv == "int8"
    self.page_bytes = sum(
      pages.page_bytes(each, c.page_tokens, in_int8=in_int8) for each in configs
    )
    per_row = self._pages_of(self.context)
    count = int(c.kv_mib * 2**20 / self.page_bytes) if c.kv_mib else c.slots * per_row
    if count < per_row:
      raise ValueError(
        f"kv_mib={c.kv_mib:g} holds {count * c.page_tokens} tokens, and one request may have "
        f"context={self.context}: set kv_mib to at least "
        f"{math.ceil(per_row * self.page_bytes / 2**20 * 100) / 100:g}, or a smaller context."
      )
    ids = closing_ids(tokenizer, closing)
    static = programs.Static(config, tokenizer.tag_ids.opening, ids, c.page_tokens)
    drafting = None
    for other, its_params in drafts:
      its_static = dataclasses.replace(static, config=other)
      knobs = dataclasses.replace(c, weights="int8" if c.draft == "int8" else "float")
      drafting = Runner(its_static, its_params, count + 1, knobs, self.context)
    self._runner = Runner(static, params, count + 1, c, self.context, drafting)
    self.payoff = Payoff() if drafting else None
    self.pages = Pages(count + 1)
    self.steps = self.preemptions = 0
    self.failed = ""
    self._rows: list[Row | None] = [None] * c.slots
    self._waiting: list[Row] = []
    self._orders = itertools.count()
    self._seconds_per_reply = 1.0
    self._work = threading.Condition()
    self._stopping = False
    self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

  # What other threads call.

  def start(self) -> None:
    self._thread.start()

  def stop(self) -> None:
    """Ends the thread after its current step; replies that are not finished fail."""
    with self._work:
      self._stopping = True
      self._work.notify()
    self._thread.join()

  @property
  def slots(self) -> int:
    """Replies that are decoded together."""
    return self._c.slots

  @property
  def active(self) -> int:
    """Replies with a slot."""
    return sum(row is not None for row in self._rows)

  @property
  def waiting(self) -> int:
    """Replies without a slot."""
    return len(self._waiting)

  def submit(self, rows: Sequence[Row]) -> None:
    """Queues the replies of one request; all of them or none.

    Raises:
      BusyError: there is no room in the queue.
      RuntimeError: the engine has stopped.
    """
    with self._work:
      if self.failed or self._stopping:
        raise RuntimeError(self.failed or "the server is shutting down")
      room = self._c.slots + self._c.waiting - self.active - self.waiting
      if len(rows) > room:
        ahead = max(1, self.waiting) / self._c.slots
        raise BusyError(
          f"{self.active} replies are being written and {self.waiting} wait; there is room for "
          f"{room} more, and the request asks for {len(rows)}.",
          retry_after=max(1, math.ceil(ahead * self._seconds_per_reply)),
        )
      for row in rows:
        row.order = next(self._orders)
        row.keys = prefix_keys(row.prompt, self._c.page_tokens)
        self._waiting.append(row)
      self._work.notify()

  def cancel(self, rows: Sequence[Row]) -> None:
    """Frees what the replies hold before the next step; nothing is emitted any more."""
    with self._work:
      for row in rows:
        row.cancelled = True
      self._work.notify()

  def warm_up(self) -> None:
    """Compiles every program, before `start`."""
    seconds = self._runner.warm_up()
    if self.payoff:
      self.payoff.seconds = seconds

  # The engine's own thread.

  def _run(self) -> None:
    while True:
      with self._work:
        self._work.wait_for(lambda: self._stopping or self._busy())
        if self._stopping:
          break
      try:
        self.step()
      except Exception as error:
        logging.getLogger(__name__).exception("the engine has stopped")
        self.failed = f"the engine has stopped: {type(error).__name__}"
        break
    with self._work:
      rows = [row for row in (*self._rows, *self._waiting) if row is not None]
      self._rows, self._waiting = [None] * self._c.slots, []
    for row in rows:
      row.emit(Failed("engine_error", self.failed or "the server is shutting down"))

  def _busy(self) -> bool:
    return bool(self._waiting) or any(row is not None for row in self._rows)

  def step(self) -> None:
    """Admits, prefills and decodes once."""
    self._drop_unwanted()
    self._admit()
    self._prefill()
    self._decode()
    self.steps += 1

  def _drop_unwanted(self) -> None:
    now = time.monotonic()
    with self._work:
      rows = [row for row in (*self._rows, *self._waiting) if row is not None]
      unwanted = [row for row in rows if row.cancelled or now > row.deadline]
      for row in unwanted:
        self._free(row)
        if row in self._waiting:
          self._waiting.remove(row)
    for row in unwanted:
      if not row.cancelled:
        row.emit(Failed("timeout", "the request took longer than the server allows"))

  def _admit(self) -> None:
    """Gives slots to waiting replies, some of which others have to leave."""
    while self._waiting:
      row = next_waiting(self._waiting, self.steps, self._c.quantum)
      leaving = self._leaving_for(row)
      if leaving is None:
        return
      for other in leaving:
        self._preempt(other)
      with self._work:
        self._waiting.remove(row)
        row.slot, row.served = self._rows.index(None), 0
        self._rows[row.slot] = row
      if row.kept is not None:
        row.pages = [self.pages.take() for _ in range(self._pages_of(row.position))]
        self._runner.write(row.kept, row.pages)
        row.kept = None

  def _leaving_for(self, row: Row) -> list[Row] | None:
    """Replies whose slot or memory a waiting one needs; `None` where they would not be enough."""
    running, leaving = [r for r in self._rows if r is not None], []
    needs = self._pages_of(len(row.prompt) if row.kept is None else row.position + 1)
    room = self.pages.available
    while len(running) == len(self._rows) or room < needs:
      yields = victim(running, self._c.quantum, row)
      if yields is None:
        return None
      leaving.append(yields)
      running.remove(yields)
      room += self.pages.freed_by(yields.pages)
    return leaving

  def _pages_of(self, tokens: int) -> int:
    return -(-tokens // self._c.page_tokens)

  def _preempt(self, row: Row) -> None:
    """Moves a reply's keys and values to the host; one without a token starts again."""
    if row.decoding:
      held = row.pages[: self._pages_of(row.position)]
      row.kept, row.waits_since = self._runner.read(held), self.steps
    self._free(row)
    row.filled = row.cached = 0
    with self._work:
      self._waiting.append(row)
    self.preemptions += 1

  def _free(self, row: Row) -> None:
    self.pages.release(row.pages)
    row.pages = []
    if row.slot is not None:
      self._rows[row.slot], row.slot = None, None

  def _take_page(self, row: Row) -> bool:
    """Adds a page to a reply, for which another may have to leave; False if it left itself."""
    while (page := self.pages.take()) is None:
      yields = victim((r for r in self._rows if r is not None), self._c.quantum)
      self._preempt(yields)
      if yields is row:
        return False
    row.pages.append(page)
    return True

  def _prefill(self) -> None:
    """Runs pages of prompts: one of the oldest prompt, then of those that are soonest done."""
    for i in range(self._c.prefill_pages):
      filling = [row for row in self._rows if row is not None and not row.decoding]
      if not filling:
        return
      row = min(filling, key=lambda r: (i and len(r.prompt) - r.filled, r.order))
      self._prefill_page(row)

  def _prefill_page(self, row: Row) -> None:
    size, ids = self._c.page_tokens, row.prompt
    while (at := row.filled // size) < len(row.keys):
      shared = self.pages.share(row.keys[at])
      if shared is None:
        break
      row.pages.append(shared)
      row.filled = row.cached = row.filled + size
    if not self._take_page(row):
      return
    count = min(size, len(ids) - row.filled)
    hidden = self._runner.prefill(row, count)
    row.filled += count
    if at < len(row.keys):
      self.pages.publish(row.pages[-1], row.keys[at])
    if row.filled == len(ids):
      self._emit_first(row, *self._runner.first_token(hidden, row))

  def _emit_first(self, row: Row, drawn: programs.Drawn, modes: tuple[float, float, float]) -> None:
    think, no_think, neither = modes
    p_think = 1 / (1 + math.exp(min(no_think - think, 700.0)))
    mode = row.reply.mode_of(int(drawn.tokens[0]))
    row.emit(Decided(mode, p_think, math.exp(neither), row.cached))
    self._push(row, drawn, 0)

  def _decode(self) -> None:
    ahead = self._c.draft_tokens if self.payoff else 0
    for row in list(self._rows):
      if row is None or row.slot is None or not row.decoding:
        continue
      last = min(row.position + ahead, row.last_position)
      while last // self._c.page_tokens >= len(row.pages) and self._take_page(row):
        pass
    running = [row if row is not None and row.decoding else None for row in self._rows]
    if not any(running):
      return
    if self.payoff:
      self._decode_timed(running)
      return
    drawn = self._runner.decode(running)
    for slot, row in enumerate(running):
      if row is not None:
        self._push(row, drawn, slot)

  def _decode_timed(self, running: list[Row | None]) -> None:
    """A step with a draft at hand, which is asked where that pays."""
    rows = [(slot, row) for slot, row in enumerate(running) if row is not None]
    seen = [slot for slot, row in rows if not row.unseen]
    count, began = self._runner.count_of(running), time.perf_counter()
    if seen and self.payoff.wanted(count):
      counts, drawn = self._runner.speculate(running)
      seconds, ahead = time.perf_counter() - began, self._c.draft_tokens
      self.payoff.speculated(count, seconds, ahead * len(seen), int(counts[seen].sum()), len(seen))
    else:
      counts, drawn = np.zeros(len(running), int), [self._runner.decode(running)]
      self.payoff.plain(count, time.perf_counter() - began)
      for _, row in rows:
        row.unseen = True
    for slot, row in rows:
      for i in range(counts[slot] + 1):
        if not row.reply.finish_reason:
          self._push(row, drawn[i], slot)

  def _push(self, row: Row, drawn: programs.Drawn, i: int) -> None:
    """Adds a drawn token to a reply."""
    count = row.settings.tops
    tops = drawn.top_ids[i, :count].tolist(), drawn.top_logprobs[i, :count].tolist()
    token = TokenLogprob(
      int(drawn.tokens[i]), float(drawn.logprobs[i]), tuple(zip(*tops, strict=True))
    )
    pieces = row.reply.push(token)
    row.served += 1
    done = row.reply.finish_reason
    if done:
      with self._work:
        self._free(row)
      took = time.monotonic() - row.arrived
      self._seconds_per_reply += 0.1 * (took - self._seconds_per_reply)
    if not row.cancelled:
      for piece in pieces:
        row.emit(piece)
      if done:
        row.emit(Finished(done))


def _draft(
  c: EngineConfig, config: PolicyConfig, params: policy.Params,
  draft: tuple[PolicyConfig, policy.Params] | None,
) -> list[tuple[PolicyConfig, policy.Params]]:  # fmt: skip
  """The policy that proposes tokens, if any."""
  if not c.draft:
    return []
  found = (config, params) if c.draft == "int8" else draft
  if found is None:
    raise ValueError(f"draft={c.draft!r} is not loaded.")
  found = policy.lora.merge(*found)
  if found[0].vocab_size != config.vocab_size:
    raise ValueError(
      f"draft={c.draft!r} has {found[0].vocab_size} tokens and the policy {config.vocab_size}: a "
      "draft needs the policy's tokens."
    )
  return [found]

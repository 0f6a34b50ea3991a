"""Runs the compiled programs on the pages and rows of replies; owns the pool and the parameters."""

import math
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax import policy
from lhrm_jax.policy import PolicyConfig, pages
from lhrm_jax.policy.pages import PagePool
from lhrm_jax.serving import programs
from lhrm_jax.serving.config import EngineConfig
from lhrm_jax.serving.sequences import Row


class Runner:
  """One policy on one device, with a pool of pages."""

  def __init__(
    self, static: programs.Static, params: policy.Params, count: int, c: EngineConfig,
    context: int, draft: "Runner | None" = None,
  ):  # fmt: skip
    """Args:
    static: what the programs are compiled for.
    params: parameters of the policy.
    count: pages of the pool, `NOWHERE` among them.
    c: knobs of the engine.
    context: longest sequence in tokens.
    draft: runs the same pages with the policy that proposes tokens.
    """
    config: PolicyConfig = static.config
    self._static, self._slots, self._page = static, c.slots, static.page_tokens
    self._counts = programs.page_counts(-(-context // self._page))
    self._draft, self._proposals = draft, c.draft_tokens
    if c.weights == "int8":
      params = policy.quantised(params)
    # One placement for all that the programs read and return, or they would compile once more.
    device = jax.devices()[0]
    self._params = jax.device_put(policy.in_compute_dtype(config, params), device)
    pool = pages.empty(config, count, self._page, in_int8=c.kv == "int8")
    self._pool = jax.device_put(pool, device)

  def warm_up(self) -> dict[int, tuple[float, float]]:
    """Compiles every program; no reply waits for a compiler after that.

    Returns:
      With a draft, by number of pages the seconds of a step without it and with it.
    """
    hidden, seconds = None, {}
    for count in [0, *self._counts]:
      table = _table((), count)
      hidden = self._prefill_all(np.zeros(1, np.int32), 0, pages.NOWHERE, table)
    self.first_token(hidden, None)
    nobody = [None] * self._slots
    for count in self._counts:
      plain = _seconds(lambda: self._decode(nobody, count))  # noqa: B023
      if self._draft:
        seconds[count] = plain, _seconds(lambda: self._speculate(nobody, count))  # noqa: B023
    self.write(self.read(()), ())
    jax.block_until_ready(self._pool)
    return seconds

  def prefill(self, row: Row, count: int) -> jax.Array:
    """Runs the next `count` tokens of a prompt into the reply's last page.

    Returns:
      Hidden state `[1, d]` of the last of them.
    """
    before = row.filled // self._page
    table = _table(row.pages, next(n for n in (0, *self._counts) if n >= before))
    tokens = np.asarray(row.prompt[row.filled : row.filled + count], np.int32)
    return self._prefill_all(tokens, row.filled, row.pages[-1], table)

  def _prefill_all(self, *args) -> jax.Array:
    if self._draft:
      self._draft._prefill(*args)
    return self._prefill(*args)

  def _prefill(self, tokens: np.ndarray, start: int, page: int, table: np.ndarray) -> jax.Array:
    padded = np.zeros((1, self._page), np.int32)
    padded[0, : len(tokens)] = tokens
    self._pool, hidden = programs.prefill(
      self._static, self._params, self._pool, padded,
      np.array([start, len(tokens), page], np.int32), table[None],
    )  # fmt: skip
    return hidden

  def first_token(
    self, hidden: jax.Array, row: Row | None
  ) -> tuple[programs.Drawn, tuple[float, float, float]]:
    """The first token of a reply, and log-probabilities of `<think>`, `<no_think>` and neither."""
    odds, bias, forced = math.nan, 0.0, -1
    if row is not None:
      forced, bias = row.settings.forced, row.settings.tag_bias
      odds = _log_odds(row.settings.threshold)
    drawn, modes = jax.device_get(
      programs.first_token(
        self._static, self._params, hidden, _draws([row]), np.array([forced], np.int32),
        np.array([bias], np.float32), np.array([odds], np.float32),
      )
    )  # fmt: skip
    return drawn, tuple(float(p) for p in modes[0])

  def count_of(self, rows: Sequence[Row | None]) -> int:
    """Pages that a step of these rows reads and writes."""
    ahead = self._proposals if self._draft else 0
    most = (max(row.position for row in rows if row is not None) + ahead) // self._page + 1
    return next((n for n in self._counts if n >= most), self._counts[-1])

  def decode(self, rows: Sequence[Row | None]) -> programs.Drawn:
    """The next token of the row in each slot."""
    return self._decode(rows, self.count_of(rows))

  def _decode(self, rows: Sequence[Row | None], count: int) -> programs.Drawn:
    tokens, where = self._last(rows, count)
    self._pool, drawn = programs.decode(self._static, self._params, self._pool, tokens, *where)
    return jax.device_get(drawn)

  def speculate(self, rows: Sequence[Row | None]) -> tuple[np.ndarray, Sequence[programs.Drawn]]:
    """Next tokens of the row in each slot.

    Returns:
      `[N]` proposals that count for each row, and one token more than proposals were made. Of
      these, a row takes those that count and the one after them.
    """
    return self._speculate(rows, self.count_of(rows))

  def _speculate(
    self, rows: Sequence[Row | None], count: int
  ) -> tuple[np.ndarray, Sequence[programs.Drawn]]:
    tokens, where = self._last(rows, count)
    proposals = self._draft._propose(tokens, where, self._proposals)
    self._pool, drawn = programs.verify(
      self._static, self._params, self._pool, jnp.column_stack([tokens, proposals]), *where
    )
    drawn, proposals = jax.device_get((drawn, proposals))
    same = proposals == np.stack([each.tokens for each in drawn[:-1]], axis=1)
    return np.cumprod(same, axis=1).sum(axis=1), drawn

  def _propose(self, tokens: np.ndarray, where: tuple, count: int) -> jax.Array:
    self._pool, proposals = programs.propose(
      self._static, count, self._params, self._pool, tokens, *where
    )
    return proposals

  def _last(self, rows: Sequence[Row | None], count: int) -> tuple[np.ndarray, tuple]:
    """Last tokens of the rows, and their positions, tables and draws."""
    tokens, positions = (np.zeros(len(rows), np.int32) for _ in range(2))
    table = np.full((len(rows), count), pages.NOWHERE, np.int32)
    for i, row in enumerate(rows):
      if row is not None:
        tokens[i], positions[i] = row.reply.tokens[-1], row.position
        table[i] = _table(row.pages, count)
    return tokens, (positions, table, _draws(rows))

  def read(self, held: Sequence[int]) -> list[PagePool]:
    """Copies pages to the host, the draft's too."""
    kept = programs.read_pages(self._static, self._pool, _table(held, self._counts[-1]))
    mine = jax.tree.map(lambda x: x[..., : len(held), :, :, :].copy(), jax.device_get(kept))
    return [mine, *(self._draft.read(held) if self._draft else ())]

  def write(self, kept: Sequence[PagePool], held: Sequence[int]) -> None:
    """Writes what `read` copied to as many pages."""
    most = self._counts[-1]

    def padded(x: np.ndarray) -> np.ndarray:
      return np.pad(x, [(0, 0)] * (x.ndim - 4) + [(0, most - x.shape[-4])] + [(0, 0)] * 3)

    mine = jax.tree.map(padded, kept[0])
    self._pool = programs.write_pages(self._static, self._pool, mine, _table(held, most))
    if self._draft:
      self._draft.write(kept[1:], held)


def _seconds(run: Callable[[], object]) -> float:
  """Time of the third run; the first one compiles."""
  run()
  run()
  began = time.perf_counter()
  run()
  return time.perf_counter() - began


def _table(held: Sequence[int], count: int) -> np.ndarray:
  """The first `count` pages of a reply, followed by `NOWHERE`."""
  table = np.full(count, pages.NOWHERE, np.int32)
  taken = held[:count]
  table[: len(taken)] = taken
  return table


def _log_odds(threshold: float | None) -> float:
  """A threshold as log-odds, which tell probabilities apart that float32 rounds to 1."""
  if threshold is None:
    return math.nan
  with np.errstate(divide="ignore"):
    return float(np.log(np.float64(threshold)) - np.log1p(-np.float64(threshold)))


def _draws(rows: Sequence[Row | None]) -> programs.Draws:
  n = len(rows)
  d = programs.Draws(
    seeds=np.zeros((n, 3), np.uint32), steps=np.zeros(n, np.int32),
    temperature=np.zeros(n, np.float32), top_p=np.ones(n, np.float32),
    top_k=np.zeros(n, np.int32), thinking=np.zeros(n, bool), budget=np.zeros(n, np.int32),
    tops=np.zeros(n, bool),
  )  # fmt: skip
  for i, row in enumerate(rows):
    if row is not None:
      s = row.settings
      d.seeds[i] = s.seed & 0xFFFFFFFF, s.seed >> 32, s.choice
      d.steps[i], d.thinking[i] = len(row.reply.tokens), row.reply.thinking
      d.temperature[i], d.top_p[i], d.top_k[i] = s.temperature, s.top_p, s.top_k
      d.budget[i], d.tops[i] = s.budget, s.tops > 0
  return d

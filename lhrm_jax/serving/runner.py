"""Runs the compiled programs on the pages and rows of replies; owns the pool and the parameters."""

import math
from collections.abc import Sequence

import jax
import numpy as np

from lhrm_jax import policy
from lhrm_jax.policy import KVCache, PolicyConfig, pages
from lhrm_jax.serving import programs
from lhrm_jax.serving.sequences import Row


class Runner:
  """One policy on one device, with a pool of pages.

  Args:
    static: what the programs are compiled for.
    params: parameters of the policy.
    count: pages of the pool, `NOWHERE` among them.
    slots: rows of a step of decoding.
    context: longest sequence in tokens.
  """

  def __init__(
    self, static: programs.Static, params: policy.Params, count: int, slots: int, context: int
  ):
    config: PolicyConfig = static.config
    self._static, self._slots, self._page = static, slots, static.page_tokens
    self._counts = programs.page_counts(-(-context // self._page))
    # One placement for all that the programs read and return, or they would compile once more.
    device = jax.devices()[0]
    self._params = jax.device_put(policy.in_compute_dtype(config, params), device)
    self._pool = jax.device_put(pages.empty(config, count, self._page), device)

  def warm_up(self) -> None:
    """Compiles every program; no reply waits for a compiler after that."""
    hidden = None
    for count in [0, *self._counts]:
      hidden = self._prefill(np.zeros(1, np.int32), 0, pages.NOWHERE, _table((), count))
    self.first_token(hidden, None)
    for count in self._counts:
      self._decode([None] * self._slots, count)
    self.write(self.read(()), ())
    jax.block_until_ready(self._pool)

  def prefill(self, row: Row, count: int) -> jax.Array:
    """Runs the next `count` tokens of a prompt into the reply's last page.

    Returns:
      Hidden state `[1, d]` of the last of them.
    """
    before = row.filled // self._page
    table = _table(row.pages, next(n for n in (0, *self._counts) if n >= before))
    tokens = np.asarray(row.prompt[row.filled : row.filled + count], np.int32)
    return self._prefill(tokens, row.filled, row.pages[-1], table)

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

  def decode(self, rows: Sequence[Row | None]) -> programs.Drawn:
    """The next token of the row in each slot."""
    most = max(row.position for row in rows if row is not None) // self._page + 1
    return self._decode(rows, next(n for n in self._counts if n >= most))

  def _decode(self, rows: Sequence[Row | None], count: int) -> programs.Drawn:
    tokens, positions = (np.zeros(len(rows), np.int32) for _ in range(2))
    table = np.full((len(rows), count), pages.NOWHERE, np.int32)
    for i, row in enumerate(rows):
      if row is not None:
        tokens[i], positions[i] = row.reply.tokens[-1], row.position
        table[i] = _table(row.pages, count)
    self._pool, drawn = programs.decode(
      self._static, self._params, self._pool, tokens, positions, table, _draws(rows)
    )
    return jax.device_get(drawn)

  def read(self, held: Sequence[int]) -> KVCache:
    """Copies pages to the host."""
    kept = programs.read_pages(self._static, self._pool, _table(held, self._counts[-1]))
    size = len(held) * self._page
    return jax.tree.map(
      lambda x: x[..., :size, :].copy() if x.ndim > 1 else x, jax.device_get(kept)
    )

  def write(self, kept: KVCache, held: Sequence[int]) -> None:
    """Writes what `read` copied to as many pages."""
    most = self._counts[-1] * self._page

    def padded(x: np.ndarray) -> np.ndarray:
      if x.ndim == 1:
        return x
      return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, most - x.shape[-2]), (0, 0)])

    self._pool = programs.write_pages(
      self._static, self._pool, jax.tree.map(padded, kept), _table(held, self._counts[-1])
    )


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

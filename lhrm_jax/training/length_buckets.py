"""Length buckets: rows of very different lengths at few widths, inside one compiled program.

Half of a hybrid group answers in a few tokens; padded to its longest row, it is mostly padding.
Rows are sorted by length and split into buckets of equal size; each is computed at the narrowest of
a few widths that fits its longest row. All widths are compiled into the program and `lax.switch`
selects one at run time, so a new mix of lengths compiles nothing and needs no work on the host.

Rows sharded over devices in `P` parts are not moved: each part sorts its own rows, and a bucket
takes the same number from every part.

`N` denotes rows, `K` buckets, `R` a bucket's rows from each part, `T` the longest possible row.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax import parallel
from lhrm_jax.objectives.masked import SumCount

Tree = TypeVar("Tree")

# Widths as fractions of the longest, and their rounding. Compile time grows with their number;
# these keep a hybrid mix (ragged long rows, short ones about an eighth) below 15 % padding.
_FRACTIONS = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 1 / 4, 1 / 8)
_MULTIPLE = 16


def bucket_widths(tokens: int) -> tuple[int, ...]:
  """Returns the widths that rows of up to `tokens` are computed at, ascending; at most seven.

  Each one is compiled, so a width that saves less than an eighth is left out.
  """
  widths = [tokens]
  for fraction in _FRACTIONS:
    width = _MULTIPLE * math.ceil(tokens * fraction / _MULTIPLE)
    if width <= 7 / 8 * widths[-1]:
      widths.append(width)
  return tuple(reversed(widths))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Buckets:
  """Rows sorted by decreasing length, in buckets.

  Attributes:
    rows: `[K, P, R]` int32, index of each row within its part. The last bucket may repeat rows.
    lengths: `[K, P, R]` int32, tokens of each row; 0 for a repeated row.
    width: `[K]` int32, index among the widths; -1 for a bucket without tokens.
  """

  rows: Array
  lengths: Array
  width: Array

  @classmethod
  def of(cls, lengths: Array, count: int, widths: Sequence[int], parts: int = 1) -> "Buckets":
    """Sorts rows of lengths `[N]` into `count` buckets, at most `N / parts`."""
    lengths = lengths.reshape(parts, -1)
    n = lengths.shape[1]
    per_bucket = -(-n // min(count, n))
    order = jnp.argsort(-lengths, axis=1, stable=True).astype(jnp.int32)

    def in_buckets(x: Array) -> Array:
      padded = jnp.pad(x, ((0, 0), (0, -n % per_bucket)))
      return padded.reshape(parts, -1, per_bucket).swapaxes(0, 1)

    rows = in_buckets(order)
    ordered = in_buckets(jnp.take_along_axis(lengths, order, axis=1))
    longest = jnp.max(ordered[..., 0], axis=1)
    width = jnp.searchsorted(jnp.array(widths), longest).astype(jnp.int32)
    return cls(rows, ordered, jnp.where(longest > 0, width, -1))

  def padding(self, widths: Sequence[int]) -> SumCount:
    """Returns the padding fraction of the computed slots."""
    slots = jnp.where(self.width >= 0, jnp.array(widths)[self.width], 0) * self.rows[0].size
    computed = jnp.sum(slots).astype(jnp.float32)
    return SumCount(computed - jnp.sum(self.lengths), computed)


def add_over(
  buckets: Buckets, widths: Sequence[int], add: Callable[[Tree, Array, Array, int], Tree],
  start: Tree,
) -> Tree:  # fmt: skip
  """Folds `add` over the buckets, skipping those without tokens; returns the total.

  Args:
    buckets: buckets to fold over.
    widths: widths that they were made for.
    add: `add(total, rows [P, R], lengths [P * R], width)` returns the new total; `width` is a
      Python int, and `parallel.take_rows` gathers the rows.
    start: initial total.
  """
  branches = [lambda total, *_: total]
  branches += [lambda total, rows, lengths, w=w: add(total, rows, lengths, w) for w in widths]

  def body(total: Tree, bucket: Buckets) -> tuple[Tree, None]:
    lengths = bucket.lengths.reshape(-1)
    return jax.lax.switch(bucket.width + 1, branches, total, bucket.rows, lengths), None

  return jax.lax.scan(body, start, buckets)[0]


def map_over(
  buckets: Buckets, widths: Sequence[int], fn: Callable[[Array, Array, int], Tree], rows: int
) -> Tree:
  """Computes per-token arrays bucket by bucket and restores the order of the rows.

  Args:
    buckets: buckets to map over.
    widths: widths that they were made for, the last one `T`.
    fn: `fn(rows [P, R], lengths [P * R], width)` returns arrays `[P * R, width]`.
    rows: number of rows, `N`.

  Returns:
    The arrays of `fn` as `[N, T]`, 0 beyond a bucket's width.
  """
  _, parts, per_bucket = buckets.rows.shape

  def padded(of_rows: Array, lengths: Array, width: int) -> Tree:
    return jax.tree.map(
      lambda x: jnp.pad(x, ((0, 0), (0, widths[-1] - width))), fn(of_rows, lengths, width)
    )

  shapes = jax.eval_shape(
    lambda r, n: padded(r, n, widths[-1]),
    jax.ShapeDtypeStruct((parts, per_bucket), jnp.int32),
    jax.ShapeDtypeStruct((parts * per_bucket,), jnp.int32),
  )
  branches = [lambda *_: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)]
  branches += [lambda r, n, w=w: padded(r, n, w) for w in widths]

  def body(_, bucket: Buckets) -> tuple[None, Tree]:
    lengths = bucket.lengths.reshape(-1)
    return None, jax.lax.switch(bucket.width + 1, branches, bucket.rows, lengths)

  _, computed = jax.lax.scan(body, None, buckets)
  # Repeated rows, which only fill the last bucket, get an index out of range and are dropped.
  places = buckets.rows.swapaxes(0, 1).reshape(parts, -1)
  places = jnp.where(jnp.arange(places.shape[1]) < rows // parts, places, rows // parts)

  def put_back(x: Array) -> Array:
    rest = x.shape[2:]
    by_part = x.reshape(-1, parts, per_bucket, *rest).swapaxes(0, 1).reshape(*places.shape, *rest)
    empty = jnp.zeros((parts, rows // parts, *rest), x.dtype)
    put = jax.vmap(lambda part, place, new: part.at[place].set(new, mode="drop"))
    whole = put(empty, places, by_part).reshape(rows, *rest)
    return parallel.constrain(whole, ("batch",) + (None,) * len(rest))

  return jax.tree.map(put_back, computed)

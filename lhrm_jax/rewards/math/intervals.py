"""Sets of real numbers: intervals, finite sets, unions, and what an inequality describes."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from lhrm_jax.rewards.math import evaluate, nodes
from lhrm_jax.rewards.math.nodes import Node, Num, Op, Rel, Seq, Sym, Union

INTERVALS = ("()", "[]", "(]", "[)")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
INEQUALITIES = frozenset(_FLIPPED)
_UNKNOWN = "the unknown"


@dataclasses.dataclass(frozen=True)
class Piece:
  """One interval; `low == high` with both ends closed is a point. Ends are numbers of mpmath."""

  low: object
  high: object
  low_closed: bool
  high_closed: bool

  def empty(self) -> bool:
    return self.low > self.high or (
      _close(self.low, self.high) and not (self.low_closed and self.high_closed)
    )


Pieces = tuple[Piece, ...]


def _close(a, b) -> bool:
  mp = evaluate.context(evaluate.DIGITS)
  if mp.isinf(a) or mp.isinf(b):
    return a == b
  return abs(a - b) <= mp.mpf(10) ** -evaluate.CLOSE * max(1, abs(a), abs(b))


def _line() -> Piece:
  mp = evaluate.context(evaluate.DIGITS)
  return Piece(-mp.inf, mp.inf, False, False)


def _number(node: Node):
  """The real value of a constant; raises `evaluate.Undefined` for anything else."""
  if nodes.symbols(node) or not evaluate.is_scalar(node):
    raise evaluate.Undefined("not a constant")
  value = evaluate.Evaluator(evaluate.DIGITS, 0)(node)
  mp = evaluate.context(evaluate.DIGITS)
  if mp.isnan(value) or abs(mp.im(value)) > mp.mpf(10) ** -evaluate.CLOSE:
    raise evaluate.Undefined("not real")
  return mp.re(value)


def normalise(pieces: Pieces) -> Pieces:
  """Sorts `pieces`, drops empty ones and joins those that touch."""
  rest = sorted((p for p in pieces if not p.empty()), key=lambda p: (p.low, not p.low_closed))
  out: list[Piece] = []
  for piece in rest:
    last = out[-1] if out else None
    if last and (
      piece.low < last.high
      or (_close(piece.low, last.high) and (piece.low_closed or last.high_closed))
    ):
      low_closed = last.low_closed or (_close(piece.low, last.low) and piece.low_closed)
      if _close(piece.high, last.high):
        high, closed = last.high, last.high_closed or piece.high_closed
      elif piece.high > last.high:
        high, closed = piece.high, piece.high_closed
      else:
        high, closed = last.high, last.high_closed
      out[-1] = Piece(last.low, high, low_closed, closed)
    else:
      out.append(piece)
  return tuple(out)


def intersect(a: Pieces, b: Pieces) -> Pieces:
  out = []
  for p in a:
    for q in b:
      low, low_closed = max((p.low, not p.low_closed), (q.low, not q.low_closed))
      high, high_closed = min((p.high, p.high_closed), (q.high, q.high_closed))
      out.append(Piece(low, high, not low_closed, high_closed))
  return normalise(tuple(out))


def complement(pieces: Pieces) -> Pieces:
  line = _line()
  low, closed, out = line.low, False, []
  for piece in normalise(pieces):
    out.append(Piece(low, piece.low, closed, not piece.low_closed))
    low, closed = piece.high, not piece.high_closed
  out.append(Piece(low, line.high, closed, False))
  return normalise(tuple(out))


def same_pieces(a: Pieces, b: Pieces) -> bool:
  return len(a) == len(b) and all(
    _close(p.low, q.low)
    and _close(p.high, q.high)
    and (p.low_closed, p.high_closed) == (q.low_closed, q.high_closed)
    for p, q in zip(a, b, strict=True)
  )


def pieces(node: Node) -> Pieces:
  """The set of reals `node` describes, in normal form.

  Raises:
    evaluate.Undefined: it describes none, or one with ends that are not constants.
  """
  if isinstance(node, Rel):
    if node.ops == ("in",):
      return pieces(node.args[1])
    return _solve(node)
  if isinstance(node, Union):
    left, right = (pieces(arg) for arg in node.args)
    if node.kind == "union":
      return normalise(left + right)
    return intersect(left, right if node.kind == "intersection" else complement(right))
  if isinstance(node, Seq) and node.brackets == "{}":
    values = [_number(item) for item in node.items]
    return normalise(tuple(Piece(v, v, True, True) for v in values))
  if isinstance(node, Seq) and node.brackets in INTERVALS and len(node.items) == 2:
    low, high = (_number(item) for item in node.items)
    if low > high:
      raise evaluate.Undefined("an interval that runs backwards")
    return normalise((Piece(low, high, node.brackets[0] == "[", node.brackets[1] == "]"),))
  if isinstance(node, Seq) and node.brackets == "," and all(is_inequality(i) for i in node.items):
    parts = [pieces(item) for item in node.items]
    # "x < 1 or x > 3" are apart and meant together; "x > 1 and x < 3" overlap and are both meant.
    common = parts[0]
    for part in parts[1:]:
      common = intersect(common, part)
    return common if common else normalise(tuple(p for part in parts for p in part))
  raise evaluate.Undefined("not a set of reals")


def is_inequality(node: Node) -> bool:
  return isinstance(node, Rel) and all(op in INEQUALITIES for op in node.ops)


def is_set(node: Node) -> bool:
  """Whether `node` can be nothing but a set of numbers: an inequality, a union, `x in ...`."""
  return (
    is_inequality(node)
    or isinstance(node, Union)
    or (isinstance(node, Rel) and node.ops == ("in",))
    or (isinstance(node, Seq) and node.brackets in ("(]", "[)"))
    or (isinstance(node, Seq) and node.brackets == "," and all(map(is_inequality, node.items)))
  )


def _solve(rel: Rel) -> Pieces:
  """Solves a chain of inequalities that is linear in its one unknown, or in its absolute value."""
  unknowns = {n for n in nodes.walk(rel) if _is_opaque(n)}
  if not unknowns:
    unknowns = {n for n in nodes.walk(rel) if isinstance(n, Sym) and nodes.symbols(n)}
  if len(unknowns) != 1:
    raise evaluate.Undefined("not exactly one unknown")
  (unknown,) = unknowns
  args = [_replace(arg, unknown) for arg in rel.args]
  if any(nodes.symbols(arg) - {_UNKNOWN} for arg in args):
    raise evaluate.Undefined("a second variable")
  found: Pieces = (_line(),)
  for op, left, right in zip(rel.ops, args, args[1:], strict=False):
    if op not in INEQUALITIES:
      raise evaluate.Undefined("not an inequality")
    found = intersect(found, _half_line(op, left, right))
  if isinstance(unknown, Op) and unknown.kind == "abs" and isinstance(unknown.args[0], Sym):
    mirrored = tuple(Piece(-p.high, -p.low, p.high_closed, p.low_closed) for p in found)
    positive = (Piece(evaluate.context(evaluate.DIGITS).mpf(0), _line().high, True, False),)
    negative = tuple(Piece(-p.high, -p.low, p.high_closed, p.low_closed) for p in positive)
    return normalise(intersect(found, positive) + intersect(mirrored, negative))
  return found


def _is_opaque(node: Node) -> bool:
  return isinstance(node, Op) and (node.kind.startswith("call:") or node.kind == "abs")


def _replace(node: Node, unknown: Node) -> Node:
  if node == unknown:
    return Sym(_UNKNOWN)
  return nodes.rebuild(node, tuple(_replace(child, unknown) for child in nodes.children(node)))


def _at(node: Node, x: int) -> Node:
  if node == Sym(_UNKNOWN):
    return Num(Fraction(x))
  return nodes.rebuild(node, tuple(_at(child, x) for child in nodes.children(node)))


def _half_line(op: str, left: Node, right: Node) -> Pieces:
  line = _line()
  if any(arg in (Sym("oo"), Op("neg", (Sym("oo"),))) for arg in (left, right)):
    return (line,)
  difference = Op("add", (left, Op("neg", (right,))))
  at = [_number(_at(difference, x)) for x in (0, 1, 2, 7)]
  slope, constant = at[1] - at[0], at[0]
  if not (_close(at[2] - at[0], 2 * slope) and _close(at[3] - at[0], 7 * slope)):
    raise evaluate.Undefined("not linear")
  if _close(slope, 0):
    raise evaluate.Undefined("no unknown is left")
  border = -constant / slope
  op = op if slope > 0 else _FLIPPED[op]
  if op == "!=":
    return (Piece(line.low, border, False, False), Piece(border, line.high, False, False))
  if op[0] == "<":
    return (Piece(line.low, border, False, op == "<="),)
  return (Piece(border, line.high, op == ">=", False),)

"""Decides whether two answers that have been read mean the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lhrm_jax.rewards.math import equations, evaluate, intervals, nodes, rewrite, scalars
from lhrm_jax.rewards.math.nodes import Matrix, Node, Rel, Seq, Sym, TooBig
from lhrm_jax.rewards.math.threeway import all_true

MAX_ITEMS = 40


def same(gold: Node, answer: Node) -> bool | None:
  """Whether `answer` means the same as `gold`; `None` where that cannot be decided.

  Raises:
    TooBig, Unreadable: an expression over the caps, or one without a meaning.
  """
  return _same(rewrite.prepared(gold), rewrite.prepared(answer))


def _same(gold: Node, answer: Node) -> bool | None:
  if gold == answer:
    return True
  if intervals.is_set(gold) or intervals.is_set(answer):
    return _same_sets(gold, answer)
  gold, answer = _single(gold), _single(answer)
  if _is_list_of_equations(answer):
    gold = equations.as_record(gold)
  if _is_list_of_equations(gold):
    answer = equations.as_record(answer)
  if isinstance(gold, Rel) or isinstance(answer, Rel):
    return _same_relations(gold, answer)
  if isinstance(gold, Matrix) or isinstance(answer, Matrix):
    return _same_matrices(gold, answer)
  if isinstance(gold, Seq) or isinstance(answer, Seq):
    return _same_sequences(gold, answer)
  return scalars.same_scalars(gold, answer)


def _same_relations(gold: Node, answer: Node) -> bool | None:
  if not isinstance(answer, Rel):
    if not equations.is_equation(gold):
      return False
    value = equations.stated_value(gold)
    return False if value is None else _same(value, answer)
  if not equations.is_equation(answer):
    return isinstance(gold, Rel) and equations.same_chains(gold, answer)
  if not isinstance(gold, Rel):
    value = equations.stated_value(answer)
    return False if value is None else _same(gold, value)
  if not equations.is_equation(gold):
    return False
  left, right = equations.name(gold), equations.name(answer)
  values = equations.value(gold), equations.value(answer)
  if left is not None and right is not None:
    if left == right or not all(map(evaluate.is_scalar, values)):
      return _same(*values)
    renamed = equations.renamed(left, right, values[1])
    if renamed is not None:
      return _same(values[0], renamed)
  return equations.proportional(equations.difference(gold), equations.difference(answer))


def _same_sets(gold: Node, answer: Node) -> bool | None:
  gold, answer = _unnamed(gold), _unnamed(answer)
  try:
    return intervals.same_pieces(intervals.pieces(gold), intervals.pieces(answer))
  except evaluate.Undefined:
    pass
  gold, answer = _members(gold), _members(answer)
  if isinstance(gold, Rel) and isinstance(answer, Rel):
    return equations.same_chains(gold, answer)
  if isinstance(gold, nodes.Union) and isinstance(answer, nodes.Union):
    return gold.kind == answer.kind and all_true(map(_same, gold.args, answer.args))
  if isinstance(gold, Seq) and isinstance(answer, Seq):
    return _same_sequences(gold, answer)
  return False


def _members(node: Node) -> Node:
  return node.args[1] if isinstance(node, Rel) and node.ops == ("in",) else node


def _unnamed(node: Node) -> Node:
  """`D = (0, 1)` without its name."""
  if isinstance(node, Rel) and equations.is_equation(node) and equations.name(node) is not None:
    return equations.value(node)
  return node


# Lists, sets, tuples and matrices.


def _single(node: Node) -> Node:
  """A list or set of one is its one member."""
  while isinstance(node, Seq) and node.brackets in (",", "{}") and len(node.items) == 1:
    node = node.items[0]
  return node


def _is_list_of_equations(node: Node) -> bool:
  return isinstance(node, Seq) and all(isinstance(item, Rel) for item in node.items)


def _same_sequences(gold: Node, answer: Node) -> bool | None:
  free = (",", "{}")
  if not isinstance(answer, Seq):
    # Several equal candidates are one; several different ones are wrong.
    return (
      gold.brackets in free and bool(gold.items) and all_true(_same(g, answer) for g in gold.items)
    )
  if not isinstance(gold, Seq):
    return (
      answer.brackets in free
      and bool(answer.items)
      and all_true(_same(gold, a) for a in answer.items)
    )
  if max(len(gold.items), len(answer.items)) > MAX_ITEMS:
    raise TooBig(f"more than {MAX_ITEMS} values")
  if gold.brackets in free and answer.brackets in free:
    ours, theirs, in_order = _without_names(gold.items, answer.items)
    return _in_order(ours, theirs) if in_order else _as_sets(ours, theirs)
  if "{}" in (gold.brackets, answer.brackets):
    return False
  # (0, 1) is not [0, 1], and a bare 0, 1 can only be the first.
  readings = {b if b != "," else "()" for b in (gold.brackets, answer.brackets)}
  if len(gold.items) == 2 and len(readings) > 1:
    return False
  return _in_order(
    [_unnamed(item) for item in gold.items], [_unnamed(item) for item in answer.items]
  )


def _without_names(
  gold: Sequence[Node], answer: Sequence[Node]
) -> tuple[Sequence[Node], Sequence[Node], bool]:
  """Takes names off where only one side has them; the last value says whether order counts.

  `x = 1, y = 2` against `1, 2` counts order. `x = 1, x = 2`, `x_1 = 1, x_2 = 2` and `x = 1, 2` name
  one unknown and do not.
  """
  named = [[item for item in side if isinstance(item, Rel)] for side in (gold, answer)]
  if len(named[0]) == len(gold) and len(named[1]) == len(answer):
    return gold, answer, False
  if not named[0] and not named[1]:
    return gold, answer, False
  in_order = False
  for side, rels in zip((gold, answer), named, strict=True):
    heads = {
      re.split(r"[_']", equations.name(rel).name)[0]
      for rel in rels
      if isinstance(equations.name(rel), Sym)
    }
    in_order |= len(rels) == len(side) > 1 and (len(heads) > 1 or not heads)
  return [_unnamed(item) for item in gold], [_unnamed(item) for item in answer], in_order


def _in_order(gold: Sequence[Node], answer: Sequence[Node]) -> bool | None:
  return len(gold) == len(answer) and all_true(map(_same, gold, answer))


def _as_sets(gold: Sequence[Node], answer: Sequence[Node]) -> bool | None:
  """Whether the members agree in any order. Repeats count only if the gold has some."""
  distinct = _distinct(gold)
  if len(distinct) == len(gold):
    answer = _distinct(answer)
  if len(gold) != len(answer):
    return False
  left, undecided = list(answer), False
  for item in gold:
    verdicts = [_same(item, other) for other in left]
    if True in verdicts:
      left.pop(verdicts.index(True))
    elif None in verdicts:
      undecided = True
    else:
      return False
  return None if undecided else True


def _distinct(items: Sequence[Node]) -> list[Node]:
  out: list[Node] = []
  for item in items:
    if not any(_same(item, other) is True for other in out):
      out.append(item)
  return out


def _same_matrices(gold: Node, answer: Node) -> bool | None:
  rows = [_rows(gold), _rows(answer)]
  if rows[0] is None or rows[1] is None:
    return False
  if isinstance(gold, Seq) or isinstance(answer, Seq):  # a vector may be written as a tuple
    flat = [[cell for row in side for cell in row] for side in rows]
    return all(1 in (len(side), len(side[0])) for side in rows) and _in_order(*flat)
  return len(rows[0]) == len(rows[1]) and all_true(map(_in_order, *rows))


def _rows(node: Node):
  if isinstance(node, Matrix):
    return node.rows
  if isinstance(node, Seq) and node.brackets in ("()", "[]") and node.items:
    return (node.items,)
  return None

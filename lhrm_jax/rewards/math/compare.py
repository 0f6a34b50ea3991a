"""Decides whether two parsed answers mean the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lhrm_jax.rewards.math import (
  equality,
  equations,
  evaluate,
  families,
  nodes,
  scalars,
  sets,
  words,
)
from lhrm_jax.rewards.math.exact import NotExact, Undefined
from lhrm_jax.rewards.math.nodes import Matrix, Node, Op, Rel, Seq, Sym, Text, TooBig
from lhrm_jax.rewards.math.three_valued import all_true, any_true

MAX_ITEMS = 40
_REALS = Seq("()", (Op("neg", (Sym("oo"),)), Sym("oo")))


def same(gold: Node, answer: Node) -> bool | None:
  """Whether `answer` means the same as `gold`; `None` where that cannot be decided.

  Raises:
    TooBig, Unreadable: an expression is over the caps, or has no meaning.
  """
  evaluate.reset_budget()
  verdicts = []
  for as_binomial in (False, True) if evaluate.uses(gold, "column") else (False,):
    sides = (_prepared(side, as_binomial=as_binomial) for side in (gold, answer))
    verdicts.append(_same(*sides))
  return any_true(verdicts)


def _prepared(node: Node, *, as_binomial: bool) -> Node:
  """`node` with plus-minus written out, and bracketed arrays of two as columns or binomials."""
  return _expand_signs(_columns(node, as_binomial))


def _columns(node: Node, as_binomial: bool) -> Node:
  inner = tuple(_columns(child, as_binomial) for child in nodes.children(node))
  if isinstance(node, Op) and node.kind == "column":
    return Op("binom", inner) if as_binomial else Matrix(tuple((cell,) for cell in inner))
  return nodes.rebuild(node, inner)


def _expand_signs(node: Node) -> Node:
  """Writes `1 \\pm x` as the two values `1 + x, 1 - x`."""
  if not evaluate.uses(node, "pm", "mp"):
    return node
  if isinstance(node, Seq) and node.brackets in (",", "{}"):
    items = []
    for item in node.items:
      new = _expand_signs(item)
      several = evaluate.uses(item, "pm", "mp") and isinstance(new, Seq)
      items.extend(new.items if several else (new,))
    return Seq(node.brackets, tuple(items))
  if isinstance(node, Rel) and any(
    isinstance(arg, Seq) and arg.brackets == "{}" for arg in node.args
  ):
    node = Rel(node.ops, tuple(map(_expand_signs, node.args)))
    if not evaluate.uses(node, "pm", "mp"):
      return node
  both = _signed(node, True), _signed(node, False)
  if isinstance(node, Rel) and node.ops == ("!=",):
    return nodes.Union("and", both)
  return Seq("{}", both)


def _signed(node: Node, plus: bool) -> Node:
  inner = tuple(_signed(child, plus) for child in nodes.children(node))
  if isinstance(node, Op) and node.kind in ("pm", "mp"):
    return inner[0] if (node.kind == "pm") == plus else Op("neg", inner)
  return nodes.rebuild(node, inner)


def _same(gold: Node, answer: Node) -> bool | None:
  if gold == answer:
    return True
  gold, answer = _without_domain(gold), _without_domain(answer)
  ours, theirs = families.split(gold), families.split(answer)
  if ours or theirs:
    return _same_families(gold, answer, ours, theirs)
  if isinstance(gold, Text) or isinstance(answer, Text):
    gold, answer = _set_in_words(gold), _set_in_words(answer)
  if sets.is_set(gold) or sets.is_set(answer):
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
  if _has_matrix(gold) or _has_matrix(answer):
    return _same_matrices(gold, answer)
  return scalars.same_scalars(gold, answer)


def _set_in_words(node: Node) -> Node:
  """The set of all reals or the empty set where `node` names it in words, else `node`."""
  said = words.normal(node.text) if isinstance(node, Text) else ()
  if said in _ALL_REALS:
    return _REALS
  return Seq("{}", ()) if said in _NOTHING else node


_ALL_REALS = tuple(
  tuple(text.split())
  for text in ("all real numbers", "all reals", "the set of all real numbers", "real numbers",
               "all real values", "the real numbers", "every real number", "any real number")
)  # fmt: skip


_NOTHING = tuple(
  tuple(text.split())
  for text in ("no solution", "no solutions", "no real solution", "no real solutions",
               "empty set", "the empty set")
)  # fmt: skip


def _without_domain(node: Node) -> Node:
  r"""`a_n = 3n, n \in \mathbb{N}` without the set that the argument of its name runs through."""
  if not isinstance(node, Seq) or node.brackets != "," or len(node.items) != 2:
    return node
  formula, domain = node.items
  if not (isinstance(domain, Rel) and domain.ops == ("in",) and isinstance(domain.args[0], Sym)):
    return node
  where = domain.args[1]
  if not (isinstance(where, Sym) and where.name.startswith("set_")) and where != _REALS:
    return node
  if evaluate.is_scalar(formula) and where != Sym("set_Z"):
    return formula if domain.args[0].name in nodes.symbols(formula) else node
  if not equations.is_equation(formula) or (name := equations.name(formula)) is None:
    return node
  indices = {s.rpartition("_")[2] for s in nodes.symbols(name) if "_" in s}
  arguments = nodes.symbols(name) if isinstance(name, Op) else set()
  return formula if domain.args[0].name in indices | arguments else node


def _same_families(
  gold: Node, answer: Node, ours: families.Family | None, theirs: families.Family | None
) -> bool | None:
  """Solutions with an integer parameter, or lists of formulas with a condition."""
  if ours is None:
    ours = families.guessed(gold, theirs)
  if theirs is None:
    theirs = families.guessed(answer, ours)
  try:
    return families.equal(ours, theirs)
  except Undefined:
    pass
  if (gold, answer) == tuple(Seq(",", side.items) for side in (ours, theirs)):
    return None  # nothing to take off
  if not (ours.parameters and theirs.parameters):
    return None
  return _same(*(_single(Seq(",", side.items)) for side in (ours, theirs)))


def _same_relations(gold: Node, answer: Node) -> bool | None:
  if not isinstance(answer, Rel):
    if not equations.is_equation(gold):
      return False
    value = equations.stated_value(gold) or equations.solved_value(gold, answer)
    return False if value is None else _same(value, answer)
  if not isinstance(gold, Rel):
    if not equations.is_equation(answer):
      return False
    value = _stated(answer)
    return False if value is None else _same(gold, value)
  if not equations.is_equation(answer) or not equations.is_equation(gold):
    return equations.same_chains(gold, answer)
  left, right = equations.name(gold), equations.name(answer)
  values = equations.value(gold), equations.value(answer)
  if left is not None and right is not None:
    scalar = all(map(evaluate.is_scalar, values))
    if left == right or not scalar:
      return _same(*values) if left == right or _is_nameless(left, right) else False
    renamed = equations.renamed(left, right, values[1])
    if renamed is not None:
      return _same(values[0], renamed)
  elif left is None and right is None:
    stated = [equations.stated_value(rel) for rel in (gold, answer)]
    if stated[0] is not None and stated[1] is not None:
      return _same(*stated)
  if not all(evaluate.is_scalar(arg) for rel in (gold, answer) for arg in rel.args):
    return False
  solved = isinstance(left, Sym) and not nodes.symbols(values[0])
  if solved and not equations.is_nearly_solved(answer, left.name):
    return None  # 2x = 10 for x = 5 may be the question
  return equations.algebra.same_equation(equations.difference(gold), equations.difference(answer))


def _is_nameless(left: Node, right: Node) -> bool:
  """Whether the names of two points or matrices may differ: one of them is a word or a tuple."""
  return any(isinstance(side, Text | Seq) for side in (left, right))


def _stated(rel: Rel) -> Node | None:
  """The value of an equation between lists or sets, or between numbers."""
  first, last = rel.args[0], rel.args[-1]
  if isinstance(first, Seq) and isinstance(last, Seq) and not equations.is_name(first):
    return last if _same(first, last) else None
  return equations.stated_value(rel)


def _same_sets(gold: Node, answer: Node) -> bool | None:
  gold, answer = _unnamed(gold), _unnamed(answer)
  try:
    return sets.equal(gold, answer)
  except (Undefined, NotExact):
    pass
  gold, answer = _members(gold), _members(answer)
  if isinstance(gold, Rel) and isinstance(answer, Rel):
    return equations.same_chains(gold, answer)
  if isinstance(gold, nodes.Union) and isinstance(answer, nodes.Union):
    if gold.kind != answer.kind or len(gold.args) != len(answer.args):
      return None
    same = all_true(map(_same, gold.args, answer.args))
    return True if same else None
  if isinstance(gold, Seq) and isinstance(answer, Seq):
    return _same_sequences(gold, answer)
  gold, answer = _single(gold), _single(answer)
  if evaluate.is_scalar(gold) and evaluate.is_scalar(answer):
    return scalars.same_scalars(gold, answer)
  return False


def _members(node: Node) -> Node:
  named = isinstance(node, Rel) and node.ops == ("in",) and equations.is_name(node.args[0])
  return node.args[1] if named else node


def _unnamed(node: Node) -> Node:
  """`D = (0, 1)` without its name."""
  if equations.is_equation(node) and equations.name(node) is not None:
    return equations.value(node)
  return node


# Lists, sets, tuples and matrices.


def _single(node: Node) -> Node:
  """The only member of a list or set of one; any other node as it is."""
  while isinstance(node, Seq) and node.brackets in (",", "{}") and len(node.items) == 1:
    node = node.items[0]
  return node


def _is_list_of_equations(node: Node) -> bool:
  return isinstance(node, Seq) and all(isinstance(item, Rel) for item in node.items)


def _same_sequences(gold: Node, answer: Node) -> bool | None:
  free = (",", "{}")
  if not isinstance(answer, Seq):
    # Several equal candidates count as one; several different ones are wrong.
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
  if {"{}", "case"} & {gold.brackets, answer.brackets}:
    return gold.brackets == answer.brackets and _in_order(gold.items, answer.items)
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
  """Removes names that only one side has; the last value says whether order counts.

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


def _has_matrix(node: Node) -> bool:
  return any(isinstance(below, Matrix) for below in nodes.walk(node))


def _same_matrices(gold: Node, answer: Node) -> bool | None:
  if isinstance(gold, Seq) or isinstance(answer, Seq):
    sides = [_as_matrices(side) for side in (gold, answer)]
    return any_true(equality.equal(a, b) for a in sides[0] for b in sides[1])
  return equality.equal(gold, answer)


def _as_matrices(node: Node) -> list[Node]:
  """A tuple as the row and the column it may stand for, `[[1, 2], [3, 4]]` as a matrix."""
  if not isinstance(node, Seq):
    return [node]
  if node.brackets not in ("()", "[]") or not node.items:
    return []
  rows = [item.items if isinstance(item, Seq) else () for item in node.items]
  if all(rows):
    return [Matrix(tuple(rows))] if len(set(map(len, rows))) == 1 else []
  if not all(map(evaluate.is_scalar, node.items)):
    return []
  return [Matrix((node.items,)), Matrix(tuple((item,) for item in node.items))]

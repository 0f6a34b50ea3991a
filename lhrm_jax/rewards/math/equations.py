"""Relations: the value an equation states, and whether two relations are the same."""

from __future__ import annotations

from lhrm_jax.rewards.math import algebra, evaluate, nodes, rounding
from lhrm_jax.rewards.math.exact import NotExact, Undefined, exact
from lhrm_jax.rewards.math.nodes import Node, Op, Rel, Seq, Sym, Text
from lhrm_jax.rewards.math.three_valued import all_true

# Letters in a row that may be a name: AB, Area, perimeter.
_MAX_NAME = 12


def is_equation(node: Node) -> bool:
  return isinstance(node, Rel) and all(op in ("=", "~", "==") for op in node.ops)


def value(rel: Rel) -> Node:
  """The last side of a chain of equalities; an approximation counts only where nothing is exact."""
  cut = rel.ops.index("~") if "~" in rel.ops else len(rel.args) - 1
  return rel.args[-1] if cut == 0 and is_name(rel.args[0]) else rel.args[cut]


def name(rel: Rel) -> Node | None:
  """The side of an equation that only names its value, if there is one."""
  return next((arg for arg in rel.args[:-1] if is_name(arg)), None)


def as_record(node: Node) -> Node:
  """`(x, y) = (1, 2)` as `x = 1, y = 2`; any other node as it is."""
  if not isinstance(node, Rel) or node.ops != ("=",):
    return node
  left, right = node.args
  if not (isinstance(left, Seq) and isinstance(right, Seq) and len(left.items) == len(right.items)):
    return node
  pairs = zip(left.items, right.items, strict=True)
  return Seq(",", tuple(Rel(("=",), pair) for pair in pairs))


def is_name(node: Node) -> bool:
  if isinstance(node, Sym | Text):
    return True
  if isinstance(node, Seq):
    return node.brackets in (",", "()") and bool(node.items) and all(map(is_name, node.items))
  if isinstance(node, Op):
    if node.kind.startswith("call:"):
      return True
    if node.kind == "mul" and len(node.args) > _MAX_NAME:
      return False
    if node.kind in ("abs", "mul", "div", "ratio", "conj") or node.kind.startswith("fn:"):
      return all(map(is_name, node.args))
  return False


def stated_value(rel: Rel) -> Node | None:
  """The value that `x = 3` or `2 + 2 = 4` states; `None` for an equation between variables."""
  given = value(rel)
  if is_name(given) and len(rel.args) == 2 and not nodes.symbols(rel.args[0]):
    return rel.args[0]  # 3 = x
  if name(rel) is not None:
    return given
  if any(nodes.symbols(arg) or isinstance(arg, Seq | Text) for arg in rel.args):
    return None
  if rel.ops[0] == "~" and not _near(rel.args[0], rel.args[-1]):
    return None
  # `2 + 2 = 4` states 4; `6 = 7` states nothing.
  return given if rounding.equal(rel.args[0], given) else None


# Relative distance beyond which a number does not approximate another.
_NEAR = 0.1


def _near(exact_side: Node, rounded: Node) -> bool:
  try:
    first, last = (float(evaluate.constant(side)) for side in (exact_side, rounded))
  except (Undefined, OverflowError):
    return True
  return abs(first - last) <= _NEAR * max(abs(first), abs(last))


def solved_value(rel: Rel, other: Node) -> Node | None:
  """Solves an equation such as `y + 1 = 2x` for the `y` that `other` lacks."""
  if rel.ops != ("=",):
    return None
  for left, right in (rel.args, rel.args[::-1]):
    names = nodes.symbols(left) - nodes.symbols(right)
    if len(names) == 1 and nodes.symbols(other) == nodes.symbols(right):
      return algebra.solved_for(left, right, *names)
  return None


def is_nearly_solved(rel: Rel, name: str) -> bool:
  """Whether an equation such as `3 = x` or `x - 3 = 0` has `name` itself as its one term."""
  try:
    at = [exact(algebra.at(difference(rel), name, x)) for x in (0, 1, 2)]
  except (NotExact, Undefined):
    return rel.args[-1] == Sym(name)
  return abs(at[1] - at[0]) == 1 == abs(at[2] - at[1])


def renamed(left: Node, right: Node, body: Node) -> Node | None:
  """`body` with the variable of `f(x)` renamed to that of `f(n)`; `None` if the names differ."""
  if not (isinstance(left, Op) and isinstance(right, Op) and left.kind == right.kind):
    return None
  if not left.kind.startswith("call:") or len(left.args) != len(right.args):
    return None
  for new, old in zip(left.args, right.args, strict=True):
    if not (isinstance(new, Sym) and isinstance(old, Sym)):
      return None
    body = nodes.rename(body, old.name, new.name)
  return body


def difference(rel: Rel) -> Node:
  return Op("add", (rel.args[0], Op("neg", (rel.args[-1],))))


def same_chains(gold: Rel, answer: Rel) -> bool | None:
  """Compares inequalities that no interval describes, such as `f(2) < f(1)` or `x + y > 3`."""

  def links(rel: Rel) -> list[tuple[str, Node]]:
    out = []
    for op, left, right in zip(rel.ops, rel.args, rel.args[1:], strict=False):
      if op[0] == ">":
        op, left, right = op.replace(">", "<"), right, left
      out.append((op, Op("add", (left, Op("neg", (right,))))))
    return out

  def same(op: str, a: Node, b: Node) -> bool | None:
    return algebra.same_inequality(a, b) if op[0] == "<" else algebra.same_equation(a, b)

  ours, theirs = links(gold), links(answer)
  if len(ours) != len(theirs):
    return False
  if gold.ops[0][0] != answer.ops[0][0]:
    theirs.reverse()
  return all_true(
    op == other and same(op, a, b) for (op, a), (other, b) in zip(ours, theirs, strict=True)
  )

"""Lists of answers: what items joined by commas, semicolons, "and" and "or" stand for."""

from __future__ import annotations

from lhrm_jax.rewards.math import families, nodes
from lhrm_jax.rewards.math.nodes import Node, Op, Rel, Seq, Sym

_BOUNDS = ("<", ">", "<=", ">=", "!=", "in", "notin")
_ORDERS = ("<", ">", "<=", ">=", "!=")


def of_groups(groups: list[Node]) -> Node:
  """What groups with semicolons between them stand for."""
  if len(groups) == 1:
    return groups[0]
  # `p=5,q=2; p=7,q=2` is two records; `1, 2; 3` is one list.
  if all(_is_record(group) for group in groups):
    return Seq(",", tuple(groups))
  return Seq(",", tuple(item for group in groups for item in _flat(group)))


def of_items(parts: list[list[Node]], joints: set[str]) -> Node:
  """What items joined by commas, "and" and "or" stand for.

  Args:
    parts: items with commas between them; "and" or "or" stands between two parts.
    joints: what joins the items, of ",", "and" and "or".
  """
  records = [Seq(",", tuple(part)) for part in parts]
  if len(parts) > 1 and all(_is_record(record) for record in records):
    return Seq(",", tuple(records))
  items = tuple(item for part in parts for item in part)
  items = tuple(below for item in items for below in families.with_condition(item))
  if len(items) == 1:
    return items[0]
  bounded = {item.args[0] for item in items if isinstance(item, Rel) and item.ops[0] in _ORDERS}
  items = tuple(item for item in items if not _is_real(item) or item.args[0] not in bounded)
  if len(items) == 1:
    return items[0]
  if any(isinstance(item, Op) and item.kind == "residue" for item in items):
    return families.joined_residues(items)
  if (
    isinstance(items[0], Rel)
    and items[0].ops == ("!=",)
    and not any(isinstance(item, Rel) for item in items[1:])
  ):  # x \\ne 1, 3
    name = items[0].args[0]
    others = tuple(Rel(("!=",), (name, value)) for value in items[1:])
    return nodes.Union("and", (items[0], *others))
  bounds = [isinstance(item, Rel) and any(op in _BOUNDS for op in item.ops) for item in items]
  conjunctions = joints - {","}
  if any(bounds) and len(conjunctions) == 1:
    return nodes.Union(conjunctions.pop(), items)
  return Seq(",", items)


def _flat(node: Node) -> tuple[Node, ...]:
  return node.items if isinstance(node, Seq) and node.brackets == "," else (node,)


def _is_record(node: Node) -> bool:
  """Whether `node` is a bare list of two or more `name = value`."""
  return (
    isinstance(node, Seq)
    and node.brackets == ","
    and len(node.items) > 1
    and all(
      isinstance(i, Rel) and i.ops == ("=",) and isinstance(i.args[0], Sym) for i in node.items
    )
  )


def _is_real(node: Node) -> bool:
  r"""Whether `node` only says `x \in \mathbb{R}`."""
  reals = Seq("()", (Op("neg", (Sym("oo"),)), Sym("oo")))
  return isinstance(node, Rel) and node.ops == ("in",) and node.args[1] == reals

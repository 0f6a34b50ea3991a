"""Rewrites of a tree before it is compared: sums and products of matrices, and plus-minus."""

from __future__ import annotations

from fractions import Fraction

from lhrm_jax.rewards.math import evaluate, nodes
from lhrm_jax.rewards.math.nodes import Matrix, Node, Num, Op, Rel, Seq, TooBig, Unreadable


def prepared(node: Node) -> Node:
  """`node` with plus-minus written out and matrices multiplied and added."""
  return _fold_matrices(_expand_signs(node))


def _fold_matrices(node: Node) -> Node:
  """Carries out sums and products of matrices."""
  if not isinstance(node, Op | Seq | Rel) or not any(
    isinstance(n, Matrix) for n in nodes.walk(node)
  ):
    return node
  inner = tuple(_fold_matrices(child) for child in nodes.children(node))
  if not isinstance(node, Op) or not any(isinstance(arg, Matrix) for arg in inner):
    return nodes.rebuild(node, inner)
  if node.kind not in ("add", "mul", "neg"):
    raise Unreadable(f"{node.kind} of a matrix")
  total = inner[0]
  if node.kind == "neg":
    return _multiply(Num(Fraction(-1)), total)
  for arg in inner[1:]:
    total = _add(total, arg) if node.kind == "add" else _multiply(total, arg)
  if sum(1 for _ in nodes.walk(total)) > 5_000:
    raise TooBig("a product of large matrices")
  return total


def _add(a: Node, b: Node) -> Node:
  if not (isinstance(a, Matrix) and isinstance(b, Matrix)) or len(a.rows) != len(b.rows):
    raise Unreadable("a sum of matrices of different shape")
  if len(a.rows[0]) != len(b.rows[0]):
    raise Unreadable("a sum of matrices of different shape")
  return Matrix(
    tuple(
      tuple(Op("add", pair) for pair in zip(x, y, strict=True))
      for x, y in zip(a.rows, b.rows, strict=True)
    )
  )


def _multiply(a: Node, b: Node) -> Node:
  if isinstance(a, Matrix) and isinstance(b, Matrix):
    if len(a.rows[0]) != len(b.rows):
      raise Unreadable("a product of matrices of different shape")
    columns = list(zip(*b.rows, strict=True))
    return Matrix(
      tuple(
        tuple(
          Op("add", tuple(Op("mul", pair) for pair in zip(row, column, strict=True)))
          for column in columns
        )
        for row in a.rows
      )
    )
  if not isinstance(a, Matrix) and not isinstance(b, Matrix):
    return Op("mul", (a, b))
  scalar, matrix = (b, a) if isinstance(a, Matrix) else (a, b)
  return Matrix(tuple(tuple(Op("mul", (scalar, cell)) for cell in row) for row in matrix.rows))


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
  return Seq("{}", (_signed(node, True), _signed(node, False)))


def _signed(node: Node, plus: bool) -> Node:
  inner = tuple(_signed(child, plus) for child in nodes.children(node))
  if isinstance(node, Op) and node.kind in ("pm", "mp"):
    return inner[0] if (node.kind == "pm") == plus else Op("neg", inner)
  return nodes.rebuild(node, inner)

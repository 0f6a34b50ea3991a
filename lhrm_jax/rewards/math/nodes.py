"""The nodes of a parsed answer: a small tree of plain values.

The parser builds nothing else. A node holds no code and calls none, so parsing a model's text can
do no more than build a tree of bounded size.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction


class TooBig(ValueError):
  """An answer that would need more work than one verdict is worth."""


class Unreadable(ValueError):
  """Text outside the grammar."""


@dataclasses.dataclass(frozen=True, slots=True)
class Num:
  """An exact rational. `digits` counts significant digits where it was written as a decimal."""

  value: Fraction
  digits: int = 0

  @property
  def written(self) -> str:
    """The digits of a natural number in base ten."""
    return str(self.value)


@dataclasses.dataclass(frozen=True, slots=True)
class Sym:
  """A variable, or one of the constants `pi`, `e`, `i` and `oo`."""

  name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Op:
  """An operation on scalars; `evaluate.py` gives every `kind` its meaning."""

  kind: str
  args: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Seq:
  """Several values: `brackets` is `","` for a bare list, `"{}"` for a set, else the two brackets.

  `"()"`, `"[]"`, `"(]"` and `"[)"` may be tuples or intervals; comparison decides which.
  """

  brackets: str
  items: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Union:
  """Sets or conditions joined by `kind`: union, intersection, minus, and, or; or a set builder.

  In a set builder, of the kind `"such"`, the element comes first and its condition second.
  """

  kind: str
  args: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Matrix:
  rows: tuple[tuple[Node, ...], ...]

  @property
  def shape(self) -> tuple[int, int]:
    return len(self.rows), len(self.rows[0])


@dataclasses.dataclass(frozen=True, slots=True)
class Rel:
  """A chain such as `a < b <= c`: `ops` has one entry fewer than `args`."""

  ops: tuple[str, ...]
  args: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Quantity:
  """A value with a unit or another note behind it, as it was written."""

  value: Node
  unit: str


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
  text: str


Node = Num | Sym | Op | Seq | Union | Matrix | Rel | Quantity | Text


def is_number(node: Node) -> bool:
  """Whether `node` is a number as it is written, with or without a sign."""
  if isinstance(node, Op) and node.kind == "neg":
    node = node.args[0]
  return isinstance(node, Num)


def children(node: Node) -> tuple[Node, ...]:
  """The nodes directly inside `node`."""
  if isinstance(node, Op | Union | Rel):
    return node.args
  if isinstance(node, Seq):
    return node.items
  if isinstance(node, Matrix):
    return tuple(cell for row in node.rows for cell in row)
  if isinstance(node, Quantity):
    return (node.value,)
  return ()


def rebuild(node: Node, inner: tuple[Node, ...]) -> Node:
  """`node` with its children replaced by `inner`, in the order `children` gives them."""
  if isinstance(node, Op):
    return Op(node.kind, inner)
  if isinstance(node, Union):
    return Union(node.kind, inner)
  if isinstance(node, Rel):
    return Rel(node.ops, inner)
  if isinstance(node, Seq):
    return Seq(node.brackets, inner)
  if isinstance(node, Matrix):
    width = len(node.rows[0])
    return Matrix(tuple(inner[i : i + width] for i in range(0, len(inner), width)))
  if isinstance(node, Quantity):
    return Quantity(inner[0], node.unit)
  return node


def walk(node: Node):
  """Yields `node` and everything below it."""
  stack = [node]
  while stack:
    top = stack.pop()
    yield top
    stack.extend(children(top))


def symbols(node: Node) -> set[str]:
  """Names of the variables in `node`; the constants pi, e, i and oo are not among them."""
  return {n.name for n in walk(node) if isinstance(n, Sym)} - {"pi", "e", "i", "oo"}


def rename(node: Node, old: str, new: str) -> Node:
  """`node` with the symbol `old` called `new`."""
  if isinstance(node, Sym):
    return Sym(new) if node.name == old else node
  return rebuild(node, tuple(rename(child, old, new) for child in children(node)))

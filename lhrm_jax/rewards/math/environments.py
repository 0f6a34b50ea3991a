"""Environments: matrices, determinants and systems."""

from __future__ import annotations

from lhrm_jax.rewards.math import nodes, vocabulary
from lhrm_jax.rewards.math.cursor import Grammar
from lhrm_jax.rewards.math.nodes import Matrix, Node, Op, Seq, Text, Unreadable

MAX_CELLS = 100


def _environment(p: Grammar) -> str:
  p.expect("{")
  name = ""
  while p.peek().text != "}":
    if p.peek().kind == "end":
      raise Unreadable("an environment has no name")
    name += p.next().text
  p.expect("}")
  return name


def matrix(p: Grammar) -> Node:
  name = _environment(p)
  if name in vocabulary.SYSTEMS:
    return _system(p, name)
  if name not in vocabulary.MATRICES:
    raise Unreadable(f"the environment {name} is outside the grammar")
  if name == "array":
    _environment(p)  # the columns
  rows, row = [], []
  while True:
    with p.deeper():
      row.append(p.item())
    if p.take("&"):
      continue
    rows.append(tuple(row))
    row = []
    while p.take("\\\\"):
      pass
    if p.take(r"\end"):
      break
    if sum(len(r) for r in rows) > MAX_CELLS:
      raise nodes.TooBig(f"a matrix of more than {MAX_CELLS} cells")
  if _environment(p) != name or len({len(r) for r in rows}) != 1:
    raise Unreadable("a matrix with rows of different length")
  if name == "array" and all(len(r) == 1 and isinstance(r[0], nodes.Rel) for r in rows):
    return Seq(",", tuple(r[0] for r in rows))  # a system without its brace
  matrix = Matrix(tuple(rows))
  return Op("det", (matrix,)) if name == "vmatrix" else matrix


_CONDITION_FILLERS = vocabulary.words("if for when is otherwise else where")


def _system(p: Grammar, name: str) -> Node:
  r"""A `cases` environment: a list of relations, or the rows `value & condition`."""
  rows = []
  if not name.endswith("cases"):  # there & only sets the signs below each other
    end = next((i for i in range(p.at, len(p.items)) if p.items[i].text == r"\end"), p.at)
    p.items[p.at : end] = [t for t in p.items[p.at : end] if t.text != "&" or t.kind == "text"]
  while not p.take(r"\end"):
    if p.take("\\\\"):
      continue
    with p.deeper():
      value = p.item()
      while p.take(",", ";"):
        pass
      if p.take("&") and p.peek().text not in ("\\\\", r"\end"):
        condition: Node | None = _condition(p)
      elif p.peek().kind == "text" and p.peek().text.split()[:1] in (["if"], ["for"], ["when"]):
        condition = _condition(p)
      else:
        condition = None
    rows.append(value if condition is None else Seq("case", (value, condition)))
    if len(rows) > MAX_CELLS:
      raise nodes.TooBig(f"a system of more than {MAX_CELLS} rows")
  if _environment(p) != name or not rows:
    raise Unreadable(f"the environment {name} is not closed")
  return Seq(",", tuple(rows))


def _condition(p: Grammar) -> Node:
  """The condition of one case: a relation where it can be read as one, else its words."""
  start = p.at
  while p.peek().text not in ("\\\\", r"\end") or p.peek().kind == "text":
    if p.peek().kind == "end":
      raise Unreadable("a system is not closed")
    p.next()
  items = [t for t in p.items[start : p.at] if t.text != "&"]
  while items and items[-1].text in (",", ";"):
    items.pop()
  words = []
  for item in items:
    words += item.text.lower().split() if item.kind == "text" else [item.text]
  kept = [word.strip(",.") for word in words if word.strip(",.") not in _CONDITION_FILLERS]
  if items and items[0].kind == "text" and items[0].text.split()[-1:] != [""]:
    rest = items[1:] if set(items[0].text.lower().split()) <= _CONDITION_FILLERS else items
    items = rest or items
  if not any(item.kind == "text" for item in items):
    return p.inside(items)
  return Text(" ".join(kept) or "otherwise")

"""Splits the set-up of code tests into statements, with the names they bind and use."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence

from lhrm_jax.rewards.registry import BadAnswer

_MODULES = (
  "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools",
  "heapq", "itertools", "json", "math", "operator", "re", "statistics", "string", "sys",
)  # fmt: skip
_MEMBERS = {
  "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
  "decimal": ("Decimal",),
  "fractions": ("Fraction",),
  "math": ("inf", "isclose", "nan", "pi"),
}
# Names that tests use without importing them, and the statement that imports them.
TRUSTED: dict[str, str] = {
  **{name: f"import {name}" for name in _MODULES},
  **{name: f"from {module} import {name}" for module, of in _MEMBERS.items() for name in of},
}

_NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler


@dataclasses.dataclass(frozen=True, eq=False)
class Statement:
  """One top-level statement.

  Attributes:
    source: its code.
    binds: names it binds or may change.
    uses: other names it reads.
    imports: whether it is an import.
    defines: whether it defines a function or a class.
  """

  source: str
  binds: frozenset[str]
  uses: frozenset[str]
  imports: bool
  defines: bool


def split(setup: str) -> list[Statement]:
  """The statements of a set-up.

  Raises:
    BadAnswer: it is not Python, imports from outside the standard library, or imports everything
      of an unknown module.
  """
  try:
    body = ast.parse(setup.replace("\r\n", "\n")).body
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise BadAnswer(f"'setup' is not Python: {error}") from None
  return [_statement(node) for node in body]


def imports_for(names: Iterable[str]) -> str:
  """Imports of those of `names` that are in `TRUSTED`."""
  return "\n".join(TRUSTED[name] for name in sorted(names) if name in TRUSTED)


def literals(statements: Sequence[Statement]) -> dict[str, object]:
  """Values of the names that are bound once, to a literal."""
  found = {}
  for statement in statements:
    node = ast.parse(statement.source).body[0]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
      with contextlib.suppress(ValueError, TypeError, RecursionError, MemoryError):
        for target in targets:
          found |= _bound_to(target, ast.literal_eval(node.value))
  bound = [name for statement in statements for name in statement.binds]
  return {name: value for name, value in found.items() if bound.count(name) == 1}


def _bound_to(target: ast.expr | None, value: object) -> dict[str, object]:
  """Values of the names of `target = value`, in parts where it unpacks."""
  if isinstance(target, ast.Name):
    return {target.id: value}
  if not isinstance(target, ast.Tuple | ast.List):
    return {}
  parts = zip(target.elts, value, strict=True)
  return {name: held for part in parts for name, held in _bound_to(*part).items()}


def items_in_place(node: ast.AST, values: Mapping[str, object]) -> ast.AST:
  """`node` with `cases[0][1]` replaced by the item itself, where `values` has `cases`."""

  class Item(ast.NodeTransformer):
    def visit_Subscript(self, part):
      try:
        item = ast.parse(repr(_item(part, values)), mode="eval").body
        ast.literal_eval(item)  # infinity is written as a name
      except (LookupError, ValueError, TypeError, RecursionError, MemoryError):
        return self.generic_visit(part)
      return item

  return Item().visit(node)


def _item(node: ast.AST, values: Mapping[str, object]):
  """The item that a chain of subscripts of one of `values` selects."""
  if isinstance(node, ast.Name):
    return values[node.id]
  if not isinstance(node, ast.Subscript):
    raise ValueError("no chain of subscripts")
  return _item(node.value, values)[ast.literal_eval(node.slice)]


def loaded_names(node: ast.AST) -> set[str]:
  """Names read anywhere in `node`."""
  return {
    part.id
    for part in ast.walk(node)
    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)
  }


def bound_names(node: ast.AST) -> set[str]:
  """Names bound anywhere in `node`: targets, arguments, definitions, imports."""
  found: set[str] = set()
  for part in ast.walk(node):
    if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
      found.add(part.id)
    elif isinstance(part, ast.arg):
      found.add(part.arg)
    elif isinstance(part, _NAMED) and part.name:
      found.add(part.name)
    elif isinstance(part, ast.Import | ast.ImportFrom):
      found |= _imported(part)
  return found


def _statement(node: ast.stmt) -> Statement:
  inside = bound_names(node)
  reads = loaded_names(node)
  defines = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
  if defines:
    binds = {node.name}
  else:
    binds = inside | {
      _root(part)
      for part in ast.walk(node)
      if isinstance(part, ast.Attribute | ast.Subscript) and not isinstance(part.ctx, ast.Load)
    }
    if isinstance(node, ast.Expr):  # `items.append(4)` may change what it calls
      calls = (part for part in ast.walk(node) if isinstance(part, ast.Call))
      binds |= {_root(call.func) for call in calls if isinstance(call.func, ast.Attribute)}
  imports = isinstance(node, ast.Import | ast.ImportFrom)
  names = frozenset(binds - {""}), frozenset(reads - inside)
  return Statement(ast.unparse(node), *names, imports, defines)


def _root(node: ast.AST) -> str:
  while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
    node = node.func if isinstance(node, ast.Call) else node.value
  return node.id if isinstance(node, ast.Name) else ""


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
  modules = (
    [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
  )
  for module in modules:
    if module.partition(".")[0] not in sys.stdlib_module_names:
      raise BadAnswer(f"'setup' imports {module!r}: programs get the standard library only")
  names = {alias.asname or alias.name.partition(".")[0] for alias in node.names}
  if "*" not in names:
    return names
  if node.module not in _MODULES:
    raise BadAnswer(
      f"'setup' imports everything of {node.module!r}: name what it needs, so that the program's "
      "own functions can be told apart"
    )
  module = importlib.import_module(node.module)
  public = [name for name in dir(module) if not name.startswith("_")]
  return set(getattr(module, "__all__", public))

"""Splits a test such as `assert set(f(1)) == {2}` into calls to run inside and a check outside.

Outermost calls of anything but a few built-in functions belong to the program; they are evaluated
in the sandbox. All the rest, the expected value among it, is evaluated here by walking the syntax
tree over a closed set of forms: nothing of a test or of a program is ever given to `eval`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any


def _is_close(a, b, *, rel_tol=1e-9, abs_tol=0.0) -> bool:
  return math.isclose(a, b, rel_tol=rel_tol, abs_tol=abs_tol)


_LOCAL: dict[str, Callable] = {
  "set": set, "sorted": sorted, "tuple": tuple, "list": list, "len": len, "round": round,
  "abs": abs,
  "frozenset": frozenset, "str": str, "float": float, "int": int, "bool": bool, "dict": dict,
  "sum": sum, "all": all, "any": any, "math.isclose": _is_close, "isclose": _is_close,
}  # fmt: skip
_COMPARE = {
  ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
  ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_,
  ast.IsNot: operator.is_not, ast.In: lambda a, b: a in b,
  ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_BINARY = {
  ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


class Assertion:
  """One `assert` of a test.

  Attributes:
    remote: source of the calls to evaluate inside the sandbox, in order.

  Raises:
    ValueError: the test has a form that cannot be judged from outside.
  """

  def __init__(self, source: str):
    try:
      body = ast.parse(source.strip()).body
    except SyntaxError as error:
      raise ValueError(f"the test {source[:80]!r} is no Python: {error}") from None
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
      raise ValueError(f"the test {source[:80]!r} is not one assert; give each assert on its own")
    self.source = source
    self.test = body[0].test
    self.calls: list[ast.Call] = []
    self._collect(self.test)
    self.remote = [ast.unparse(call) for call in self.calls]

  def holds(self, values: Sequence[Any]) -> bool:
    """Whether the assertion holds with `values` in the place of its remote calls."""
    known = {id(call): value for call, value in zip(self.calls, values, strict=True)}
    try:
      return bool(_value(self.test, known))
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError):
      return False

  def _collect(self, node: ast.AST) -> None:
    if isinstance(node, ast.Call) and _local(node) is None:
      self.calls.append(node)
      return
    if isinstance(node, ast.Name) or not isinstance(node, _FORMS):
      raise ValueError(
        f"the test {self.source[:80]!r} cannot be judged from outside the program: "
        f"{type(node).__name__} is not among the forms it may have"
      )
    for child in _parts(node):
      self._collect(child)


_FORMS = (
  ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp,
  ast.Compare, ast.Call, ast.Subscript,
)  # fmt: skip


def _local(call: ast.Call) -> Callable | None:
  return _LOCAL.get(ast.unparse(call.func))


def _parts(node: ast.AST) -> list[ast.AST]:
  if isinstance(node, ast.List | ast.Tuple | ast.Set):
    return node.elts
  if isinstance(node, ast.Dict):
    return [*node.keys, *node.values]
  if isinstance(node, ast.UnaryOp):
    return [node.operand]
  if isinstance(node, ast.BinOp):
    return [node.left, node.right]
  if isinstance(node, ast.BoolOp):
    return node.values
  if isinstance(node, ast.Compare):
    return [node.left, *node.comparators]
  if isinstance(node, ast.Call):
    return [*node.args, *(keyword.value for keyword in node.keywords)]
  if isinstance(node, ast.Subscript):
    return [node.value, node.slice]
  return []


def _value(node: ast.AST, known: dict[int, Any]) -> Any:
  if id(node) in known:
    return known[id(node)]
  if isinstance(node, ast.Constant):
    return node.value
  parts = [_value(part, known) for part in _parts(node)]
  if isinstance(node, ast.List | ast.Tuple | ast.Set):
    return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](parts)
  if isinstance(node, ast.Dict):
    half = len(parts) // 2
    return dict(zip(parts[:half], parts[half:], strict=True))
  if isinstance(node, ast.UnaryOp):
    if isinstance(node.op, ast.Not):
      return not parts[0]
    return -parts[0] if isinstance(node.op, ast.USub) else +parts[0]
  if isinstance(node, ast.BinOp):
    if type(node.op) not in _BINARY or any(
      isinstance(part, int) and part > 10**9 for part in parts
    ):
      raise ValueError("no arithmetic of a test")
    return _BINARY[type(node.op)](*parts)
  if isinstance(node, ast.BoolOp):
    return all(parts) if isinstance(node.op, ast.And) else any(parts)
  if isinstance(node, ast.Compare):
    pairs = zip(node.ops, parts, parts[1:], strict=False)
    return all(_COMPARE[type(op)](left, right) for op, left, right in pairs)
  if isinstance(node, ast.Call):
    count = len(node.args)
    names = [keyword.arg for keyword in node.keywords]
    return _local(node)(*parts[:count], **dict(zip(names, parts[count:], strict=True)))
  if isinstance(node, ast.Subscript):
    return parts[0][parts[1]]
  raise ValueError("no form of a test")


_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def decode(item: Any) -> Any:
  """Plain data as `code_harness.encode` wrote it.

  Raises:
    ValueError: something it never writes.
  """
  tag, value = item[0], item[1]
  if tag == "v" and (value is None or isinstance(value, bool | int | str)):
    return value
  if tag == "f":
    return float(value) if value in ("nan", "inf", "-inf") else float.fromhex(value)
  if tag == "c":
    return complex(decode(value), decode(item[2]))
  if tag == "b":
    return bytes.fromhex(value)
  if tag in _SEQUENCES:
    return _SEQUENCES[tag](decode(part) for part in value)
  if tag == "d":
    return {decode(key): decode(part) for key, part in value}
  raise ValueError(f"{tag!r} is no tag of a value")

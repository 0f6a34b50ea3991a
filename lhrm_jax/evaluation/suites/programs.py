"""Prompts and tests that the suites of programs share (`rewards.code` judges them)."""

import ast
import json
from collections.abc import Sequence

from lhrm_jax.data.fields import BadRow
from lhrm_jax.evaluation.suites.suite import SuiteRow, row

# EvalPlus compares a program's output with the reference's to a tolerance, containers included; a
# float, or floats alone, to 1e-6 where it names none, and always to a relative 1e-7.
_ALIKE = """
inf, nan = float("inf"), float("nan")

def alike(given, wanted, tolerance):
  floats = wanted if isinstance(wanted, (list, tuple)) else [wanted]
  if not tolerance and floats and all(isinstance(x, float) for x in floats):
    tolerance = 1e-6
  if tolerance and isinstance(wanted, float):
    if not isinstance(given, (int, float)):
      return False
    return given == wanted or abs(given - wanted) <= tolerance + 1e-7 * abs(wanted)
  if isinstance(wanted, (list, tuple)):
    same = isinstance(given, (list, tuple)) and len(given) == len(wanted)
    return same and all(alike(g, w, tolerance) for g, w in zip(given, wanted))
  if isinstance(wanted, dict):
    same = isinstance(given, dict) and given.keys() == wanted.keys()
    return same and all(alike(given[k], wanted[k], tolerance) for k in wanted)
  return given == wanted
"""
_MOST_PLUS_TESTS = 1000


def program_row(
  suite: str, task: str, asserts: Sequence[str], *, entry_point: str = "", setup: str = ""
) -> SuiteRow:
  """A task whose program must pass assertions.

  Args:
    suite: the suite's name.
    task: what to program.
    asserts: the tests.
    entry_point: the program's function, where the tests alone do not show it.
    setup: code that the tests need.
  """
  tests: dict[str, object] = {"asserts": list(asserts)}
  tests |= {"entry_point": entry_point} if entry_point else {}
  tests |= {"setup": setup} if setup else {}
  return row(suite, asked(task), json.dumps(tests))


def asked(task: str) -> str:
  """The task with the request for reasoning and for a block of code."""
  return (
    f"{task.strip()}\n\nThink step by step, and end your answer with the whole program in one "
    "```python block."
  )


def parsed(source: str, column: str) -> ast.Module:
  """Parses tests of a row.

  Raises:
    BadRow: they are not Python.
  """
  try:
    return ast.parse(source)
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise BadRow(f"{column!r} is not Python: {error}") from None


class _Numbers(ast.NodeTransformer):
  """Reads `inf` and `nan`, which EvalPlus imports, as the numbers they are."""

  def visit_Name(self, node: ast.Name) -> ast.expr:
    return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


def plus_asserts(tests: ast.Module, entry_point: str) -> tuple[list[str], str]:
  """EvalPlus's tests as assertions, and the set-up they need.

  Its file binds `inputs` and `results`, lists of arguments and of the reference's outputs, and
  compares them in a loop with a tolerance as the last argument of `assertion`.

  Raises:
    BadRow: there are no such lists, or they are not literals.
  """
  found, tolerance = {}, 0.0
  for node in ast.walk(tests):
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
      found[node.targets[0].id] = node.value
    called = node.func if isinstance(node, ast.Call) else None
    if isinstance(called, ast.Name) and called.id == "assertion" and node.args:
      last = node.args[-1]
      tolerance = float(last.value) if isinstance(last, ast.Constant) else 0.0
  try:
    literal = _Numbers()
    inputs, results = (
      ast.literal_eval(literal.visit(found[name])) for name in ("inputs", "results")
    )
    pairs = list(zip(inputs, results, strict=True))[:_MOST_PLUS_TESTS]
    asserts = [
      f"assert alike({entry_point}({', '.join(map(repr, given))}), {wanted!r}, {tolerance!r})"
      for given, wanted in pairs
    ]
  except KeyError as error:
    raise BadRow(f"the tests bind no {error}") from None
  except (ValueError, TypeError, RecursionError, MemoryError) as error:
    raise BadRow(f"'inputs' and 'results' are no literal lists: {error}") from None
  if not asserts:
    raise BadRow("the tests hold no input")
  return asserts, _ALIKE

"""HumanEval and HumanEval+: functions to complete from their docstring, with hidden tests.

https://arxiv.org/abs/2107.03374 and https://arxiv.org/abs/2305.01210.
"""

import ast

from lhrm_jax.data.fields import BadRow, Fields, text_field
from lhrm_jax.evaluation.suites import programs
from lhrm_jax.evaluation.suites.suite import SuiteRow, register


@register("humaneval", "openai/openai_humaneval", scorer="code")
def read(fields: Fields) -> SuiteRow | None:
  """Judged by the assertions of `check`; a task whose checks only loop over random inputs is left
  out: they cannot be judged from outside the program.
  """
  name = text_field(fields, "entry_point")
  tests = programs.parsed(text_field(fields, "test"), "test")
  checks = [node for node in tests.body if isinstance(node, ast.FunctionDef)]
  checks = [node for node in checks if node.name == "check"]
  if not checks:
    raise BadRow("'test' defines no check(candidate)")
  asserts = [_of_program(node, name) for node in checks[0].body if isinstance(node, ast.Assert)]
  asserts = [test for test in asserts if test]
  if not asserts:
    return None
  return programs.program_row("humaneval", _task(fields), asserts, entry_point=name)


@register("humaneval_plus", "evalplus/humanevalplus", scorer="code")
def read_plus(fields: Fields) -> SuiteRow | None:
  """Judged by EvalPlus's inputs; a task that it judges by a program of its own is left out."""
  name = text_field(fields, "entry_point")
  tests = programs.parsed(text_field(fields, "test"), "test")
  try:
    asserts, setup = programs.plus_asserts(tests, name)
  except BadRow:
    return None
  return programs.program_row(
    "humaneval_plus", _task(fields), asserts, entry_point=name, setup=setup
  )


def _task(fields: Fields) -> str:
  return f"Complete this program:\n```python\n{text_field(fields, 'prompt').rstrip()}\n```"


def _of_program(test: ast.Assert, name: str) -> str:
  """The assertion with `candidate` as the program's function; "" where it calls none."""
  calls = [node for node in ast.walk(test) if isinstance(node, ast.Name) and node.id == "candidate"]
  for node in calls:
    node.id = name
  return ast.unparse(ast.Assert(test.test)) if calls else ""

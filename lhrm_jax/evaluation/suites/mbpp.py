"""MBPP and MBPP+: short Python tasks with three tests each, or with EvalPlus's many.

https://arxiv.org/abs/2108.07732 and https://arxiv.org/abs/2305.01210.
"""

import ast

from lhrm_jax.data.fields import BadRow, Fields, text_field
from lhrm_jax.evaluation.suites import programs
from lhrm_jax.evaluation.suites.suite import SuiteRow, first_text, register


@register("mbpp", "google-research-datasets/mbpp", subset="full", scorer="code")
def read(fields: Fields) -> SuiteRow:
  """Judged by the tests of the row; the first is shown."""
  tests = _tests(fields)
  setup = fields.get("test_setup_code") or "\n".join(fields.get("test_imports") or ())
  return programs.program_row("mbpp", _task(fields, tests[0]), tests, setup=setup)


@register("mbpp_plus", "evalplus/mbppplus", scorer="code")
def read_plus(fields: Fields) -> SuiteRow | None:
  """Judged by EvalPlus's inputs; the function is the last one that the reference defines.

  A task that EvalPlus judges by a program of its own, without results, is left out.
  """
  first = _tests(fields)[0]
  reference = programs.parsed(text_field(fields, "code"), "code").body
  defined = [node.name for node in reference if isinstance(node, ast.FunctionDef)]
  names = [name for name in defined if name in first]
  if not names:
    raise BadRow("the first test calls no function that 'code' defines")
  tests = programs.parsed(text_field(fields, "test"), "test")
  if any(isinstance(node, ast.Name) and node.id == "ref_func" for node in ast.walk(tests)):
    return None
  asserts, setup = programs.plus_asserts(tests, names[-1])
  task = _task(fields, first)
  return programs.program_row("mbpp_plus", task, asserts, entry_point=names[-1], setup=setup)


def _tests(fields: Fields) -> list[str]:
  tests = fields.get("test_list")
  if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
    raise BadRow("'test_list' is no list of tests")
  return tests


def _task(fields: Fields, test: str) -> str:
  task = first_text(fields, "text", "prompt")
  return f"{task.strip()}\nYour program should pass this test:\n{test.strip()}"

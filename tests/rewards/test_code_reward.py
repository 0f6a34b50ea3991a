"""The code reward: judged from outside, so that only a program that solves the task passes."""

import json

import pytest

from lhrm_jax import rewards
from lhrm_jax.rewards import code, remote_values, sandbox

needs_sandbox = pytest.mark.skipif(
  sandbox.why_unavailable() is not None, reason=str(sandbox.why_unavailable())
)
LIMITS = sandbox.Limits(wall_s=4, cpu_s=1, memory_mib=300, processes=8)
ASSERTS = {
  "asserts": [
    "assert add(1, 2) == 3",
    "assert set(pair(1)) == {1, 2}",
    "assert not math.isclose(half(1), 0.6)",
    "assert math.isclose(half(1), 0.5, rel_tol=1e-6)",
    "assert negate(True) is False",
    "assert add([1], [2]) == [1, 2] and len(pair(1)) == 2",
    "assert (add(2, 2)) == (4)",
  ],
  "setup": "import math",
}
GOOD = (
  "def add(a, b): return a + b\ndef pair(a): return (2, 1)\n"
  "def half(x): return x / 2\ndef negate(x): return not x\n"
)
IO = {"io": [{"input": "1\n", "output": "2\n"}, {"input": "5\n", "output": "6"}]}


@needs_sandbox
class TestPrograms:
  def test_a_right_program_passes(self):
    assert code.passes(GOOD, ASSERTS, LIMITS)
    assert code.passes("print(int(input()) + 1)", IO, LIMITS)

  @pytest.mark.parametrize(
    "program",
    [
      GOOD.replace("a + b", "a - b"),
      "",
      "def add(a, b:",
      "import sys; sys.exit(0)",
      "import os; os._exit(0)",
      "print('3'); print('all tests passed'); import os; os._exit(0)",
      GOOD + "import atexit, os; atexit.register(os._exit, 0)\nadd = lambda a, b: exit(0)",
      "while True: pass",
      "x = bytearray(10 * 1024**3)",
      # An object that equals everything.
      "class Any:\n  def __eq__(self, o): return True\n  def __iter__(self): return iter([1, 2])\n"
      "  def __len__(self): return 2\n  def __hash__(self): return 0\n"
      "add = pair = half = negate = lambda *a: Any()",
      # A number that equals everything.
      "class Any(int):\n  def __eq__(self, o): return True\n  __hash__ = int.__hash__\n"
      "add = pair = half = negate = lambda *a: Any()",
      # Tampering with what judges.
      GOOD.replace("a + b", "0") + "import math, builtins\nmath.isclose = lambda *a, **k: True\n"
      "builtins.set = lambda *a: {1, 2}",
      GOOD.replace("a + b", "0")
      + "import json\njson.dumps = lambda v: '[3, 3, 3, 3, 3, 3, 3, 3, 3]'",
      # Writing a result of its own to every open file.
      "import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'[[\"v\", 3]]\\n')\n"
      "  except OSError: pass\n",
    ],
  )
  def test_any_other_program_fails(self, program):
    assert not code.passes(program, ASSERTS, LIMITS)

  @pytest.mark.parametrize(
    "program",
    ["print(2)", "print(int(input()) + 1); raise SystemExit(1)", "", "print('2\\n6')",
     "print(open('/box/expected').read())"],
  )  # fmt: skip
  def test_output_must_be_right_for_every_input(self, program):
    assert not code.passes(program, IO, LIMITS)

  def test_calls_find_functions_and_methods_of_solution(self):
    tests = {"calls": [{"function": "f", "args": [1], "expected": [1, [1.5]]}]}
    assert code.passes("def f(a): return (a, [1.5])", tests, LIMITS)
    assert code.passes("class Solution:\n  def f(self, a): return [a, (1.5,)]", tests, LIMITS)
    assert not code.passes("def f(a): return [a, [1.4]]", tests, LIMITS)
    one = {"calls": [{"function": "f", "args": [], "expected": 1}]}
    assert not code.passes("def f(): return True", one, LIMITS)

  def test_values_keep_their_types(self):
    program = "import collections\ndef f(x): return {'a': [None, 1.5, (2, {3}), b'x', 1j]}\n"
    values = code.evaluate(program, ["f(0)", "collections.Counter('aab')"], limits=LIMITS)
    assert values == [{"a": [None, 1.5, (2, {3}), b"x", 1j]}, {"a": 2, "b": 1}]
    assert code.evaluate(program, ["f", "f(0)"], limits=LIMITS) is None

  def test_as_a_reward_it_reads_the_last_block_of_the_answer(self):
    reward = rewards.get("code")
    answer = json.dumps(ASSERTS)
    block = f"```python\n{GOOD}```\n"
    wrong = "```python\nx = 1\n```\n"
    assert reward("", f"<think>{wrong}</think>Here:\n{block}", answer) == 1.0
    assert reward("", f"<no_think>{wrong}\n{block}</no_think>", answer) == 1.0
    assert reward("", f"<think>{block}</think>{wrong}", answer) == 0.0
    assert reward("", f"<think>{block}</think>no code", answer) == 0.0
    assert reward("", f"<think>a</think>{block}"[1:], answer) == 0.0


def test_without_isolation_the_reward_refuses(monkeypatch):
  def refuse(*args, **kwargs):
    raise sandbox.SandboxUnavailable("no namespaces here")

  monkeypatch.setattr(sandbox, "run", refuse)
  with pytest.raises(sandbox.SandboxUnavailable, match="no namespaces"):
    rewards.get("code")("", "<think>a</think>```python\nx = 1\n```\n", json.dumps(IO))


def test_expected_values_never_enter_the_sandbox(monkeypatch):
  seen = []

  def spy(command, *, stdin=b"", files=None, limits=None):
    seen.append((command, stdin, files))
    return sandbox.Result("exit", 0, b"", b"")

  monkeypatch.setattr(sandbox, "run", spy)
  code.passes("x = 1", {"asserts": ["assert f(1) == 987654321"]})
  code.passes("x = 1", {"calls": [{"function": "f", "args": [1], "expected": 987654321}]})
  code.passes("x = 1", {"io": [{"input": "1", "output": "987654321"}]})
  assert len(seen) == 3 and "987654321" not in repr(seen)


@pytest.mark.parametrize("tests", [{}, [], {"io": [], "calls": []}, {"other": 1}])
def test_tests_in_no_known_form_are_an_error(tests):
  with pytest.raises(ValueError, match="one of 'asserts', 'calls' and 'io'"):
    code.passes("x = 1", tests)


@pytest.mark.parametrize(
  "source",
  ["f(1) == 2", "assert f(1) == x", "assert [f(i) for i in (1, 2)]", "assert f(1", "x = 1"],
)
def test_tests_that_cannot_be_judged_from_outside_are_an_error(source):
  with pytest.raises(ValueError, match=r"cannot be judged|is not one assert|is no Python"):
    remote_values.Assertion(source)


def test_an_assertion_sends_only_the_calls_of_the_program_inside():
  check = remote_values.Assertion("assert sorted(f(1, g(2))) == [1, 2] or h() > -3")
  assert check.remote == ["f(1, g(2))", "h()"]
  assert check.holds([{2, 1}, -9]) and check.holds([[3], 0])
  assert not check.holds([[3], -9]) and not check.holds([None, None])

"""The code reward: judged from outside, so that only a program that solves the task passes."""

import array
import collections
import datetime
import decimal
import fractions
import json
import os
import time

import pytest

from lhrm_jax import rewards
from lhrm_jax.rewards import Failed, code, code_harness, code_judge, code_tests, sandbox
from lhrm_jax.rewards.registry import BadAnswer
from tests.rewards.sandbox_server import Server

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
      # Writing forged replies to every open file, without knowing the expected ones.
      'import os\nfor fd in range(1, 64):\n  try: os.write(fd, b\'[["int", "0x3"]]\')\n'
      "  except OSError: pass\nos._exit(0)",
      # Searching this interpreter for what would be right.
      "import gc, sys\n"
      "seen = [o for o in gc.get_objects() if isinstance(o, dict) and 'asked' in o]\n"
      "frame = sys._getframe()\n"
      "while frame:\n  seen.append(frame.f_locals)\n  frame = frame.f_back\n"
      "wanted = [v for o in seen for k, v in o.items() if k in ('wanted', 'checks', 'expected')]\n"
      "add = lambda a, b: wanted[0]",
      # A reply that is not plain data, or that its reader chokes on.
      "import os, sys\nos.write(3, b'[' * 200000)\nos._exit(0)",
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

  def test_lines_end_where_a_judge_ends_them(self):
    assert code._same_output("1 \r\n2\n\n", "1\n2")
    for wrong in ("1\x0b2", "1\u20282", "1\r2", "1\n\n2", "12"):
      assert not code._same_output(wrong, "1\n2")

  def test_long_values_and_outputs_are_read_whole(self):
    long = {"asserts": ["assert f(100_000) == list(range(100_000))"]}
    assert code.passes("f = lambda n: list(range(n))", long, LIMITS)
    assert not code.passes("f = lambda n: [*range(n - 1), 0]", long, LIMITS)
    long = {"io": [{"input": "300000", "output": "\n".join(map(str, range(300_000)))}]}
    assert code.passes("for i in range(int(input())): print(i)", long, LIMITS)
    assert not code.passes("for i in range(int(input())): print(i + 1)", long, LIMITS)

  def test_a_program_of_functions_is_imported_and_one_of_io_is_run(self):
    main = "if __name__ == '__main__':\n  print(int(input()) + 1)\n"
    assert code.passes("f = lambda x: x\n" + main, one("assert f(1) == 1"), LIMITS)
    assert code.passes(main, IO, LIMITS)
    pickled = "import pickle\nclass A: pass\nf = lambda x: bool(pickle.loads(pickle.dumps(A())))"
    assert code.passes(pickled, one("assert f(1)"), LIMITS)

  def test_calls_find_functions_and_methods_of_solution(self):
    tests = {"calls": [{"function": "f", "args": [1], "expected": [1, [1.5]]}]}
    assert code.passes("def f(a): return (a, [1.5])", tests, LIMITS)
    assert code.passes("class Solution:\n  def f(self, a): return [a, (1.5,)]", tests, LIMITS)
    assert not code.passes("def f(a): return [a, [1.4]]", tests, LIMITS)
    one = {"calls": [{"function": "f", "args": [], "expected": 1}]}
    assert not code.passes("def f(): return True", one, LIMITS)

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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user")
def test_an_ordinary_user_s_programs_are_judged_like_root_s():
  with Server("ordinary") as server:
    if problem := server.why_unavailable():
      pytest.skip(problem)
    assert server.passes(GOOD, ASSERTS)
    assert not server.passes(GOOD.replace("a + b", "a - b"), ASSERTS)
    assert not server.passes('import os; os.write(3, b\'[["int", "0x3"]]\')', ASSERTS)
    assert server.passes("print(int(input()) + 1)", IO)


def test_without_isolation_the_reward_refuses(monkeypatch):
  def refuse(*args, **kwargs):
    raise sandbox.SandboxUnavailable("no namespaces here")

  monkeypatch.setattr(sandbox, "run", refuse)
  with pytest.raises(sandbox.SandboxUnavailable, match="no namespaces"):
    rewards.get("code")("", "<think>a</think>```python\nx = 1\n```\n", json.dumps(IO))


def test_expected_values_never_enter_the_sandbox_of_the_program(monkeypatch):
  seen = []

  def spy(command, *, stdin=b"", files=None, limits=None):
    if "judge.py" not in files:
      seen.append((command, stdin, files))
    return sandbox.Result("exit", 0, b"[]", b"")

  monkeypatch.setattr(sandbox, "run", spy)
  secret = 987654321
  for tests in (
    {"asserts": [f"assert f(1) == {secret}"]},
    {"asserts": ["assert f(1) == want"], "setup": f"want = {secret}"},
    {"asserts": ["assert check(f(1))"], "setup": f"def check(x):\n  return x == {secret}"},
    {"asserts": ["assert f(of[0][0]) == of[0][1]"], "setup": f"of = [(1, {secret})]"},
    {"calls": [{"function": "f", "args": [1], "expected": secret}]},
    {"io": [{"input": "1", "output": str(secret)}]},
  ):
    code.passes("want = check = f = 1", tests)
  assert len(seen) == 6 and str(secret) not in repr(seen)


def one(test, setup="", **more):
  return {"asserts": [test], "setup": setup, **more}


SAME = "def same(a, b):\n  return a == b"
CLASS = "class Pair:\n  def __init__(self, a, b):\n    self.a, self.b = a, b\n"
# A passing program, tests, and a program whose own helpers must not decide.
SHAPES = [
  ("f = lambda x: x + 1", one("assert f(1) == 2"), "f = lambda x: 3"),
  ("f = list", one("assert Counter(f('aab')) == Counter({'a': 2, 'b': 1})"),
   "f = Counter = lambda *a: 1"),
  ("from fractions import Fraction\nf = lambda x: Fraction(1, x)",
   one("assert f(3) == Fraction(1, 3)"), "f = Fraction = lambda *a: 1"),
  ("f = lambda x: 3", one("assert same(f(1), 3)", SAME), "f = same = lambda *a: 1"),
  ("f = lambda x: [1]", one("assert isinstance(f(1), list)"), "f = isinstance = lambda *a: 1"),
  ("f = lambda x: 2.0", one("assert math.isclose(f(1), 2)", "import math"),
   "class math: isclose = lambda *a: True\nf = lambda x: 1"),
  ("f = list", one("assert sorted(f([2, 1])) == sorted([1, 2])"), "f = sorted = lambda x: 1"),
  ("f = lambda x: [x] * 3", one("assert len(f(3)) == 3"), "f = lambda x: ''\nlen = lambda x: 3"),
  ("f = list", one("assert set(f([1, 2, 2])) == {1, 2}"), "f = set = lambda x: 1"),
  ("f = lambda x: x + 1", one("assert f(f(1)) == 3"), "f = lambda x: 2"),
  ("f = lambda x: x", one("assert abs(f(1) - 1) < 1e-6"), "f = lambda x: 9\nabs = lambda x: 0"),
  ("f = lambda x: 0", one("assert not f(1)"), "f = lambda x: 1"),
  ("f = lambda x: None", one("assert f(1) is None, 'none'"), "f = lambda x: 1"),
  ("f = lambda x: [1, 2]", one("assert 2 in f(1)"), "f = lambda x: [1]"),
  ("f = lambda x: 'ab'", one("assert f(1).upper() == 'AB'"),
   "class S(str):\n  upper = lambda self: 'AB'\nf = lambda x: S('c')"),
  ("sum = lambda a, b: 6", one("assert sum(10, 15) == 6"), "sum = lambda a, b: 5"),
  (CLASS + "f = lambda ps: ps[0].a", one("assert f([Pair(5, 24)]) == 5"), CLASS + "f = id"),
  (CLASS + "f = lambda p: p.a + p.b", one("assert f(root) == 9", "root = Pair(1, 2)\nroot.b = 8"),
   CLASS + "f = id"),
  (CLASS, one("assert Pair(1, 2).b == 2"), CLASS.replace("a, b\n", "b, a\n")),
  ("class Solution:\n  def f(self, a): return a", one("assert f([1]) == [1]"), "f = id"),
  ("class Solution:\n  def f(self, a): return a", one("assert Solution().f([1]) == [1]"), "f = id"),
  ("f = lambda x: 3", one("assert f(1) == want", "want = 3"), "want = 4\nf = lambda x: 4"),
  ("d = e = lambda x: x[::-1]", one("assert d(e('abc')) == 'abc'"), "d = e = lambda x: x[:-1]"),
  ("def f(x):\n  yield from (1, 2)", one("assert list(f(0)) == [1, 2]"), "f = lambda x: [1]"),
  ("import math\nf = math.factorial", one("assert len(str(f(1000))) == 2568"), "f = id"),
  ("f = lambda x: [0, 1]", one("assert all(a == i for i, a in enumerate(f(1)))"),
   "f = lambda x: [1]"),
  ("f = sorted", one("assert f(x) == [i for i in range(3)]", "x = [2, 1, 0]"), "f = id"),
  ("f = lambda a, b: a + b\ng = abs", one("assert f(1, g(-2)) == 3", entry_point=["f", "g"]),
   "f = g = lambda *a: 2"),
  ("f = abs", one("assert same(f(-2), 2)", SAME, entry_point="f"), "f = same = lambda *a: 1"),
  ("f = g = abs", one("assert f(-1) == 1 and g(-2) == 2 and f(-3) == f(3)"), "f = g = id"),
  ("f = abs", one("assert f(of['a'][0]) == of['b'][-1]", "of = {'a': [-1], 'b': [1]}"),
   "f = lambda x: of['b'][-1]"),
  ("f = abs", one("assert check(-2) == 2", "check = f", entry_point="check"), "f = check = id"),
]  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize(("right", "tests", "wrong"), SHAPES)
def test_only_the_entry_point_is_asked_of_the_program(right, tests, wrong):
  assert code.passes(right, tests, LIMITS)
  assert not code.passes(wrong, tests, LIMITS)


@pytest.mark.parametrize(
  ("tests", "why"),
  [
    ({}, "one of 'asserts', 'calls' and 'io'"),
    ([], "one of 'asserts', 'calls' and 'io'"),
    ({"io": [], "calls": []}, "one of 'asserts', 'calls' and 'io'"),
    ({"other": 1}, "one of 'asserts', 'calls' and 'io'"),
    ({"asserts": []}, "holds no test"),
    ({"calls": []}, "holds no test"),
    ({"io": []}, "holds no test"),
    ({"io": {}}, "holds no test"),
    ({"asserts": "assert f(1) == 2"}, "holds no test"),
    ({"io": [{"input": "1", "output": " \n"}]}, "does nothing would pass"),
    ({"io": [{"input": "1"}]}, "'input' and 'output'"),
    ({"io": [{"input": 1, "output": "2"}]}, "are text"),
    ({"io": [{"input": "\ud800", "output": "2"}]}, "UTF-8"),
    ({"io": [{"input": "1", "output": "2"}], "setup": "x = 1"}, "may also have nothing"),
    ({"calls": [{"function": "f", "args": [1]}]}, "'expected'"),
    ({"calls": [{"function": "f(", "args": [1], "expected": 1}]}, "not the name of a function"),
    ({"calls": [{"function": "f", "args": 1, "expected": 1}]}, "'args' is a list"),
    ({"calls": [{"function": "f", "arg": [1], "expected": 1}]}, r"has no \['arg'\]"),
    (one("assert f(1) == 2", 3), "'setup' is Python code"),
    (one("assert f(1) == 2", "x ="), "'setup' is not Python"),
    (one("assert f(1) == 2", "from os import *"), "everything of 'os'"),
    (one("assert f(1) == 2", "import numpy as np"), "imports 'numpy': programs get the standard"),
    (one("f(1) == 2"), "is not one assert"),
    (one("assert f(1); assert f(2)"), "is not one assert"),
    (one("x = 1"), "is not one assert"),
    (one("assert f(1"), "is not Python"),
    (one(7), "is text"),
    (one("assert True"), "calls nothing but what is built in"),
    (one("assert same(1, 1)", SAME), "calls nothing but what is built in"),
    (one("assert f(1) == x"), "x is neither called"),
    (one("assert [f(i) for i in (1, 2)]"), "inside a loop or lambda, with i"),
    (one("assert sorted([2, 1], key=f) == [f(1)]"), "f is neither called"),
    (one("assert eval(f(1)) == 2"), "eval is neither called"),
    (one("assert np.allclose(f(1), 2)"), "np is neither called"),
    (one("assert f(1).__class__ == int"), "starts with an underscore"),
    (one("assert check(f(1), 2)"), "which of check, f are the program's"),
    (one("assert not check(f(1), 2)"), "which of check, f are the program's"),
    (one("assert check(f(1), 2) is True"), "which of check, f are the program's"),
    (one("assert distance(f(1), [2]) < 1e-6"), "which of distance, f are the program's"),
    (one("assert distance(f(1), b=[2]) == 0"), "which of distance, f are the program's"),
    (one("assert len(pick(f(1), 2)) == 0"), "which of f, pick are the program's"),
    (one("assert norm(f(1)) == norm(2)"), "which of f, norm are the program's"),
    (one("assert f(0) == 1 and not f(1) == g(1)"), "which of f, g are the program's"),
    (one("assert abs(f(1) - g(1)) < 1e-6"), "which of f, g are the program's"),
    (one("assert f(1) == g(1)", entry_point="f"), "g is neither called"),
    (one("assert f(1) == 2", entry_point=[]), "'entry_point' is a name"),
    (one("assert f(1) == 2", entry_point="h"), "calls nothing of the program"),
    (one("assert f(1) == 2", "def f(x):\n  return 2", entry_point="f"), "'setup' defines f"),
    (
      {"calls": [{"function": "f", "args": [], "expected": 2}], "setup": "f = lambda: 2"},
      "'setup' defines f",
    ),
  ],
)  # fmt: skip
def test_tests_that_cannot_be_judged_are_a_bad_answer(tests, why):
  with pytest.raises(BadAnswer, match=why):
    code_tests.checked(tests)
  with pytest.raises(BadAnswer, match=f"reward 'code': .*({why})"):
    rewards.check_answer(rewards.get("code"), json.dumps(tests))


def test_a_bad_answer_is_found_whatever_the_response():
  for response in ("", "no code", "<think>a</think>no code"):
    with pytest.raises(ValueError, match="holds no test"):
      rewards.get("code")("", response, '{"asserts": []}')
  with pytest.raises(ValueError, match="is not JSON"):
    rewards.get("code")("", "", "{")


@pytest.mark.parametrize(
  ("value", "expected", "same"),
  [
    ("float('inf')", 3, False), ("float('inf')", 3.0, False),
    ("float('-inf')", float("inf"), False),
    ("float('inf')", float("inf"), True), ("float('nan')", 3, False), ("float('nan')", 3.0, False),
    ("float('nan')", float("inf"), False), ("3", float("inf"), False),
    ("10 ** 400", 1.5, False), ("1.5", 10**400, False), ("10 ** 400", 10**400, True),
    ("True", 1, False), ("1", True, False), ("1.0", True, False), ("[True]", [1], False),
    ("{'a': True}", {"a": 1}, False), ("{'a': (1,)}", {"a": [1]}, True), ("None", False, False),
    ("0.1 + 0.2", 0.3, True), ("2", 2.0, True), ("2.0", 2, True), ("2.1", 2, False),
    ("'a'", "a", True), ("['a']", "a", False), ("b'a'", "a", False), ("{1: 2}", {"1": 2}, False),
    ("{1, 2}", [1, 2], False), ("(1, [2.0])", [1, [2]], True), ("'\\ud800'", "a", False),
  ],
)  # fmt: skip
def test_a_call_gives_the_expected_value_and_no_other(value, expected, same):
  reply = json.loads(json.dumps(code_harness.encode(eval(value))))
  assert code_judge.same(code_judge.decode(reply), expected) is same


@pytest.mark.parametrize(
  "value",
  [None, True, -(10**4000), 1.5, "\ud800", b"x", bytearray(b"x"), 1j, [1, (2, {3}), {4: [5]}],
   array.array("d", [1, 2]), frozenset([1]), range(2, 9, 3), collections.deque([1]),
   collections.Counter("aab"), collections.OrderedDict(b=1, a=2),
   fractions.Fraction(1, 3), decimal.Decimal("1.50"),
   datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3, 4, 5, 6), datetime.time(1, 2),
   datetime.timedelta(1, 2, 3), {"a": 1}.keys(), {"a": 1}.items()],
)  # fmt: skip
def test_plain_values_come_out_as_they_went_in(value):
  out = code_judge.decode(json.loads(json.dumps(code_harness.encode(value))))
  assert out == value and type(out) is type(value)


def test_other_values_become_plain_or_are_refused():
  pair = collections.namedtuple("pair", "a b")(1, 2)
  for value, plain in ((pair, (1, 2)), (collections.defaultdict(int, a=1), {"a": 1})):
    assert code_judge.decode(code_harness.encode(value)) == plain
  assert list(code_judge.decode(code_harness.encode(iter([1, 2])))) == [1, 2]
  assert list(code_judge.decode(code_harness.encode({1: 2}.values()))) == [2]

  class Anything(int):
    pass

  loop = []
  loop.append(loop)
  for value in (Anything(1), object(), len, loop):
    with pytest.raises(ValueError):
      code_harness.encode(value)


@needs_sandbox
class TestNoResponseEndsARun:
  @pytest.mark.parametrize(
    "program",
    [
      "x = '\ud800'",
      "\x00",
      "f = lambda x: 10 ** 5000",
      "f = lambda x: '\\ud800'",
      "f = lambda x: f",
      "def f(x):\n  a = []\n  a.append(a)\n  return a",
      "import os\nos.write(3, b'\\xff\\x00')\nos._exit(0)",
      "import os\nos.write(3, b'[[\"int\", [1]]]')\nos._exit(0)",
      "import os\nos.write(3, b'[[\"list\", {}]]')\nos._exit(0)",
      "import os\nos.write(3, b'[[\"list\"]]')\nos._exit(0)",
      'import os\nos.write(3, b\'[["decimal", "1e999999999999"]]\')\nos._exit(0)',
      "(" * 5000,
      "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
    ],
  )
  def test_what_a_program_is_or_returns_scores_0(self, program):
    test = "assert f(1) * 1.5 > float(f(2)) and f(3)[0] == 1 or f(4) == 1"
    assert not code.passes(program, one(test), LIMITS)

  def test_a_judge_that_its_values_hang_is_a_failed_judgement(self, monkeypatch):
    monkeypatch.setattr(code, "_JUDGE_LIMITS", LIMITS)
    tests = code_tests.read(json.dumps(one("assert sum(f(1)) == 1")))
    found = code._judge("f = lambda x: range(10 ** 15)", tests, LIMITS, None)
    assert isinstance(found, Failed) and (found, found.reason) == (0.0, "judge")

  def test_what_is_late_is_counted(self):
    answer = json.dumps(one("assert f(1) == 1"))
    response = "<think>a</think>```python\nf = lambda x: 1\n```\n"
    assert code.score(response, answer) == 1.0
    late = code.score(response, answer, deadline=time.monotonic() - 1)
    assert (late, late.reason) == (0.0, "deadline")
    asleep = response.replace("f =", "import time; time.sleep(60); f =")
    late = code.score(asleep, answer, deadline=time.monotonic() + 1)
    assert (late, late.reason) == (0.0, "deadline")

  def test_a_set_up_that_fails_by_itself_is_a_bad_answer(self):
    with pytest.raises(BadAnswer, match=r"set-up .* fails by itself: ZeroDivisionError"):
      code.passes("f = lambda x: 1", one("assert f(1) == want", "want = 1 / 0"), LIMITS)

  def test_one_sandbox_that_does_not_start_is_tried_again_and_counted(self, monkeypatch):
    real, refused = sandbox.run, []

    def run(command, **options):
      if options.get("files") and len(refused) < times:
        refused.append(1)
        raise sandbox.SandboxUnavailable("busy")
      return real(command, **options)

    monkeypatch.setattr(sandbox, "run", run)
    tests = code_tests.checked(one("assert f(1) == 1"))
    times = 1
    assert code._judge("f = lambda x: 1", tests, LIMITS, None) == 1.0
    refused.clear()
    times = 2
    found = code._judge("f = lambda x: 1", tests, LIMITS, None)
    assert isinstance(found, Failed) and found.reason == "sandbox"


@pytest.mark.parametrize(
  ("text", "block"),
  [
    ("```python\na\n```", "a\n"),
    ("```\na\n```\ntext\n  ```py\nb\nc\n  ```", "b\nc\n"),
    ("```python\na\n```\n```bash\nls\n```", "a\n"),
    ("1. So:\n   ```python\n   a\n     b\n\n c\n   ```", "a\n  b\n\nc\n"),
    ("```Python3 title=x\na\n```", "a\n"),
    ("```python\na", None),
    ("```python\na\n```\n```python\nb", "a\n"),
    ("```python\n```", ""),
    ("a ``` b", None),
    ("", None),
  ],
)
def test_the_last_closed_block_of_python_counts(text, block):
  assert code.last_block(text) == block


@pytest.mark.parametrize(
  "text",
  [" " * 2_000_000, "```" + " " * 2_000_000, "```\n" * 500_000, "\n" * 2_000_000,
   "`" * 2_000_000, "\t```x" * 400_000],
  ids=["spaces", "fence", "fences", "lines", "ticks", "words"],
)  # fmt: skip
def test_a_block_is_found_in_linear_time(text):
  start = time.perf_counter()
  code.last_block(text)
  assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
  "setup",
  ["xs, ys = [3], [81]", "xs, ys = [[3], [81]]", "pairs = [([3], [81])]\nxs, ys = pairs[0]"],
)
def test_what_one_statement_binds_with_the_arguments_is_kept_from_the_program_or_refused(setup):
  tests = {"setup": setup, "asserts": ["assert f(xs) == ys"]}
  with pytest.raises(BadAnswer, match="'setup' binds ys, which the tests expect"):
    code_tests.checked(tests)


@pytest.mark.parametrize("setup", ["cases: list = [(3, 81)]", "cases = more = [(3, 81)]"])
def test_cases_of_any_binding_are_put_in_place(setup):
  found = code_tests.checked({"setup": setup, "asserts": ["assert f(cases[0][0]) == cases[0][1]"]})
  assert "81" not in json.dumps(found.program)

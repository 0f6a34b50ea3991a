"""Properties the verifier keeps for every answer, not only for those we thought of."""
# ruff: noqa: E501 - tables of notation

import random
import resource
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_cases import EQUAL
from near_misses import near_misses

from lhrm_jax.rewards.math import verify

GOLDS = ["7", "1/2", "x+1", "(1,2)", r"\{1,2\}", "[0,1)", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "B",
         "x=2", "y=2x+1", r"\sqrt{2}", r"25\%", "f(x)=x^2", r"1\pm\sqrt2", r"\text{yes}", "x>3"]  # fmt: skip
PIECES = [
  r"\frac", "{", "}", "(", ")", "[", "]", r"\{", r"\}", r"\sqrt", "^", "_", "1", "23", "9", "10", "0", ".",
  ",", ";", "x", "y", r"\pi", "e", "i", "+", "-", "*", "/", r"\pm", "=", "<", r"\le", r"\in", r"\cup",
  r"\infty", r"\text", r"\boxed{", "$", "$$", r"\(", r"\)", r"\[", r"\]", "and", "or", " ", "\n", "!", "%",
  r"\circ", r"\sin", r"\log", "|", r"\begin{pmatrix}", r"\end{pmatrix}", r"\\", "&", r"\left", r"\right",
  r"\overline", "<think>", "</think>", "<no_think>", "</no_think>", "####", "The answer is ", r"\sum",
  "f(", "'", r"\binom", r"\lfloor", ":", r"\ldots", "½", "²", "√", "∞", "\x00", "**", "1,234",
  r"0.\overline{3}", r"\mathbb{R}", "cm", "percent", "__import__('os')", "max", "gcd", "A", "B",
]  # fmt: skip
LIMIT_S = 2.0

numbers = st.one_of(
  st.integers(-(10**6), 10**6).map(str),
  st.fractions(max_denominator=1000).map(lambda f: rf"\frac{{{f.numerator}}}{{{f.denominator}}}"),
  st.decimals(-1000, 1000, places=3).map(lambda d: f"{d:f}"),
  st.sampled_from([r"\pi", "e", "x", "y", "i", r"\sqrt{2}"]),
)


def _combined(inner):
  pairs = st.tuples(inner, inner)
  return st.one_of(
    pairs.map(lambda p: f"({p[0]}+{p[1]})"),
    pairs.map(lambda p: f"({p[0]})({p[1]})"),
    pairs.map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
    st.tuples(inner, st.integers(-3, 3)).map(lambda p: f"({p[0]})^{{{p[1]}}}"),
    inner.map(lambda a: rf"\sqrt{{{a}}}"),
    inner.map(lambda a: rf"\sin({a})"),
    inner.map(lambda a: f"-({a})"),
  )


expressions = st.recursive(numbers, _combined, max_leaves=8)
answers = st.one_of(
  expressions,
  st.lists(expressions, min_size=2, max_size=3).map(lambda v: "(" + ", ".join(v) + ")"),
  st.lists(expressions, min_size=2, max_size=3).map(lambda v: r"\{" + ", ".join(v) + r"\}"),
  st.tuples(expressions, expressions).map(lambda p: f"[{p[0]}, {p[1]})"),
)


@pytest.fixture(scope="module", autouse=True)
def _sympy_is_imported():
  """SymPy's import is paid once in a process, and not by any answer."""
  verify("x>1", r"\boxed{x>2}")


def boxed(answer: str) -> str:
  return rf"<no_think>$\boxed{{{answer}}}$</no_think>"


def timed(gold: str, response: str):
  start = time.process_time()
  verdict = verify(gold, response)
  assert time.process_time() - start < LIMIT_S, (gold, response[:500])
  assert not verdict.reason.startswith("the verifier failed"), (gold, response[:500], verdict)
  return verdict


@given(answers)
@settings(max_examples=300, deadline=None)
def test_every_answer_equals_itself(answer):
  assert timed(answer, boxed(answer)).correct is True


@given(expressions, expressions)
@settings(max_examples=300, deadline=None)
def test_equality_is_symmetric(a, b):
  assert timed(a, boxed(b)).correct == timed(b, boxed(a)).correct


@given(st.integers(-(10**9), 10**9), st.integers(1, 1000), st.integers(2, 50))
@settings(max_examples=200, deadline=None)
def test_fractions_are_compared_exactly(top, bottom, factor):
  answer = rf"\frac{{{top * factor}}}{{{bottom * factor}}}"
  assert timed(f"{top}/{bottom}", boxed(answer)).correct is True
  assert (
    timed(f"{top}/{bottom}", boxed(rf"\frac{{{top * factor + 1}}}{{{bottom * factor}}}")).correct
    is False
  )


@given(expressions)
@settings(max_examples=200, deadline=None)
def test_one_more_is_another_value(answer):
  assert timed(answer, boxed(f"({answer})+1")).correct is not True


@given(
  st.sampled_from([row for rows in EQUAL.values() for row in rows]),
  st.sampled_from(
    ["{}", " {} ", r"\,{}\!", "({})", "{{{}}}", r"\displaystyle {}", r"\left({}\right)", "{}."]
  ),
)
@settings(max_examples=300, deadline=None)
def test_noise_changes_nothing(row, noise):
  gold, answer = row
  if (noise[0] in "(\\" and "(" in noise and not answer.isdigit()) or "*" in answer:
    return  # brackets mean something around a list or an interval
  assert timed(gold, boxed(noise.replace("{}", answer))).correct is True


# Golds of the shapes that real data sets have.
REAL_GOLDS = [
  "42", "-17", "3.75", "0.5", ".64", r"\frac{36}{35}", r"-\frac{24}{25}", r"\frac{1024}{45}", "2^{n-1}", "3^{2007}", "10!",
  r"\sqrt{53}", r"\frac{3\sqrt{14}}{5}", r"\sqrt{n^2+1}", "(3,-2)", r"\left[-1, \frac{1}{2}\right)", r"(2, \frac{1}{2}, \frac{9}{4})",
  r"\frac{10^{n+1}-10-9n}{81}", r"e^{-x^2/2}", r"y = 3x - 4", r"x^2+y^2=16", r"2\pi-3", r"3+4i", r"\log_{2}(x+1)", "1, 2, 7",
  r"\{2, 15\}", r"(n-2)!", r"2^{25}\cdot 26!", r"5\text{ cm}", r"\$18.90", r"20\text{ m/s}", r"60^\circ", r"12.5\%", r"\sin{2x}+1",
  r"\begin{pmatrix}1&-2\\3&4\end{pmatrix}", r"\lfloor \frac{n}{10} \rfloor", r"\binom{12}{5}", "5:7", r"(-\infty, 4]", r"\frac{\pi}{1000!}",
]  # fmt: skip


@pytest.mark.parametrize("gold", REAL_GOLDS)
def test_a_near_miss_is_never_right(gold):
  assert timed(gold, boxed(gold)).correct is True
  found = list(near_misses(gold))
  assert found
  for kind, answer in found:
    assert not timed(gold, boxed(answer)).correct, (kind, answer)


@given(st.sampled_from(GOLDS), st.text(max_size=300))
@settings(max_examples=400, deadline=None)
def test_any_text_gets_a_verdict(gold, response):
  timed(gold, response)
  timed(gold, boxed(response))


@given(st.sampled_from(GOLDS), st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
@settings(max_examples=600, deadline=None)
def test_any_mixture_of_notation_gets_a_verdict(gold, response):
  timed(gold, response)
  timed(gold, boxed(response))


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@settings(max_examples=200, deadline=None)
def test_the_gold_may_be_any_text_too(gold):
  timed(gold, boxed("7"))


def _random_answer(rng: random.Random, depth: int) -> str:
  """A well-formed expression, so that the fuzzing gets past the parser."""
  if depth == 0 or rng.random() < 0.2:
    return rng.choice(["1", "2", "37", "0.5", "x", "y", r"\pi", "e", "i", "10^9", "999", "100!"])
  a, b = (_random_answer(rng, depth - 1) for _ in range(2))
  return rng.choice(
    [f"({a}+{b})", f"({a})({b})", rf"\frac{{{a}}}{{{b}}}", f"({a})^{{{b}}}", rf"\sqrt[{rng.randint(2, 9)}]{{{a}}}",
     rf"\sin({a})", rf"\exp({a})", rf"\log_{{{a}}}({b})", f"({a})!", rf"\binom{{{a}}}{{{b}}}", f"|{a}|",
     rf"\tan({a})", f"f({a})", rf"\lfloor {a} \rfloor", f"({a},{b})", rf"\{{{a},{b}\}}", f"{a}={b}", f"{a}<{b}",
     f"{a},{b}", rf"{a}\pm {b}", rf"{a}\cup {b}", rf"\begin{{pmatrix}}{a}&{b}\\{b}&{a}\end{{pmatrix}}",
     rf"\max({a},{b})", rf"\gcd({a},{b})", f"{a}:{b}", rf"{a}^\circ", rf"{a}\%", rf"{a}\text{{ cm}}"]
  )  # fmt: skip


@pytest.mark.slow
def test_200_000_strings_without_crash_hang_or_growth():
  rng = random.Random(0)
  early = None
  for k in range(200_000):
    if k % 2:
      text = "".join(
        rng.choice(PIECES) for _ in range(rng.randint(1, rng.choice((5, 20, 80, 400))))
      )
    else:
      text = _random_answer(rng, rng.randint(1, 7))[:3000]
    timed(rng.choice(GOLDS), boxed(text) if rng.random() < 0.7 else text)
    if k == 40_000:
      early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early
  assert grown_kib < 32 * 1024, f"memory grew by {grown_kib} KiB"

"""The verifier: what counts as the answer of a response, and when two answers are equal."""
# ruff: noqa: E501 - tables of answers

import pathlib
import subprocess
import sys
import time

import pytest
from math_cases import DIFFERENT, EQUAL

from lhrm_jax.rewards.math import Verdict, verify


def rows(table):
  return [
    pytest.param(g, a, id=f"{kind}-{i}") for kind, v in table.items() for i, (g, a) in enumerate(v)
  ]


def boxed(answer: str) -> str:
  return rf"<think>some thought</think>Therefore $\boxed{{{answer}}}$."


# Kinds in which the gold may say more than the answer has to.
_ONE_WAY = ("bases", "choice", "readings of the gold alone")


class TestEquality:
  @pytest.mark.parametrize(("gold", "answer"), rows(EQUAL))
  def test_same_value_is_right(self, gold, answer):
    assert verify(gold, boxed(answer)).correct is True

  @pytest.mark.parametrize(
    ("gold", "answer"), rows({k: v for k, v in EQUAL.items() if k not in _ONE_WAY})
  )
  def test_equality_is_symmetric(self, gold, answer):
    if (gold, answer) in [("1, 2", r"\{1, 2, 2\}"), ("12", "**12**")]:
      pytest.skip("a repeat in the gold counts; emphasis is the response's, not the gold's")
    assert verify(answer, boxed(gold)).correct is True

  @pytest.mark.parametrize(("gold", "answer"), rows(DIFFERENT))
  def test_other_value_is_never_right(self, gold, answer):
    assert not verify(gold, boxed(answer)).correct

  def test_any_accepted_answer_will_do(self):
    assert verify(["12", r"\frac{1}{3}"], boxed("1/3")).correct is True
    assert verify(["12", "13"], boxed("14")).correct is False
    assert verify([], boxed("14")).correct is False

  def test_long_decimals_match_what_they_were_cut_from(self):
    assert verify("4.123105625617661", boxed(r"\sqrt{17}")).correct is True
    assert verify(r"\frac{1}{12}", boxed("0.0833333333333333")).correct is True
    assert verify(r"\frac{1}{3}", boxed("0.333")).correct is False
    assert verify("4.123105625617661", boxed("4.123105625617662")).correct is False

  def test_log_means_one_thing_on_both_sides(self):
    assert verify("2", boxed(r"\log 100")).correct is True
    assert verify(r"\ln 2", boxed(r"\log 2")).correct is True
    assert verify(r"\log_{10} 2", boxed(r"\ln 2")).correct is False

  def test_a_gold_may_be_a_worked_solution(self):
    assert verify(r"We add and get $1+1=\boxed{2}$, as wanted.", boxed("2")).correct is True
    assert verify("She has 16 - 3 = 13 eggs.\n#### 13", boxed("13")).correct is True


class TestAnswerPart:
  def test_think_mode_is_judged_after_the_closing_tag(self):
    assert verify("7", r"<think>\boxed{8}</think>\boxed{7}").correct is True
    assert verify("7", r"<think>\boxed{7}</think>\boxed{8}").correct is False

  def test_the_right_answer_in_the_reasoning_alone_is_not_right(self):
    assert not verify("7", r"<think>It is \boxed{7}.</think>").correct

  def test_no_think_mode_is_judged_inside_the_tags(self):
    assert verify("7", r"<no_think>\boxed{7}</no_think>").correct is True
    assert not verify("7", r"<no_think>\boxed{8}</no_think>\boxed{7}").correct

  @pytest.mark.parametrize(
    "response",
    [
      r"<think>\boxed{7}",
      r"<no_think>\boxed{7}",
      r"a <think>\boxed{7}",
      r"<think>x</no_think>\boxed{7}",
      r"<think>a</think>\boxed{7}</think>\boxed{7}",
      r"<think>a</think>\boxed{7}<no_think>",
      r"<no_think><think>6+1</think>\boxed{7}</no_think>",
      r"<no_think>\boxed{7}</no_think> I checked it.",
      r"So <think>a</think>\boxed{7}",
    ],
  )
  def test_a_malformed_response_is_wrong(self, response):
    assert verify("7", response).correct is False

  def test_text_without_tags_is_judged_as_a_whole(self):
    assert verify("7", r"So it is \boxed{7}.").correct is True
    assert verify("7", r"thought </think> \boxed{7}").correct is True


class TestExtraction:
  def test_the_last_box_counts(self):
    assert verify("7", r"First \boxed{6}. No, it is \boxed{7}.").correct is True
    assert verify("6", r"First \boxed{6}. No, it is \boxed{7}.").correct is False

  def test_boxes_that_stand_together_are_one_answer(self):
    assert verify("1,2", r"\boxed{1} and \boxed{2}").correct is True
    assert verify("1,2", r"$\boxed{1}$, $\boxed{2}$").correct is True
    assert verify("2", r"\boxed{1} and \boxed{2}").correct is False
    assert (
      verify("1,2", r"\boxed{1} which we now use to find, after long work, \boxed{2}").correct
      is False
    )

  def test_a_box_that_is_empty_or_open_is_wrong(self):
    assert verify("7", r"\boxed{}").correct is False
    assert verify("7", r"it is 7, \boxed{7").correct is False

  @pytest.mark.parametrize(
    "text",
    ["The answer is 42", "The answer is $42$.", "Final answer: 42", "**Answer:** 42", "#### 42",
     "<answer>42</answer>", "42", "$42$", r"\(42\)", "Therefore, x = 42.", "So the result is 42 apples."],
  )  # fmt: skip
  def test_plain_final_statements(self, text):
    assert verify("42", text).correct is True

  @pytest.mark.parametrize(
    "text",
    ["", "I do not know.", "It is one of 41, 42 or 43.", "She has 41 cows and 42 hens.", "?!"],
  )
  def test_without_a_final_answer_nothing_is_decided(self, text):
    assert verify("42", text).correct is None

  @pytest.mark.parametrize(
    "text",
    ["The answer is not 42.", "The answer is not $42$.", "So it isn't 42.", "It is not true that the answer is 42.",
     "I will now think about whether 42 is plausible", "Is it 42?", "Could it be $42$?", "The answer is 42?",
     "No one knows if the answer is 42.", "I would not say the answer is 42.", "The answer: anything but 42",
     "If the answer is 42 then it is late.",
     r"The answer is not $\boxed{42}$.", r"It cannot be \(\boxed{42}\).", r"It isn't equal to $$\boxed{42}$$",
     r"I doubt that it is $\boxed{42}$.", r"\boxed{42} is wrong.", r"$\boxed{42}$ is not the answer.", r"Is it \boxed{42}?"],
  )  # fmt: skip
  def test_a_value_denied_or_doubted_is_no_answer(self, text):
    assert not verify("42", text).correct

  @pytest.mark.parametrize(
    "text",
    ["The answer is at least 42.", "The answer is more than 42.", "She needs at most 42.", "The answer is half of 42.",
     "The answer is twice 42.", "The answer is the square of 42", "The answer is 42 squared", "The answer is 42 more than x.",
     "So there are 42 or more."],
  )  # fmt: skip
  def test_words_at_the_number_of_a_statement_that_change_it_make_it_none(self, text):
    assert not verify("42", text).correct

  @pytest.mark.parametrize(
    "text",
    [r"It is not hard to see that the answer is \boxed{42}.", r"This is not 41 but $\boxed{42}$.", r"I'm not sure, but \boxed{42}",
     r"The answer is not \boxed{41}, it is \boxed{42}.", r"What is $6 \cdot 7$? $\boxed{42}$", r"\boxed{42}. Is it right? Yes.",
     "So he has 42 more apples.", "Therefore there are 42 of them under the table."],
  )  # fmt: skip
  def test_a_denial_of_something_else_leaves_the_answer(self, text):
    assert verify("42", text).correct is True

  def test_a_denied_box_does_not_take_the_place_of_another(self):
    assert not verify("41", r"The answer is not \boxed{41}, it is \boxed{42}.").correct

  @pytest.mark.parametrize("gap", [" ", "\\,", "\n", "$ ", "{} "])
  def test_long_gaps_cost_no_time(self, gap):
    start = time.perf_counter()
    verify("x+1", r"\boxed{3" + gap * (19_000 // len(gap)) + "x}")
    verify("3", r"\boxed{" + gap * (19_000 // len(gap)) + "3}")
    assert time.perf_counter() - start < 1

  def test_many_numbers_in_a_sentence_cost_no_time(self):
    start = time.perf_counter()
    assert not verify("4", "1 " * 10_000).correct
    assert time.perf_counter() - start < 1

  def test_a_missing_gold_equals_nothing(self):
    assert verify(["3", None], r"\boxed{3}").correct is True
    assert not verify(["3", None], r"\boxed{None}").correct

  def test_a_closing_line_may_pick_the_letter_that_a_formula_in_the_box_does_not(self):
    assert verify("D", "\\boxed{x^2 \\ll y}\n\n**Answer: D**").correct is True
    assert not verify("D", "\\boxed{\\text{A or D}}\n\n**Answer: D**").correct
    assert not verify("D", "\\boxed{A}\n\n**Answer: D**").correct

  def test_a_statement_keeps_a_point_before_the_first_digit(self):
    for stated in ("The answer is .5.", "Therefore, x = .50"):
      assert verify("1/2", stated).correct
      assert not verify("5", stated).correct

  def test_money_is_not_mistaken_for_formulas(self):
    text = "She pays $5 and gets $7 back.\nTherefore she has $12."
    assert verify("12", text).correct is True

  def test_the_verdict_shows_what_was_judged(self):
    verdict = verify("7", r"\boxed{x = 8}")
    assert verdict == Verdict(False, "x = 8", verdict.reason)
    assert verdict.reason and verdict.score == 0.0


class TestHostileText:
  @pytest.mark.parametrize(
    "answer",
    [
      "__import__('os').system('touch pwned')",
      r"\pi if __import__('os').system('touch pwned') else 1",
      "[c for c in ().__class__.__base__.__subclasses__()]",
      "(lambda: open('pwned','w'))()",
      r"\input{/etc/passwd}", r"\write18{touch pwned}",
    ],
  )  # fmt: skip
  def test_nothing_of_a_response_is_run(self, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not verify("1", boxed(answer)).correct
    assert not list(tmp_path.iterdir())

  def test_the_verifier_holds_no_evaluator(self):
    import lhrm_jax.rewards.math as package

    for path in pathlib.Path(package.__file__).parent.glob("*.py"):
      text = path.read_text(encoding="utf-8")
      for word in ("eval(", "exec(", "sympify", "parse_expr", "lambdify", "compile(", "__import__"):
        assert word not in text.replace("re.compile(", ""), f"{path.name} uses {word}"

  @pytest.mark.parametrize(
    "answer",
    [
      "9^{9^{9^{9}}}", "10^{1000000000}", "100000000!", r"\binom{10^9}{10^8}", "2^{2^{2^{2^{2^2}}}}",
      "e^{e^{e^{e^{e^e}}}}", r"\sin(10^{10^{10}})", "1" * 5000, "(" * 900 + "1" + ")" * 900,
      "{" * 700 + "1" + "}" * 700, "-" * 1400 + "1", r"\sqrt{" * 200 + "2" + "}" * 200,
      r"\frac1{" * 150 + "2" + "}" * 150, "1," * 700, "x" * 1400, "|" * 900, "^" * 900, "_{" * 500,
      "3000!" + "*3000!" * 60, r"\exp" * 300, "x^{" * 200, r"\begin{pmatrix}" * 60,
      "((((((10!)!)!)!)!)!)", r"\sum_{k=1}^{10^{9}} k", r"10^{-10^{10}}", r"(10^{9})^{10^{9}}",
      r"1\frac{" * 150, "x!" * 300, r"\vec{" * 240 + "x", "0." + "1" * 399 + "^{9}" * 90,
      r"\begin{pmatrix}x&y\\z&w\end{pmatrix}" * 38, r"\begin{pmatrix}" * 38 + "1" + r"\end{pmatrix}" * 38,
      r"\begin{pmatrix}a&b\\c&d\end{pmatrix}^{-1}" * 12, r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{10^9}",
      r"\binom{3000}{1500}" * 40, "e^{-3000}+" * 90 + "1", "(((x^2+1)^2+1)^2+1)^2<5", "((1+x)^{12}+(1+y)^{12})^{12}=1",
      "|x-1|+|x-2|+|x-3|+|x-4|<5", r"\frac{x^{12}-1}{x^{12}+1}>\frac{x^{11}}{x^{12}+3}", r"\lfloor \frac{n}{997} \rfloor",
      r"x\equiv 1\pmod{10^{100}}", r"\{x|" * 30 + "x>y" + r"\}" * 30, r"\color{red}" * 300, r"\text{for all }" * 200,
      r"\left\{\begin{array}" * 60, r"\tag{" * 300, "x>" * 250,
    ],
  )  # fmt: skip
  def test_no_answer_hangs(self, answer):
    # SymPy's import is paid once in a process, and not by any answer.
    verify("x>1", r"\boxed{x>2}")
    for gold in (
      "1",
      "x",
      r"\sqrt{2}",
      "(1,2)",
      "x>1",
      "x+y=1",
      r"x=k\pi, k\in\mathbb{Z}",
      r"\lfloor n/2\rfloor",
    ):
      start = time.process_time()
      assert not verify(gold, rf"\boxed{{{answer}}}").correct or answer[0] in "{-"
      assert time.process_time() - start < 2.0

  @pytest.mark.parametrize("piece", [r"\[", r"\(", "$", "$$", "####", "<answer>", r"\boxed{", "The answer is ",
                                     "{", "option ", "1,", " ", "\n", "<<", "<think>", "**"])  # fmt: skip
  def test_long_repetitions_are_read_in_bounded_time(self, piece):
    start = time.perf_counter()
    verify("1", piece * (200_000 // len(piece)))
    verify("B", piece * (200_000 // len(piece)))
    assert time.perf_counter() - start < 3.0

  def test_deep_redundant_braces_are_still_an_answer(self):
    assert verify("1", r"\boxed{" + "{" * 4000 + "1" + "}" * 4000 + "}").correct is True

  def test_reading_answers_does_not_import_a_computer_algebra_system(self):
    code = (
      "import sys; from lhrm_jax.rewards.math import verify; verify('1/2', r'\\boxed{0.5}');"
      "assert not {'sympy', 'mpmath', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

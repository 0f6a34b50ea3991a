# ruff: noqa: RUF001
"""One question in many forms is found; another question, however close, is not."""

import random

import pytest

from lhrm_jax.data.catalog import math_prompt
from lhrm_jax.data.questions import Asked, normalise
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import tags

QUESTIONS = (
  "What is 3 + 4?",
  "Janet’s ducks lay 16 eggs per day. She sells 1,200 of them at $2.50 each. How much is that?",
  "Let $f(x)=\\dfrac{x^2-1}{2}$ for $x \\neq 1.$ Find $f\\left(3\\right) \\times 5!$ and its sign.",
  "Simplify $\\sqrt{242} \\cdot 3$ and say whether $x \\leq 7$ for\nevery well-known value of $x$.",
  "小明有3个苹果。又买了5个。现在有几个？",
)
WRAPPERS = {
  "bare": str,
  "boxed": math_prompt,
  "qwen": "{}\nPlease reason step by step, and put your final answer within \\boxed{{}}.".format,
  "verl": '{} Let\'s think step by step and output the final answer after "####".'.format,
  "label": "Question: {}\nAnswer:".format,
  "heading": "### Problem 12\n{}\n\n### Solution\n".format,
  "chatml": (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
  ).format,
  "inst": "<s>[INST] {} [/INST]".format,
  "tags": "{}\nThink between <think> and </think>, then answer.".format,
}
LONG_WRAPPERS = {  # with sentences no list could cover
  "few shots": "Q: How old is Bo?\nA: He is 7.\n\nQ: {}\nA:".format,
  "foreword": "Here is a riddle from our newsletter.\n{}\nGood luck to all of you!".format,
}
REWRITES = {
  "same": str,
  "case": str.upper,
  "spaces": lambda text: f"  {text} ".replace(" ", " \u00a0"),
  "lines": lambda text: text.replace(" ", "\n", 1),
  "quotes": lambda text: text.replace("’", "'"),
  "end": lambda text: text.rstrip("?.？"),
  "thousands": lambda text: text.replace("1,200", "1200"),
  "wide": lambda text: "".join(chr(ord(c) + 0xFEE0) if "0" <= c <= "9" else c for c in text),
  "invisible": lambda text: f"{text[0]}\u200b{text[1:]}\ufeff",
  "bold": lambda text: f"**{text.split()[0]}**{text[len(text.split()[0]):]}",
  "hyphen": lambda text: text.replace("well-known", "well known"),
  "delimiters": lambda text: text.replace(" $", " \\(").replace("$ ", "\\) "),
  "latex": lambda text: (
    text.replace("\\dfrac", "\\frac").replace("\\left", "").replace("\\right", "")
    .replace("\\times", "\\,\\times\\;").replace("\\neq", "\\ne").replace("\\cdot", "\\times")
    .replace("x^2", "x^{2}").replace("\\leq", "\\le").replace("f(x)", "f (x)")
  ),
  "unicode": lambda text: (
    text.replace("\\times", "×").replace("\\cdot", "·").replace("x^2", "x²")
    .replace("\\leq", "≤").replace("\\neq", "≠").replace("-1", "−1")
  ),
}  # fmt: skip


def query(text, *earlier):
  return PromptRow(text, "", earlier=earlier)


@pytest.mark.parametrize("rewrite", REWRITES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_question_is_found_in_every_form_on_either_side(wrapper, rewrite):
  for question in QUESTIONS:
    plain, other = math_prompt(question), WRAPPERS[wrapper](REWRITES[rewrite](question))
    assert query(other) in Asked([query(plain)]), other
    assert query(plain) in Asked([query(other)]), other
    assert HFTRow(other, "", tags.THINK) in Asked([query(plain)])


@pytest.mark.parametrize("wrapper", LONG_WRAPPERS)
def test_a_question_of_some_words_is_found_within_other_text(wrapper):
  for question in QUESTIONS:
    plain, other = query(math_prompt(question)), query(LONG_WRAPPERS[wrapper](question))
    assert other in Asked([plain])
    if len(normalise(question).words) >= 8:
      assert plain in Asked([other])


def test_a_question_is_found_in_a_conversation():
  system, greeting = ("system", "Be brief."), (("user", "Hi"), ("assistant", "Hello"))
  for question in QUESTIONS:
    asked = Asked([query(math_prompt(question))])
    assert query(question, system) in asked
    assert query(question, system, *greeting) in asked
    assert query("And why?", ("user", question), ("assistant", "7")) in asked
    assert query(question) in Asked([query(math_prompt(question), system)])
  two_turns = Asked([query("And why?", ("user", "Is 7 odd?"), ("assistant", "Yes"))])
  assert query("And why?", ("user", "Is 7  odd"), ("assistant", "Indeed")) in two_turns
  assert query("And why?", ("user", "Is 9 odd?"), ("assistant", "Yes")) not in two_turns
  assert query("And why?") not in two_turns


@pytest.mark.parametrize(
  ("asked", "other"),
  [
    ("What is 3 + 4?", "What is 3 + 5?"),
    ("What is 3 + 4?", "What is 3 - 4?"),
    ("What is 3 + 4?", "What is 3 + 4 + 1?"),
    ("What is 3 + 4?", "What is 34?"),
    ("What is 3.4?", "What is 34?"),
    ("What is 2(3+4)?", "What is 2*3+4?"),
    ("What is 5!", "What is 5?"),
    ("What is x^2 for x = 3?", "What is x^3 for x = 2?"),
    ("What is -3 squared?", "What is 3 squared?"),
    ("How are you?", "Bo says: How are you? Al says: I am fine. Who spoke first?"),
    ("Tom buys 3 apples every day. How much does he pay",
     "Tom buys 3 apples every day. How much does he pay in total after two weeks?"),
    ("Tom buys 3 apples every day. How much does he pay?", "Tom buys 3 apples every day."),
    ("Find the value of x. Please reason step by step.", "Find the value of y."),
    ("Please reason step by step.", "Please put your answer in \\boxed{}."),
    ("\\boxed{1}", "\\boxed{2}"),
    ("小明有3个苹果。又买了5个。现在有几个？", "小明有3个苹果。又买了6个。现在有几个？"),
  ],
)  # fmt: skip
def test_another_question_is_not_taken_for_it(asked, other):
  assert query(other) not in Asked([query(asked)])
  assert query(math_prompt(other)) not in Asked([query(math_prompt(asked))])


def test_no_two_of_many_sums_are_taken_for_each_other():
  rng = random.Random(0)

  def prompt():
    sum_of = " + ".join(str(rng.randrange(30)) for _ in range(rng.randrange(2, 6)))
    return f"Bo has {rng.randrange(9)} pens and asks for help. What is {sum_of}?"

  prompts = list(dict.fromkeys(prompt() for _ in range(500)))
  asked = Asked(map(query, prompts[:250]))
  assert not any(query(math_prompt(other)) in asked for other in prompts[250:])


def test_text_of_no_words_asks_nothing_but_itself():
  assert normalise("?!…").words == ()
  assert query("…") in Asked([query("?!")])
  assert query("…") not in Asked([query("1?")])

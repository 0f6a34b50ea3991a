"""Single steps of a preparation on planted rows: duplicates, contamination, chat that reasons."""

import itertools
import random

import numpy as np
import pytest

pytest.importorskip("datatrove")

from datatrove.data import Document

from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.preparation import chat_filter
from lhrm_jax.preparation.contamination import Decontaminate
from lhrm_jax.preparation.duplicates import QuestionSignature
from lhrm_jax.preparation.rows import fields_of, row_of
from lhrm_jax.text import tags
from tests.preparation import mixture

WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "lnrst"]


def sentence(rng, words):
  return " ".join(rng.choice(WORDS) for _ in range(words))


def edited(rng, text):
  """The text with one word replaced, left out or put in."""
  words, at = text.split(), rng.randrange(3, len(text.split()) - 3)
  words[at : at + rng.choice((0, 1))] = [rng.choice(WORDS)] * rng.choice((0, 1))
  return " ".join(words)


def fields_with(text, earlier=()):
  return fields_of(HFTRow(text, "<think>a</think>b", tags.THINK, earlier=earlier), "x")


def asked_of(text, earlier=()):
  return fields_with(text, earlier)["asked"]


def question_of(text):
  return fields_with(text)["question"]


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
  """Whether two questions share a bucket."""
  step = QuestionSignature(str(tmp_path_factory.mktemp("signatures")))

  def buckets(text, mode):
    return step.get_signature(step.get_shingles(f"{mode}\n{asked_of(text)}"))

  def compare(one, other, modes=("think", "think")):
    pairs = zip(buckets(one, modes[0]), buckets(other, modes[1]), strict=True)
    return any(a == b for a, b in pairs)

  return compare


def test_near_duplicates_are_found_and_other_questions_are_not(alike):
  rng = random.Random(0)
  texts = [f"{sentence(rng, 40)} is 7 times 8" for _ in range(300)]
  found = sum(alike(text, edited(rng, text)) for text in texts)
  assert found >= 0.99 * len(texts)
  assert not any(alike(one, other) for one, other in itertools.pairwise(texts))


def test_another_number_or_sign_is_another_question_however_alike_the_words(alike):
  rng = random.Random(1)
  text = f"{sentence(rng, 40)} what is 3 + 4"
  assert alike(text, text.upper() + " !")
  assert not alike(text, text.replace("3 + 4", "3 + 5"))
  assert not alike(text, text.replace("3 + 4", "3 * 4"))
  assert not alike(text, text.replace("3 + 4", "three sheep"))
  assert not alike(*(text.replace("3 + 4", f"{n} sheep") for n in ("three", "seven")))
  assert alike(text, "* " + text.replace(" what", " - what") + " (she asks)")
  for modes in (("think", "query"), ("think", "no_think")):
    assert not alike(text, text, modes), "compared among themselves only"


def test_what_is_asked_for_counts_where_rows_are_compared():
  tyre = "Hi! Write step by step instructions for changing a tyre."
  bread = "Hi! Give me a step-by-step guide to baking bread."
  assert asked_of(tyre) != asked_of(bread)
  french, german = ((("system", f"Translate to {to}."),) for to in ("French", "German"))
  assert asked_of("Good day", french) != asked_of("Good day", german)


EVALUATED = [
  PromptRow(mixture.ASKED, "11"),
  PromptRow("What is the capital of the smallest country?", ""),
  *(PromptRow(f"Write a function in Python that takes two lists and returns the {w} of them", "")
    for w in WORDS[:20]),
]  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """Whether a demonstration is kept beside these evaluations."""
  step = Decontaminate(str(tmp_path_factory.mktemp("work")), EVALUATED, "evaluation")

  def check(prompt, response="<no_think>Yes.</no_think>", earlier=()):
    row = HFTRow(prompt, response, tags.NO_THINK, earlier=earlier)
    fields = fields_of(row, "x")
    assert row_of(fields) == row
    return step.filter(Document(fields["question"], "p:0", metadata=fields)) is True

  return check


def test_questions_of_the_evaluation_are_found_in_every_dress(kept):
  asked = mixture.ASKED
  for dress in (
    asked, asked.upper(), f"Please solve.\n\n{asked}\nThink step by step.",
    asked.replace(" ", "  "), asked.replace(",", "").replace(";", " -"),
    "***" + asked.replace("barn", "**barn**"),
    "what is the capital of the smallest COUNTRY",
    asked.replace("and some hens", "(and some hens)"), asked.replace("26 heads", "(26 heads)"),
    asked.replace("some sheep", "*some sheep*"), asked.replace(",", " -"), f"> {asked}",
    f"- {asked}", asked.replace("; how", ":\n* how"),
  ):  # fmt: skip
    assert not kept(dress), dress
  assert not kept("Go on.", earlier=(("user", asked), ("assistant", "Well.")))
  for response in (
    f"Here is one: {asked.lower()}", f"Going step by step, {asked}",
    f"So {asked} is \\boxed{{11}}.",
  ):  # fmt: skip
    assert not kept("Make up a riddle.", f"<no_think>{response}</no_think>"), response
  assert not kept("Make up a riddle.", f"<think>Let me solve {asked}</think>11")


def test_other_questions_are_kept_even_in_the_words_of_a_suite(kept):
  rng = random.Random(2)
  assert all(kept(sentence(rng, 60)) for _ in range(200))
  assert kept(" ".join(mixture.ASKED.split()[:10]))
  assert kept("Write a function in Python that takes two lists and returns the zip of them")


def chat_questions(rng, count):
  return [question_of(f"tell me about {sentence(rng, 12)}") for _ in range(count)]


def reasoning_questions(rng, count):
  return [
    question_of(f"Compute the sum of {i} and {sentence(rng, 3)}; prove that the integer is prime")
    for i in range(count)
  ]


def test_the_classifier_is_not_fooled_by_reasoning_among_the_chat_that_it_is_fitted_to():
  rng = random.Random(3)
  reasoning = reasoning_questions(rng, 700)
  chat = [*chat_questions(rng, 600), *reasoning[600:]]
  router, measured = chat_filter.fit(chat, reasoning[:600], 0.5)
  assert measured["doubtful"] >= 80
  assert measured["classifier"]["recall"] > 0.99
  assert (router.probability(reasoning[600:]) >= 0.5).mean() > 0.95
  assert (router.probability(chat[:600]) >= 0.5).mean() < 0.01
  assert {"precision", "recall"} == set(measured["keywords"])


def test_rates_are_those_worked_out_by_hand():
  found, truly = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 1], bool)
  assert chat_filter.rates(found, truly) == {"precision": 0.5, "recall": pytest.approx(1 / 3)}


def test_questions_that_cannot_be_told_apart_are_an_error_and_not_all_removed():
  rng = random.Random(4)
  alike = reasoning_questions(rng, 400)
  with pytest.raises(ValueError, match="cannot be told from those of the thinking"):
    chat_filter.fit([f"{q} now" for q in alike[::2]] * 2, [f"{q} now" for q in alike[1::2]], 0.1)


def test_too_few_questions_to_fit_to_are_an_error_that_says_what_to_do():
  with pytest.raises(ValueError, match=r"name more sources, or prepare.chat=''"):
    chat_filter.fit(["a"], ["b"] * 100, 0.5)

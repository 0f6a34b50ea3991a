"""Shared runs of 13 words."""

from lhrm_jax.data.catalog import math_prompt
from lhrm_jax.evaluation.overlap import overlap

STORY = "a farmer sells nine red apples and four green pears to them all"


def test_13_shared_words_overlap_and_12_do_not():
  short = STORY.removesuffix(" all")
  evaluated = [
    math_prompt(f"First, {STORY} friends."),
    math_prompt(f"Then {short} friends."),
    "What is 2+2?",
    "What is 3+3?",
  ]
  trained = [math_prompt("Another question."), f"Long ago {STORY} of his.", "what is 2 + 2"]
  found = overlap(evaluated, trained)
  assert len(STORY.split()) == 13 and len(short.split()) == 12
  assert found["prompt_ids"] == [0, 2] and found["overlapping"] == 2 and found["share"] == 0.5
  assert found["texts"] == 3 and found["prompts"] == 4

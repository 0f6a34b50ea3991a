"""Overlap of evaluation prompts with training texts, by shared runs of 13 words.

The check of GPT-3's authors (https://arxiv.org/abs/2005.14165, appendix C), on normalised words
(`data.questions`), so that a request for a boxed answer is no overlap.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lhrm_jax.data.questions import normalise

GRAM = 13  # words
_SHOWN = 20  # prompts listed


def overlap(evaluated: Sequence[str], trained: Iterable[str]) -> dict[str, Any]:
  """How many evaluation prompts share a run of `GRAM` words with a training text.

  A shorter prompt overlaps where a whole training text has the same words.

  Args:
    evaluated: the prompts.
    trained: training prompts and responses.

  Returns:
    JSON-like: "gram", "prompts", "texts" (the number of training texts), "overlapping", "share"
    and "prompt_ids", the places of the first overlapping prompts.
  """
  places: dict[tuple[str, ...], set[int]] = {}
  for place, prompt in enumerate(evaluated):
    for gram in _grams(normalise(prompt).words):
      places.setdefault(gram, set()).add(place)
  found: set[int] = set()
  texts = 0
  for text in trained:
    texts += 1
    for gram in _grams(normalise(text).words):
      found |= places.get(gram, set())
  return {
    "gram": GRAM,
    "prompts": len(evaluated),
    "texts": texts,
    "overlapping": len(found),
    "share": len(found) / len(evaluated),
    "prompt_ids": sorted(found)[:_SHOWN],
  }


def _grams(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
  """Runs of `GRAM` words; all words of a shorter text."""
  if words:
    yield from (words[i : i + GRAM] for i in range(max(len(words) - GRAM + 1, 1)))

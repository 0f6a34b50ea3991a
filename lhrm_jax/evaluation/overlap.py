"""Overlap of evaluation prompts with training texts, by shared runs of 13 words.

The check of GPT-3's authors (https://arxiv.org/abs/2005.14165, appendix C), on normalised words
(`data.questions`), so that a request for a boxed answer is no overlap.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lhrm_jax.data.questions import normalise
from lhrm_jax.text import tags

GRAM = 13  # words
_ALL_KNOWN = bytes([True] * GRAM)
_SHOWN = 20  # prompts listed
_TAGS = re.compile("|".join(map(re.escape, tags.TAGS)))


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
  index = GramIndex(evaluated)
  found: set[int] = set()
  texts = 0
  for text in trained:
    texts += 1
    found |= index.places(text)
  return {
    "gram": GRAM,
    "prompts": len(evaluated),
    "texts": texts,
    "overlapping": len(found),
    "share": len(found) / len(evaluated),
    "prompt_ids": sorted(found)[:_SHOWN],
  }


class GramIndex:
  """The runs of `GRAM` words of evaluation prompts; a shorter prompt is one run.

  Args:
    evaluated: the prompts.
    most_prompts: runs in more prompts than this are left out: they are how a suite words its
      requests.
  """

  def __init__(self, evaluated: Sequence[str], most_prompts: float = math.inf):
    places: dict[tuple[str, ...], set[int]] = {}
    for place, prompt in enumerate(evaluated):
      for gram in _grams(normalise(prompt).words):
        places.setdefault(gram, set()).add(place)
    self._places = {gram: of for gram, of in places.items() if len(of) <= most_prompts}
    self._known = {word for gram in self._places for word in gram}

  def places(self, text: str, *, response: bool = False) -> set[int]:
    """Places of the prompts that share a run with a text; of a shorter text, all its words.

    Args:
      text: a prompt or a response.
      response: whether it is a response. A prompt is compared without its requests for a form of
        answer, too; in a response, "step by step" may stand beside the question.
    """
    # A tag opens the thought, whose first words may be the question.
    found = self._sharing(normalise(_TAGS.sub("\n", text), requests=True).words)
    return found if response else found | self._sharing(normalise(text).words)

  def _sharing(self, words: tuple[str, ...]) -> set[int]:
    if len(words) < GRAM:
      return set(self._places.get(words, ()))
    known, found = bytes(map(self._known.__contains__, words)), set()
    start = known.find(_ALL_KNOWN)
    while start >= 0:
      found |= self._places.get(words[start : start + GRAM], set())
      start = known.find(_ALL_KNOWN, start + 1)
    return found


def _grams(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
  """Runs of `GRAM` words; all words of a shorter text."""
  if words:
    yield from (words[i : i + GRAM] for i in range(max(len(words) - GRAM + 1, 1)))

"""A fastText classifier that finds queries of chat which need reasoning, and removes them.

It is fitted to questions of thinking demonstrations against questions of chat. Some of the latter
need reasoning too, so first each half of them is judged by a classifier fitted to the other half,
and what that takes for reasoning is not fitted to. Questions are compared as normalised words,
without requests for a form of answer, which would give the sources away.
"""

import hashlib
import heapq
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from lhrm_jax import routing
from lhrm_jax.preparation.rows import QUERY, Removal, part_names, read_part
from lhrm_jax.routing import Examples, TrainedRouter
from lhrm_jax.storage.folder import Folder
from lhrm_jax.text import tags

MODEL, MEASURED = "classifier.json", "classifier_measured.json"
_HELD_OUT = 5  # one question in so many is not fitted to
_ROUTER, _RULES = "fasttext", "keywords"


class FitChatFilter(PipelineStep):
  """Fits the classifier and measures it on held-out questions; one task."""

  type, name = "Classifier", "chat that needs reasoning: fit"

  def __init__(self, work: str, chat: Sequence[str], examples: int, threshold: float):
    """Args:
    work: folder of the preparation.
    chat: sources of chat.
    examples: most questions of each kind.
    threshold: probability from which a question counts as reasoning.
    """
    super().__init__()
    self._work, self._chat = work, frozenset(chat)
    self._examples, self._threshold = examples, threshold

  def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    folder = Folder(self._work)
    direct, thinking = _sample(folder, self._chat, self._examples)
    router, measured = fit(direct, thinking, self._threshold)
    with tempfile.TemporaryDirectory() as local:
      path = pathlib.Path(local, MODEL)
      routing.save(path, router)
      content = path.read_bytes()
    measured["bytes"] = len(content)
    folder.write(MODEL, content)
    folder.write(MEASURED, json.dumps(measured, indent=1).encode())
    yield from ()


def fit(
  direct: Sequence[str], thinking: Sequence[str], threshold: float
) -> tuple[TrainedRouter, dict[str, Any]]:
  """A classifier of questions, and its precision and recall on one in five, held out.

  Args:
    direct: questions of chat.
    thinking: questions of thinking demonstrations.
    threshold: probability from which a question counts as reasoning.

  Raises:
    ValueError: there are too few of either, or they cannot be told apart.
  """
  if min(len(direct), len(thinking)) < 2 * _HELD_OUT:
    raise ValueError(
      f"the classifier of chat has {len(direct)} questions of chat and {len(thinking)} of thinking "
      f"demonstrations, fewer than {2 * _HELD_OUT} of each: name more sources, or prepare.chat=''."
    )
  # As many of each, so that a doubtful question is not decided by what there is more of.
  count = min(len(direct), len(thinking))
  direct, thinking = (sorted(found, key=_number)[:count] for found in (direct, thinking))
  questions = [*direct, *thinking]
  reasoning = np.arange(len(questions)) >= len(direct)
  held_out = np.array([_number(question) % _HELD_OUT == 0 for question in questions])
  doubtful = np.zeros(len(questions), bool)
  half = np.array([_number(question) // _HELD_OUT % 2 == 0 for question in questions])
  for mine in (half, ~half):
    judge = _fitted(questions, reasoning, ~held_out & ~mine)
    doubtful[mine] = judge.probability([questions[i] for i in np.flatnonzero(mine)]) >= threshold
  doubtful &= ~reasoning
  if doubtful.sum() > count / 2:
    raise ValueError(
      f"the classifier takes {int(doubtful.sum())} of {count} questions of chat for reasoning: "
      "they cannot be told from those of the thinking demonstrations. Name other sources in "
      "prepare.chat, raise prepare.chat_threshold or chat_examples, or set prepare.chat=''."
    )
  router = _fitted(questions, reasoning, ~held_out & ~doubtful)
  test = [question for question, out in zip(questions, held_out, strict=True) if out]
  began = time.perf_counter()
  found = router.probability(test) >= threshold
  seconds = time.perf_counter() - began
  rules = routing.untrained(_RULES).probability(test) >= 0.5
  return router, {
    "fitted": int((~held_out & ~doubtful).sum()),
    "doubtful": int(doubtful.sum()),
    "held_out": len(test),
    "classifier": rates(found, reasoning[held_out]),
    "keywords": rates(rules, reasoning[held_out]),
    "rows_per_second": len(test) / seconds,
  }


def rates(found: np.ndarray, truly: np.ndarray) -> dict[str, float]:
  """Precision and recall of what is found `[N]`, against what is truly so `[N]`."""
  hits = float((found & truly).sum())
  return {
    "precision": hits / max(found.sum(), 1),
    "recall": hits / max(truly.sum(), 1),
  }


def _fitted(questions: Sequence[str], reasoning: np.ndarray, used: np.ndarray) -> TrainedRouter:
  chosen = np.flatnonzero(used)
  labels = reasoning[chosen]
  return routing.train(
    _ROUTER, Examples([questions[i] for i in chosen], labels, labels.astype(np.float64))
  )


def _sample(folder: Folder, chat: frozenset[str], count: int) -> tuple[list[str], list[str]]:
  """At most `count` questions of chat, and as many of thinking demonstrations: a fixed choice."""
  kept: tuple[list, list] = ([], [])
  seen: tuple[set, set] = (set(), set())  # questions on the heaps: copies do not crowd others out
  for part in part_names(folder):
    table = read_part(folder, part, ("source", "mode", "question"))
    for source, mode, question in zip(*(table[c].to_pylist() for c in table.column_names),
                                      strict=True):  # fmt: skip
      thinking = mode == tags.MODES[tags.THINK]
      if not thinking and (source not in chat or mode == QUERY):
        continue
      heap, known = kept[thinking], seen[thinking]
      item = (-_number(question), question)
      if question in known or (len(heap) == count and item < heap[0]):
        continue
      known.add(question)
      if len(heap) < count:
        heapq.heappush(heap, item)
      else:
        known.discard(heapq.heapreplace(heap, item)[1])
  direct, thinking = ([question for _, question in sorted(heap)] for heap in kept)
  return direct, thinking


def _number(question: str) -> int:
  return int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest(), "big")


class ChatFilter(BaseFilter):
  """Removes chat that the fitted classifier takes for reasoning."""

  name = "chat that needs reasoning"

  def __init__(self, work: str, chat: Sequence[str], threshold: float, step: str):
    super().__init__(Removal(work, step, "needs reasoning"))
    self._work, self._chat, self._threshold = work, frozenset(chat), threshold
    self._router: TrainedRouter | None = None

  def filter(self, doc: Document) -> bool:
    if doc.metadata["source"] not in self._chat:
      return True
    if self._router is None:
      self._router = _load(Folder(self._work))
    return bool(self._router.probability([doc.text])[0] < self._threshold)


def _load(folder: Folder) -> TrainedRouter:
  with tempfile.TemporaryDirectory() as local:
    path = pathlib.Path(local, MODEL)
    path.write_bytes(folder.read(MODEL))
    return routing.load(path)

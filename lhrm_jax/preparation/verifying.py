"""Removes demonstrations whose answer is wrong, by the verifier in its pool of processes."""

from collections.abc import Iterator

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from lhrm_jax.preparation.rows import QUERY, Removal
from lhrm_jax.rewards.pool import VerifierPool

_BATCH = 64
_LIMIT_S = 30.0  # of a verdict: long enough that a busy machine removes no row


class VerifyAnswers(BaseFilter):
  """Keeps demonstrations whose answer equals the known one in value, and those without a known one.

  A verdict that is not reached (a hostile expression, a killed worker) counts as not verified.
  """

  name = "verified answers"

  def __init__(self, work: str, step: str):
    super().__init__(Removal(work, step), batch_size=_BATCH)

  def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
    # One worker: datatrove runs as many tasks at a time as there are processors for.
    with VerifierPool(workers=1, limit_s=_LIMIT_S) as self._pool:
      yield from super().run(data, rank, world_size)

  def filter(self, doc: Document) -> bool | tuple[bool, str]:
    (result,) = self.filter_batch([doc])
    return result

  def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
    known = [doc for doc in batch if doc.metadata["answer"] and doc.metadata["mode"] != QUERY]
    verdicts = self._pool.score(
      [doc.metadata["answer"] for doc in known], [doc.metadata["response"] for doc in known]
    )
    found = {doc.id: verdict.correct for doc, verdict in zip(known, verdicts, strict=True)}
    words = {True: True, False: (False, "wrong answer"), None: (False, "answer not verified")}
    return [words[found.get(doc.id, True)] for doc in batch]

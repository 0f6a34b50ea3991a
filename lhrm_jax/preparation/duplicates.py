"""Exact and near duplicates by datatrove, of questions as normalised words.

Two rows are exact duplicates where their questions have the same words, numbers and signs. They are
near duplicates where these are nearly the same words, and the same numbers and signs in the same
order: "3 + 4" and "3 + 5" are different questions, however alike the words around them. Requests
for a form of answer and the system's turn count too. Queries, and the demonstrations of each mode,
are compared among themselves only. One row of each cluster stays.
"""

import re

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup import (
  ExactDedupConfig,
  MinhashConfig,
  MinhashDedupSignature,
)
from datatrove.utils.hashing import HashConfig, create_hash_func
from datatrove.utils.word_tokenizers import WordTokenizer

# A pair of questions with the share `s` of their shingles in common is found with probability
# 1 - (1 - s^8)^32: .998 at .8, .12 at .5, .002 at .3.
BUCKETS, HASHES, SHINGLE = 32, 8, 3
_HASH = HashConfig(hash_fc="sha1")  # datatrove's xxhash is of releases before 4
_NUMBERS = (
  "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
  "|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
  "|hundred|thousand|million|billion|dozen|once|twice|half|third|quarter"
)
_VALUE = re.compile(rf"[\d.]+|[-+*/=<>^%]|!=|<=|>=|{_NUMBERS}")


def _content(doc: Document) -> str:
  return f"{doc.metadata['mode']}\n{doc.metadata['asked']}"


def exact_config() -> ExactDedupConfig:
  return ExactDedupConfig(content_getter=_content, hash_config=_HASH)


def minhash_config() -> MinhashConfig:
  return MinhashConfig(
    n_grams=SHINGLE, num_buckets=BUCKETS, hashes_per_bucket=HASHES, hash_config=_HASH
  )


class _Spaces(WordTokenizer):
  """Splits normalised words at the spaces between them."""

  def word_tokenize(self, text: str) -> list[str]:
    return text.split()

  def sent_tokenize(self, text: str) -> list[str]:
    raise NotImplementedError

  def span_tokenize(self, text: str) -> list[tuple[int, int]]:
    raise NotImplementedError


class QuestionSignature(MinhashDedupSignature):
  """MinHash signatures of questions, whose shingles tell their numbers and signs apart."""

  def __init__(self, output_folder: str):
    super().__init__(output_folder, minhash_config(), language=_Spaces())
    self._hash = create_hash_func(_HASH)

  def run(self, data, rank: int = 0, world_size: int = 1):
    def keyed():
      for doc in data:
        yield Document(_content(doc), doc.id)

    return super().run(keyed(), rank, world_size)

  def get_shingles(self, text: str) -> np.ndarray:
    kind, _, question = text.partition("\n")
    words = self.word_tokenizer.word_tokenize(question)
    values = self._hash(" ".join([kind, *filter(_VALUE.fullmatch, words)]))
    grams = [" ".join(words[i : i + SHINGLE]) for i in range(max(len(words) - SHINGLE + 1, 0))]
    hashes = np.fromiter(map(self._hash, grams), np.uint64, len(grams))
    return (hashes ^ np.uint64(values)).reshape(-1, 1)

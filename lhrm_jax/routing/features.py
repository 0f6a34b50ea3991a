"""What text routers read of a prompt: words, and a few numbers."""

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np

# Words, numbers, and single other characters but controls and lone surrogates.
_TOKEN = re.compile(r"[^\W\d_]+|\d+|_|[^\w\s\x00-\x1f\ud800-\udfff]")
_OPERATOR = re.compile(r"[-+*/^=<>%]")
_JOINT = "\u2581"  # of the words of a pair; no word holds it, and no library splits at it
MEASURES = ("characters", "words", "numbers", "digits", "operators", "lines", "questions")


def words(prompt: str) -> list[str]:
  """Words in lower case; a number is "#" and how many digits it has, since few recur."""
  found = (token.replace(_JOINT, " ").strip() for token in _TOKEN.findall(prompt.lower()))
  return [f"#{len(token)}" if token[0].isdigit() else token for token in found if token]


def terms(prompt: str) -> list[str]:
  """Unigrams and bigrams of words, in order, with repetitions."""
  single = words(prompt)
  return single + [_JOINT.join(pair) for pair in itertools.pairwise(single)]


def measures(prompts: Sequence[str]) -> np.ndarray:
  """`[K, len(MEASURES)]` counts of each prompt, as log(1 + n)."""
  return np.array([[math.log1p(n) for n in _counts(prompt)] for prompt in prompts], np.float64)


def _counts(prompt: str) -> tuple[int, ...]:
  tokens = _TOKEN.findall(prompt)
  numbers = [token for token in tokens if token[0].isdigit()]
  return (
    len(prompt), len(tokens), len(numbers), sum(map(len, numbers)), len(_OPERATOR.findall(prompt)),
    prompt.count("\n") + 1, prompt.count("?"),
  )  # fmt: skip

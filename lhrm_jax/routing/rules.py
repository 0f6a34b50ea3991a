"""Routers without training: always, never, at random, and by keywords."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

import numpy as np

from lhrm_jax.routing.router import Examples, register

# Words that ask for work in several steps: mathematics, programs, proofs, puzzles, plans.
KEYWORDS = (
  "algorithm", "analyse", "analyze", "arrange", "at least", "at most", "average", "bug",
  "calculate", "code", "compare", "complexity", "compute", "count", "debug", "deduce", "derive",
  "determine", "equation", "estimate", "evaluate", "factor", "find the", "function", "how many",
  "how much", "if and only if", "implement", "in total", "integer", "integral", "largest",
  "left to right", "logic", "matrix", "maximum", "minimum", "optimal", "percent", "plan",
  "polynomial", "prime", "probability", "program", "proof", "prove", "puzzle", "remainder",
  "schedule", "sequence", "show that", "simplify", "smallest", "solve", "step by step", "steps",
  "sum", "theorem", "triangle", "why",
)  # fmt: skip
_KEYWORD = re.compile(r"\b(?:" + "|".join(map(re.escape, KEYWORDS)) + r")\b", re.IGNORECASE)
_OPERATION = re.compile(r"(?:\d|\)|\b[a-z])\s*[-+*/^=]\s*(?=\d|\(|[a-z]\b)")
_CODE = re.compile(r"```|\bdef \w+\(|\\(?:frac|sum|int|sqrt)\b")


@register("always")
@dataclasses.dataclass(frozen=True)
class Always:
  """Thinks on every prompt."""

  @classmethod
  def fit(cls, examples: Examples) -> "Always":
    return cls()

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    return np.ones(len(prompts))


@register("never")
@dataclasses.dataclass(frozen=True)
class Never:
  """Thinks on no prompt."""

  @classmethod
  def fit(cls, examples: Examples) -> "Never":
    return cls()

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    return np.zeros(len(prompts))


@register("random")
@dataclasses.dataclass(frozen=True)
class Random:
  """Draws a number per prompt, the same one whenever the prompt is asked."""

  @classmethod
  def fit(cls, examples: Examples) -> "Random":
    return cls()

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    def drawn(prompt: str) -> float:
      digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
      return int.from_bytes(digest[:6], "big") / 2**48

    return np.array([drawn(prompt) for prompt in prompts], np.float64)


@register("keywords")
@dataclasses.dataclass(frozen=True)
class Keywords:
  """Counts hits: words that ask for work in several steps, operations, code, formulas.

  The first hit makes 0.5, which thinks, and each further one more: `h / (h + 1)`.
  """

  @classmethod
  def fit(cls, examples: Examples) -> "Keywords":
    return cls()

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    hits = np.array(
      [sum(len(p.findall(prompt)) for p in (_KEYWORD, _OPERATION, _CODE)) for prompt in prompts],
      np.float64,
    )
    return hits / (hits + 1.0)

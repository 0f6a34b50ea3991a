"""Routers fitted to training prompts: by length, by logistic regression, by fastText.

Fitting needs the extra `routing`; what is fitted is a table of numbers, which needs nothing.
"""

import collections
import dataclasses
import importlib
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from lhrm_jax.routing.features import measures, terms
from lhrm_jax.routing.router import Examples, register, sigmoid

_LEAST_PROMPTS = 2  # that must hold a term
_MOST_TERMS = 20_000
_FASTTEXT = {"dim": 16, "epoch": 25, "lr": 0.5, "minCount": _LEAST_PROMPTS, "loss": "softmax",
             "thread": 1, "seed": 0, "verbose": 0}  # fmt: skip
_LABEL = "__label__"


@register("length")
@dataclasses.dataclass(frozen=True)
class Length:
  """Logistic regression on the logarithm of the prompt's length in characters.

  Attributes:
    weight: per unit of log(1 + characters).
    intercept: of the log-odds.
  """

  weight: float
  intercept: float

  @classmethod
  def fit(cls, examples: Examples) -> "Length":
    weights, intercept = _logistic(measures(examples.prompts)[:, :1], examples.think_better)
    return cls(float(weights[0]), intercept)

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    return sigmoid(self.weight * measures(prompts)[:, 0] + self.intercept)


@register("logistic")
@dataclasses.dataclass(frozen=True)
class Logistic:
  """Logistic regression on words, pairs of words, and counts such as length and numbers.

  Attributes:
    terms: log-odds added by each word or pair that the prompt holds.
    measures: weights of `features.MEASURES`.
    intercept: of the log-odds.
  """

  terms: Mapping[str, float]
  measures: tuple[float, ...]
  intercept: float

  @classmethod
  def fit(cls, examples: Examples) -> "Logistic":
    sparse = _needed("scipy.sparse")
    held = [set(terms(prompt)) for prompt in examples.prompts]
    counts = collections.Counter(term for of in held for term in of)
    known = [term for term, n in counts.most_common(_MOST_TERMS) if n >= _LEAST_PROMPTS]
    column = {term: i for i, term in enumerate(sorted(known))}
    pairs = [(row, column[term]) for row, of in enumerate(held) for term in of if term in column]
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    shape = (len(held), len(column))
    present = sparse.csr_matrix((np.ones(len(pairs)), (rows, columns)), shape=shape)
    weights, intercept = _logistic(
      sparse.hstack([present, measures(examples.prompts)]).tocsr(), examples.think_better
    )
    of_terms = weights[: len(column)].tolist()
    return cls(
      {term: w for term, w in zip(column, of_terms, strict=True) if w},
      tuple(weights[len(column) :].tolist()),
      intercept,
    )

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    held = [math.fsum(self.terms.get(t, 0.0) for t in set(terms(prompt))) for prompt in prompts]
    return sigmoid(held + measures(prompts) @ np.array(self.measures) + self.intercept)


@register("fasttext")
@dataclasses.dataclass(frozen=True)
class FastText:
  """fastText's classifier (https://arxiv.org/abs/1607.01759): the mean of embedded words and pairs.

  Two classes and a linear output leave of each embedding one number, its part of the log-odds.

  Attributes:
    terms: log-odds of a text of nothing but this word or pair.
    end: the same of fastText's end of a line, which every text has once.
    intercept: log-odds added to all, where the examples are of one kind; 0 otherwise.
  """

  terms: Mapping[str, float]
  end: float
  intercept: float = 0.0

  @classmethod
  def fit(cls, examples: Examples) -> "FastText":
    fasttext = _needed("fasttext")
    if (constant := _one_kind(examples.think_better)) is not None:
      return cls({}, 0.0, constant)
    labels = np.where(examples.think_better, "1", "0")
    lines = (
      " ".join([f"{_LABEL}{label}", *terms(prompt)])
      for label, prompt in zip(labels, examples.prompts, strict=True)
    )
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / "examples.txt"
      path.write_text("\n".join(lines) + "\n", encoding="utf-8")
      model = fasttext.train_supervised(str(path), label=_LABEL, **_FASTTEXT)
    towards = dict(zip(model.labels, model.get_output_matrix(), strict=True))
    direction = towards[f"{_LABEL}1"] - towards[f"{_LABEL}0"]
    values = (model.get_input_matrix()[: len(model.words)] @ direction).tolist()
    table = dict(zip(model.words, values, strict=True))
    return cls(table, table.pop("</s>"))

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    def log_odds(prompt: str) -> float:
      known = [self.terms[term] for term in terms(prompt) if term in self.terms]
      return math.fsum([*known, self.end]) / (len(known) + 1) + self.intercept

    return sigmoid(np.array([log_odds(prompt) for prompt in prompts]))


def _logistic(x, think_better: np.ndarray) -> tuple[np.ndarray, float]:
  """Weights and intercept of a logistic regression with an L2 penalty."""
  linear = _needed("sklearn.linear_model")
  if (constant := _one_kind(think_better)) is not None:
    return np.zeros(x.shape[1]), constant
  fitted = linear.LogisticRegression(max_iter=1000).fit(x, np.asarray(think_better, bool))
  return fitted.coef_[0], float(fitted.intercept_[0])


def _one_kind(think_better: np.ndarray) -> float | None:
  """Log-odds of examples that are all of one kind, by Laplace's rule; `None` for both kinds."""
  n, better = len(think_better), int(np.sum(think_better))
  return None if 0 < better < n else math.log((better + 1) / (n - better + 1))


def _needed(module: str) -> ModuleType:
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(
      f"this router is fitted with {module.partition('.')[0]}: pip install 'lhrm_jax[routing]'"
    ) from error

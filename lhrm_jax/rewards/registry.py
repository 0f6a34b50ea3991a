"""The registered rewards, and rewards made of several.

A reward is a plain function `reward_fn(prompt, response, answer) -> float`. A researcher's own is
registered in one line and named in the config:

```python
@rewards.register("short_proof")
def short_proof(prompt, response, answer): ...
```

A reward that is faster on many responses at once also has a method `score_batch(prompts, responses,
answers)`, which returns a list; one that runs on the accelerators has `on_device = True` (see
`scoring.Scorer`). One with `reads_earlier = True` is given, for a prompt with earlier messages, all
of them as pairs of role and content. One that needs answers in some form has `check(answer)`, which
raises `BadAnswer` on others: rows are checked before anything is sampled for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from lhrm_jax.registry import Registry
from lhrm_jax.text.responses import parse_response

RewardFn = Callable[[str, str, str], float]
ANY_SOURCE = "*"

REGISTRY: Registry[RewardFn] = Registry("reward")
register, get, names = REGISTRY.register, REGISTRY.get, REGISTRY.names


class RewardError(Exception):
  """A reward failed; the message names it, the response it failed on, and where."""


class CannotJudge(Exception):
  """A reward cannot judge any response: this ends the run, where other errors score 0."""


class BadAnswer(ValueError, CannotJudge):
  """A row's answer is not what its reward needs; raised by a reward and by its `check`."""


class Failed(float):
  """A score of 0 for a response that could not be judged, with the reason it is counted under.

  A reward returns it, or raises: either is counted as `reward/failed/REASON`.

  Attributes:
    reason: short name.
    detail: what happened, for a message.
    by_choice: whether the config asks for this score, so that no number of them ends the run.
  """

  reason: str
  detail: str
  by_choice: bool

  def __new__(cls, reason: str, detail: str = "", by_choice: bool = False):
    failed = super().__new__(cls, 0.0)
    failed.reason, failed.detail, failed.by_choice = reason, detail, by_choice
    return failed


def name_of(fn: RewardFn) -> str:
  """The name `fn` is registered under, else its own."""
  return REGISTRY.name_of(fn) or getattr(fn, "__name__", type(fn).__name__)


def parts_of(fn: RewardFn) -> list[RewardFn]:
  """The single rewards that `fn` consists of."""
  if isinstance(fn, Composed | BySource):
    return [single for part in fn.parts.values() for single in parts_of(part)]
  if isinstance(fn, ByQuery):
    return [*parts_of(fn.definite), *parts_of(fn.open_ended)]
  return [fn]


def check_answer(fn: RewardFn, answer: str, source: str = "") -> None:
  """Checks the answer of a row against all rewards that will see it.

  Args:
    fn: the run's reward.
    answer: the row's.
    source: the row's.

  Raises:
    BadAnswer: one of them cannot judge by it, or none is named for its source; says which.
  """
  if isinstance(fn, ByQuery):
    check_answer(fn.definite if has_answer(answer) else fn.open_ended, answer, source)
  elif isinstance(fn, BySource):
    check_answer(fn.parts[fn.name_for(source)], answer, source)
  elif isinstance(fn, Composed):
    for part in fn.parts.values():
      check_answer(part, answer, source)
  elif (check := getattr(fn, "check", None)) is not None:
    try:
      check(answer)
    except BadAnswer as error:
      raise BadAnswer(f"reward {name_of(fn)!r}: {error}") from error


@dataclasses.dataclass(frozen=True)
class ByQuery:
  """One scorer per query; made by `by_query`."""

  definite: RewardFn
  open_ended: RewardFn

  def __call__(self, prompt: str, response: str, answer: str) -> float:
    if not parse_response(response).well_formed:
      return 0.0
    chosen = self.definite if has_answer(answer) else self.open_ended
    return chosen(prompt, response, answer)


def by_query(definite: RewardFn | str, open_ended: RewardFn | str) -> ByQuery:
  """A reward that scores queries with a definite answer by a rule, others e.g. by a model.

  The query's own `answer` decides, so all responses to a query are compared on one scale.

  Args:
    definite: scores queries whose answer is not blank; a reward or a registered name.
    open_ended: scores the others.

  Raises:
    UnknownName: a name that is not registered.
  """
  rewards = (get(fn) if isinstance(fn, str) else fn for fn in (definite, open_ended))
  return ByQuery(*rewards)


@dataclasses.dataclass(frozen=True)
class BySource:
  """One reward per source of rows.

  Attributes:
    names: reward name by source; "*" stands for all other sources.
    parts: the rewards by name.
  """

  names: Mapping[str, str]
  parts: Mapping[str, RewardFn]

  def name_for(self, source: str) -> str:
    """The name of the reward that scores rows of `source`.

    Raises:
      BadAnswer: there is none.
    """
    name = self.names.get(source, self.names.get(ANY_SOURCE))
    if name is None:
      raise BadAnswer(
        f"reward_by_source names no reward for the source {source!r}: add it, or "
        f"{ANY_SOURCE!r} for all other sources; named are {', '.join(map(repr, self.names))}"
      )
    return name

  def __call__(self, prompt: str, response: str, answer: str) -> float:
    raise CannotJudge("rewards by source need the row; score with `scoring.Scorer`")


def has_answer(answer: str) -> bool:
  """Whether a row has a definite answer."""
  return bool(answer.strip())


@dataclasses.dataclass(frozen=True)
class Composed:
  """A weighted sum of rewards that keeps its parts; made by `compose`."""

  weights: Mapping[str, float]
  parts: Mapping[str, RewardFn]

  def components(self, prompt: str, response: str, answer: str) -> dict[str, float]:
    """Each reward by name, unweighted, and their weighted sum as `total`.

    All are 0 for a malformed response.
    """
    if not parse_response(response).well_formed:
      return dict.fromkeys((*self.parts, "total"), 0.0)
    scores = {name: float(fn(prompt, response, answer)) for name, fn in self.parts.items()}
    return {**scores, "total": sum(self.weights[name] * scores[name] for name in scores)}

  def __call__(self, prompt: str, response: str, answer: str) -> float:
    return self.components(prompt, response, answer)["total"]


def compose(weights: Mapping[str, float], **own: RewardFn) -> Composed:
  """Adds up rewards: `compose({"math": 1.0, "brevity": 0.1}, brevity=my_fn)`.

  Args:
    weights: the weight of each reward, by registered name or by a name in `own`.
    **own: rewards that are not registered.

  Raises:
    UnknownName: a name that is neither.
    ValueError: no weights, or the name `total`, which stands for the sum.
  """
  if not weights or "total" in weights:
    raise ValueError(f"compose({dict(weights)}): give one weight or more, and none named 'total'")
  parts = {name: own[name] if name in own else get(name) for name in weights}
  return Composed({name: float(weight) for name, weight in weights.items()}, parts)


def chosen(
  reward: str,
  weights: Mapping[str, float] | None = None,
  by_source: Mapping[str, str] | None = None,
  **own: RewardFn,
) -> RewardFn:
  """The reward that a config chooses.

  Args:
    reward: a registered name, or one in `own`, as the names in the next two.
    weights: a weighted sum in place of `reward`, see `compose`.
    by_source: reward name by source of rows, in place of both; "*" stands for all other sources.
    **own: rewards that are not registered, or take the place of registered ones.

  Raises:
    UnknownName: a name that is neither.
    ValueError: see `compose`.
  """
  if by_source:
    parts = {name: own.get(name) or get(name) for name in dict.fromkeys(by_source.values())}
    return BySource(dict(by_source), parts)
  return compose(weights, **own) if weights else own.get(reward) or get(reward)


def rescaled(fn: RewardFn, scale: str) -> RewardFn:
  """`fn` with the scores of its reward models on another scale (`scales.SCALES`).

  Raises:
    ValueError: there is no reward model in `fn`, or the scale needs what the model lacks.
  """
  if not any(hasattr(part, "with_scale") for part in parts_of(fn)):
    raise ValueError(f"there is no reward model in {name_of(fn)!r} whose scale could be {scale!r}")
  return _rescaled(fn, scale)


def _rescaled(fn: RewardFn, scale: str) -> RewardFn:
  if isinstance(fn, Composed):
    parts = {name: _rescaled(part, scale) for name, part in fn.parts.items()}
    return Composed(fn.weights, parts)
  if isinstance(fn, BySource):
    return BySource(fn.names, {name: _rescaled(part, scale) for name, part in fn.parts.items()})
  if isinstance(fn, ByQuery):
    return ByQuery(_rescaled(fn.definite, scale), _rescaled(fn.open_ended, scale))
  return fn.with_scale(scale) if hasattr(fn, "with_scale") else fn

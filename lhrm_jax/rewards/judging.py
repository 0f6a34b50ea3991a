"""Asks one reward about many responses; a response it fails on scores 0 and is counted."""

import collections
import dataclasses
import math
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from lhrm_jax.config import SHARE, knob, real
from lhrm_jax.rewards.registry import CannotJudge, Failed, RewardError, RewardFn

_LARGEST = 3.4e38  # of float32, which scores are kept in


@dataclasses.dataclass(frozen=True)
class JudgingConfig:
  """Knobs of judging, the section `judging` of a config."""

  deadline_s: float = knob(
    300.0,
    real(0, 86_400, above=True),
    "Seconds for the programs of one chunk of responses (reward `code`); responses not judged by "
    "then score 0 and are counted as `reward/failed/deadline`.",
  )
  max_failed_share: float = knob(
    0.1,
    SHARE,
    "Share of a reward's last 200 judgements, and at least 10, that may fail before the run ends. "
    "A response that its reward fails on scores 0 and is counted as `reward/failed/REASON`.",
  )


def judge(
  name: str,
  reward_fn: RewardFn,
  prompts: Sequence[Any],
  responses: Sequence[str],
  answers: Sequence[str],
) -> list[float]:
  """Scores of `responses`, in one call where the reward has `score_batch`.

  Args:
    name: of the reward, for messages.
    reward_fn: `reward_fn(prompt, response, answer) -> score`.
    prompts: one for each response, see `registry` for conversations.
    responses: whole texts, tags included.
    answers: one for each response.

  Returns:
    A finite score for each response, or a `Failed` where the reward raised or returned anything but
    a finite number. A batch that raises is scored again, one response at a time.

  Raises:
    RewardError: no response is at fault: the reward raised `CannotJudge`, or returned a number of
      scores other than that of responses.
  """
  if not responses:
    return []
  score_batch = getattr(reward_fn, "score_batch", None)
  if score_batch is None:
    return [
      _ask(name, lambda *one: [reward_fn(*one)], one)
      for one in zip(prompts, responses, answers, strict=True)
    ]
  about = f"a batch of {len(responses)}, the first of them {_short(responses[0])}"
  try:
    scores = list(score_batch(prompts, responses, answers))
  except CannotJudge as error:
    raise RewardError(_raised(name, about, error)) from error
  except (Exception, SystemExit):
    return [
      _ask(name, lambda p, r, a: score_batch([p], [r], [a]), one)
      for one in zip(prompts, responses, answers, strict=True)
    ]
  if len(scores) != len(responses):
    raise RewardError(f"reward {name!r} gave {len(scores)} scores for {about}.")
  return [
    finite(name, score, one)
    for score, one in zip(scores, zip(prompts, responses, answers, strict=True), strict=True)
  ]


def finite(name: str, score: object, of: tuple[str, str, str]) -> float:
  """`score` as a float, or a `Failed` where it is not a finite number.

  Args:
    name: of the reward.
    score: what it gave.
    of: the prompt, the response and the answer.
  """
  if isinstance(score, Failed):
    detail = score.detail or f"reward {name!r} could not judge ({score.reason}) {_about(of)}."
    return Failed(score.reason, detail, score.by_choice)
  try:
    value = float(score)
  except (Exception, SystemExit) as error:
    return Failed("raised", _raised(name, _about(of), error))
  if math.isfinite(value) and abs(value) <= _LARGEST:
    return value
  return Failed("not_finite", f"reward {name!r} gave {value} for {_about(of)}.")


class FailureBound:
  """Ends a run once too many judgements of a reward fail.

  Too many are more than `max_share` of its last 200, and at least 10; or all of its first three or
  more where each raised, which is a bug in the reward rather than a trick of the policy. Those that
  the config asks for (`Failed.by_choice`) are none.

  Args:
    max_share: of judgements that may fail.
  """

  _WINDOW, _LEAST, _FIRST = 200, 10, 3

  def __init__(self, max_share: float):
    self._max_share = max_share
    self._lock = threading.Lock()
    self._recent: dict[str, collections.deque] = {}

  def add(self, name: str, scores: Sequence[float]) -> None:
    """Counts judgements of one reward.

    Raises:
      RewardError: too many have failed; says how many, why, and on what the last one failed.
    """
    with self._lock:
      recent = self._recent.setdefault(name, collections.deque(maxlen=self._WINDOW))
      recent.extend(
        score if isinstance(score, Failed) and not score.by_choice else None for score in scores
      )
      failed = [score for score in recent if score is not None]
      reasons = dict(collections.Counter(score.reason for score in failed))
      if not failed:
        return
      if len(failed) == len(recent) >= self._FIRST and reasons.keys() == {"raised"}:
        raise RewardError(f"{failed[-1].detail} It has failed on every response so far.")
      if len(failed) >= self._LEAST and len(failed) > self._max_share * len(recent):
        raise RewardError(
          f"reward {name!r} failed on {len(failed)} of the last {len(recent)} responses "
          f"({', '.join(f'{reason}: {count}' for reason, count in reasons.items())}), more than "
          f"judging.max_failed_share={self._max_share:g} allows. The last: {failed[-1].detail}"
        )


def _ask(name: str, score_one, of: tuple[str, str, str]) -> float:
  try:
    scores = list(score_one(*of))
  except CannotJudge as error:
    raise RewardError(_raised(name, _about(of), error)) from error
  except (Exception, SystemExit) as error:
    return Failed("raised", _raised(name, _about(of), error))
  if len(scores) != 1:
    raise RewardError(f"reward {name!r} gave {len(scores)} scores for {_about(of)}.")
  return finite(name, scores[0], of)


def _raised(name: str, about: str, error: BaseException) -> str:
  frames = traceback.extract_tb(error.__traceback__)
  place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
  return f"reward {name!r} raised {type(error).__name__}: {error}{place} on {about}."


def _about(of: tuple[str, str, str]) -> str:
  prompt, response, answer = map(_short, of)
  return f"the response {response} to {prompt}, answer {answer}"


def _short(text: Any, limit: int = 200) -> str:
  text = text if isinstance(text, str) else text[-1][1]  # the last message of a conversation
  return repr(text) if len(text) <= limit else f"{text[:limit]!r}... ({len(text)} characters)"

"""Asks one reward about many responses, and says clearly what failed."""

import traceback
from collections.abc import Sequence

from lhrm_jax.rewards.registry import RewardError, RewardFn


def judge(
  name: str,
  reward_fn: RewardFn,
  prompts: Sequence[str],
  responses: Sequence[str],
  answers: Sequence[str],
) -> list[float]:
  """Scores of `responses`, in one call where the reward has `score_batch`.

  Args:
    name: of the reward, for messages.
    reward_fn: `reward_fn(prompt, response, answer) -> score`.
    prompts: one for each response.
    responses: whole texts, tags included.
    answers: one for each response.

  A score that is not finite is passed on: training skips and dumps the update it would spoil.

  Raises:
    RewardError: the reward raised, or gave something else than a number for each response.
  """
  if not responses:
    return []
  score_batch = getattr(reward_fn, "score_batch", None)
  if score_batch is not None:
    about = f"a batch of {len(responses)}, the first of them {_short(responses[0])}"
    try:
      scores = [float(score) for score in score_batch(prompts, responses, answers)]
    except (Exception, SystemExit) as error:
      raise _raised(name, about, error) from error
    if len(scores) != len(responses):
      raise RewardError(f"reward {name!r} gave {len(scores)} scores for {about}.")
  else:
    scores = []
    for prompt, response, answer in zip(prompts, responses, answers, strict=True):
      try:
        scores.append(float(reward_fn(prompt, response, answer)))
      except (Exception, SystemExit) as error:
        about = f"the response {_short(response)} to {_short(prompt)}, answer {_short(answer)}"
        raise _raised(name, about, error) from error
  return scores


def _raised(name: str, about: str, error: BaseException) -> RewardError:
  frames = traceback.extract_tb(error.__traceback__)
  place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
  return RewardError(f"reward {name!r} raised {type(error).__name__}: {error}{place} on {about}.")


def _short(text: str, limit: int = 200) -> str:
  return repr(text) if len(text) <= limit else f"{text[:limit]!r}... ({len(text)} characters)"

"""Rewards: functions that score a response.

Importing this package registers the built-in rewards and loads nothing heavy; the mathematics
verifier is imported by the first call that needs it.
"""

from lhrm_jax.rewards import rules, shaping
from lhrm_jax.rewards.registry import (
  BadAnswer,
  ByQuery,
  BySource,
  CannotJudge,
  Composed,
  Failed,
  RewardError,
  RewardFn,
  by_query,
  check_answer,
  chosen,
  compose,
  get,
  name_of,
  names,
  parts_of,
  register,
  rescaled,
)

__all__ = [
  "BadAnswer",
  "ByQuery",
  "BySource",
  "CannotJudge",
  "Composed",
  "Failed",
  "RewardError",
  "RewardFn",
  "by_query",
  "check_answer",
  "chosen",
  "compose",
  "get",
  "name_of",
  "names",
  "parts_of",
  "register",
  "rescaled",
  "rules",
  "shaping",
]

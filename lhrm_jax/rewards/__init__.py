"""Scorers: what a response is worth.

Importing this package registers the built-in rewards and loads nothing heavy; the mathematics
verifier comes with the first call that needs it.
"""

from lhrm_jax.rewards import rules, shaping
from lhrm_jax.rewards.registry import (
  ByQuery,
  Composed,
  RewardError,
  RewardFn,
  by_query,
  compose,
  get,
  name_of,
  names,
  register,
)

__all__ = [
  "ByQuery",
  "Composed",
  "RewardError",
  "RewardFn",
  "by_query",
  "compose",
  "get",
  "name_of",
  "names",
  "register",
  "rules",
  "shaping",
]

"""Scores of rollouts: text out of ids, one reward per response."""

from collections.abc import Sequence

import jax
import numpy as np

from lhrm_jax.data.schema import PromptRow
from lhrm_jax.rewards.registry import RewardFn
from lhrm_jax.sampling import STOPPED, Rollouts
from lhrm_jax.text import Tokenizer


def decode(tokenizer: Tokenizer, rollouts: Rollouts) -> list[str]:
  """Texts of all responses, tags kept, in the order of `[B, M, G]` flattened."""
  responses = np.asarray(rollouts.responses)
  flat = responses.reshape(-1, responses.shape[-1])
  lengths = np.asarray(rollouts.lengths).reshape(-1)
  return [
    tokenizer.decode(ids[:length].tolist()) for ids, length in zip(flat, lengths, strict=True)
  ]


def score(
  reward_fn: RewardFn, rows: Sequence[PromptRow], rollouts: Rollouts, texts: Sequence[str]
) -> np.ndarray:
  """Scores every response by its query's answer.

  Args:
    reward_fn: `reward_fn(prompt, response, answer) -> score`.
    rows: the `B` queries.
    rollouts: their responses.
    texts: `decode(tokenizer, rollouts)`.

  Returns:
    `[B, M, G]` float32. A response cut off by the length limit scores 0, whatever it says.
  """
  shape = rollouts.lengths.shape
  per_prompt = len(texts) // len(rows)
  stopped = np.asarray(jax.device_get(rollouts.finish_reason)).reshape(-1) == STOPPED
  scores = [
    reward_fn(rows[i // per_prompt].prompt, text, rows[i // per_prompt].answer) if ended else 0.0
    for i, (text, ended) in enumerate(zip(texts, stopped, strict=True))
  ]
  return np.asarray(scores, np.float32).reshape(shape)

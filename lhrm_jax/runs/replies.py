"""One question asked at a terminal: its prompt, and how replies are shown there."""

import numpy as np
from rich.text import Text

from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import LENGTH, Prompts, Rollouts
from lhrm_jax.text import Tokenizer, parse_response
from lhrm_jax.text.characters import printable


def prompt_of(
  question: str, tokenizer: Tokenizer, config: PolicyConfig, max_tokens: int
) -> tuple[Prompts, int]:
  """The question as a batch of one prompt, and the longest response that the policy has room for.

  Args:
    question: of the user.
    tokenizer: the policy's.
    config: the policy's.
    max_tokens: longest response wanted; 0 for as long as there is room.

  Raises:
    UserError: the tokenizer can't read it, or there is no room for a response.
  """
  with as_user_error(ValueError):
    ids = tokenizer.encode_prompt(question)
  room = config.max_positions - len(ids)
  if min(max_tokens or room, room) < 2:
    raise UserError(
      f"The prompt's {len(ids)} tokens leave no room in {config.max_positions} positions."
    )
  prompts = Prompts(
    np.array([ids], np.int32), np.array([len(ids)], np.int32), np.zeros(1, np.int32)
  )
  return prompts, min(max_tokens or room, room)


def shown(tokenizer: Tokenizer, rollouts: Rollouts) -> list[tuple[Text, str]]:
  """Each mode's first reply to the first prompt: its text, and its length and what is wrong."""
  found = []
  for m, length in enumerate(rollouts.lengths[0, :, 0]):
    text = tokenizer.decode(rollouts.responses[0, m, 0, :length].tolist())
    problem = parse_response(text).problem
    if rollouts.finish_reason[0, m, 0] == LENGTH:
      problem = "cut off"
    found.append(
      (as_text(text), f"{length} tokens" + (f"; malformed: {problem}" if problem else ""))
    )
  return found


def as_text(reply: str) -> Text:
  """A reply as a terminal may show it: what could move the cursor or do worse is escaped."""
  return Text(printable(reply, keep="\n\t"))

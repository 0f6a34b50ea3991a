"""Prompts and replies of questions asked at a terminal."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict
from rich.text import Text

from lhrm_jax.config import build, flatten, idle, section, section_problems
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import LENGTH, DialsConfig, Prompts, Rollouts
from lhrm_jax.text import Tokenizer, parse_response
from lhrm_jax.text.characters import printable


@dataclasses.dataclass(frozen=True)
class _Checked:
  dials: DialsConfig = section(DialsConfig)


@idle(_Checked, "dials.closing")
def _never_cut(c: _Checked) -> str:
  return "" if c.dials.budget else "dials.budget=0"


def dials_of(config: ConfigDict) -> DialsConfig:
  """Returns the checked section `dials` of a job that has no typed config.

  Raises:
    UserError: names each wrong key, its value and the values allowed.
  """
  values = {f"dials.{key}": value for key, value in flatten(config)}
  if found := section_problems(_Checked, values):
    raise UserError("\n  ".join(found))
  return build(_Checked, values).dials


def prompt_of(
  question: str, tokenizer: Tokenizer, config: PolicyConfig, max_tokens: int
) -> tuple[Prompts, int]:
  """Returns the question as a batch of one prompt, and the longest possible response in tokens.

  Args:
    question: text of the user.
    tokenizer: tokenizer of the policy.
    config: static part of the policy.
    max_tokens: longest response wanted; 0 for as many tokens as fit.

  Raises:
    UserError: it cannot be encoded, or leaves no room for a response.
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
  """Returns each mode's first reply to the first prompt: text, and length with any problem."""
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
  """Returns a reply that is safe to print: control characters are escaped."""
  return Text(printable(reply, keep="\n\t"))

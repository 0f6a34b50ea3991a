"""The built-in rewards: rules that compare the answer part of a response with the gold.

All return 1.0 or 0.0, and 0.0 for a malformed response (`text.parse_response`), however right its
text may be. `rewards.math.verify` is the same judge without that rule, for plain completions.
"""

from __future__ import annotations

import re
from fractions import Fraction

from lhrm_jax.rewards.registry import BadAnswer, CannotJudge, register
from lhrm_jax.text import boxes
from lhrm_jax.text.responses import parse_response


def _final(part: str) -> str | None:
  """The content of an answer part's last box; without a box, the whole part.

  `None` where that box is not closed, or holds another.
  """
  found = boxes.outermost(part)
  if not found:
    return part
  content = found[-1].content
  return None if content is None or boxes.outermost(content) else content


@register("exact_match")
def exact_match(prompt: str, response: str, answer: str) -> float:
  """1.0 where the answer part, or what its last box holds, is the gold's text."""
  del prompt
  part = parse_response(response).answer
  final = None if part is None else _final(part)
  return float(final is not None and final.strip() == answer.strip())


@register("guess")
def guess(prompt: str, response: str, answer: str) -> float:
  """1.0 where the guess of `data.guessing` is right, which its mode decides too."""
  del answer
  parsed = parse_response(response)
  if parsed.answer is None:
    return 0.0
  from lhrm_jax.data import guessing  # needs numpy, which judging otherwise does without

  return float(guessing.is_right(prompt, parsed.mode, parsed.answer.strip()))


@register("math")
def math(prompt: str, response: str, answer: str) -> float:
  """1.0 where the response commits to an answer equal in value to the gold (`math.verify`).

  An undecided verdict scores 0.0; `VerifierPool` tells those apart.
  """
  del prompt
  if parse_response(response).answer is None:
    return 0.0
  from lhrm_jax.rewards.math import verify  # not needed by runs that only use the other rewards

  return verify(answer, response).score


_NUMBER = re.compile(
  r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}|\s*/\s*\d+)?"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")


@register("numeric")
def numeric(prompt: str, response: str, answer: str) -> float:
  """1.0 where the last number of the answer part equals the gold to a relative 1e-6.

  For tasks whose gold is one number and whose answer part is short. Of several numbers
  the last counts, so a response cannot win by listing some.

  Raises:
    BadAnswer: the gold is not a number.
  """
  del prompt
  gold = _gold_number(answer)
  part = parse_response(response).answer
  if part is None:
    return 0.0
  given = _last_number(_final(part) or "")
  return float(given is not None and abs(given - gold) <= abs(gold) / 10**6)


def _gold_number(answer: str) -> Fraction:
  gold = _last_number(answer)
  if gold is None:
    raise BadAnswer(f"reward 'numeric' needs a number as answer, got {answer[:80]!r}")
  return gold


numeric.check = _gold_number


def _last_number(text: str) -> Fraction | None:
  found = _NUMBER.findall(_FRACTION.sub(r"\1/\2", text[-2000:].replace("\u2212", "-")))
  if not found:
    return None
  text = found[-1].replace(",", "").replace(" ", "")
  try:
    return Fraction(text) if len(text) <= 400 else None
  except (ValueError, ZeroDivisionError):
    return None


@register("code")
def code(prompt: str, response: str, answer: str) -> float:
  """1.0 where the last code block of the answer part passes the tests in `answer`, else 0.0.

  Raises:
    BadAnswer: `answer` is not in one of the forms `rewards.code` lists, or holds no test that can
      be judged.
    sandbox.SandboxUnavailable: this platform cannot isolate the program; nothing was run.
  """
  del prompt
  from lhrm_jax.rewards import code as tests

  return tests.score(response, answer)


def _check_tests(answer: str) -> None:
  from lhrm_jax.rewards import code as tests

  tests.check(answer)


code.check = _check_tests


@register("multiple_choice")
def multiple_choice(prompt: str, response: str, answer: str) -> float:
  """1.0 where the response picks the letter of the gold (`B`, `(B)`, `(B) text`) and no other.

  Raises:
    BadAnswer: the gold names no letter from A to J.
  """
  del prompt
  from lhrm_jax.rewards.math import choice, extract

  gold = _gold_letter(answer)
  part = parse_response(response).answer
  if part is None:
    return 0.0
  found = extract.find(part)
  if found is not None and found.how == "unclosed":
    return 0.0
  final = found is not None and found.how in ("box", "tag", "hash", "bare")
  picked = choice.picked(found.text) if final else choice.stated(part)
  return float(picked == gold[0])


def _gold_letter(answer: str):
  from lhrm_jax.rewards.math import choice

  gold = choice.letter_of(answer)
  if gold is None:
    raise BadAnswer(f"reward 'multiple_choice' needs a letter as answer, got {answer[:80]!r}")
  return gold


multiple_choice.check = _gold_letter


@register("reward_model")
def reward_model(prompt: str, response: str, answer: str) -> float:
  """Stands for the model of `config.reward_model`, which takes its place in a run.

  Raises:
    CannotJudge: there is no model.
  """
  del prompt, answer
  if parse_response(response).answer is None:
    return 0.0
  raise CannotJudge("reward 'reward_model' needs a model: set reward_model.init_from")


# Rewards whose scores are 0 or 1, so that a group's mean is a multiple of 1 / G.
BINARY = (exact_match, guess, math, numeric, code, multiple_choice)

"""A task on which it is known how often each mode is right, and a prompt's length says nothing.

A prompt is a kind and a number, such as `C: 40718833`; an answer is a guess of two digits. Which
guesses are right is a hash of prompt, mode and guess, so that no policy can learn them: it is right
as often as the kind says, in every sample anew. Thinking repeats the number first, which takes
tokens:

  kind                         A     B     C     D     E     F
  right by thinking           .95   .95   .95   .95   .95   .30
  right directly              .30   .50   .70   .80   .90   .02

So the gain of thinking is known for every prompt, and what a policy comes to choose can be held
against what its objective asks for (`objectives.mode_choice`).
"""

import dataclasses
import hashlib

import numpy as np

from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import CharacterTokenizer, tags

KINDS = "ABCDEF"
# Accuracy of each kind, by mode.
ACCURACY = {
  tags.THINK: (0.95, 0.95, 0.95, 0.95, 0.95, 0.3),
  tags.NO_THINK: (0.3, 0.5, 0.7, 0.8, 0.9, 0.02),
}
_DIGITS = 8
_PROMPTS, _DEMONSTRATIONS, _EVALUATION = range(3, 6)  # streams of random numbers


@dataclasses.dataclass(frozen=True)
class Guessing:
  """The guessing task; every row is a function of (seed, step). Levels are kinds, from 1.

  Attributes:
    think_prior: share of thinking that the HFT labels ask for, of every kind.
  """

  think_prior: float = 0.5
  notes: tuple[str, ...] = (
    "Levels are kinds of prompt, all of the same length: by thinking .95 (the last: .30) are "
    "right, directly .30, .50, .70, .80, .90 and .02.",
  )

  def tokenizer(self) -> CharacterTokenizer:
    """Characters."""
    return CharacterTokenizer(f"0123456789: {KINDS}")

  def prompts(self, seed: int, step: int, count: int) -> list[PromptRow]:
    """Training queries of one step."""
    rng = np.random.default_rng([_PROMPTS, seed, step])
    return [_row(int(rng.integers(len(KINDS))), _number(rng)) for _ in range(count)]

  def demonstrations(
    self, seed: int, step: int, think: int, no_think: int
  ) -> tuple[list[HFTRow], list[HFTRow]]:
    """HFT rows of one step, guesses in both modes. Tag weights set `think_prior`."""
    rng = np.random.default_rng([_DEMONSTRATIONS, seed, step])

    def draw(mode: int, count: int) -> list[HFTRow]:
      wanted = self.think_prior if mode == tags.THINK else 1 - self.think_prior
      weight = wanted * (think + no_think) / max(count, 1)
      rows = []
      for _ in range(count):
        prompt, guess = _row(int(rng.integers(len(KINDS))), _number(rng)).prompt, _number(rng)[:2]
        rows.append(HFTRow(prompt, respond(prompt, mode, guess), mode, weight))
      return rows

    return draw(tags.THINK, think), draw(tags.NO_THINK, no_think)

  def evaluation(self, count: int) -> list[PromptRow]:
    """The same `count` queries for every seed, kinds in turn."""
    rng = np.random.default_rng([_EVALUATION])
    return [_row(i % len(KINDS), _number(rng)) for i in range(count)]


def respond(prompt: str, mode: int, guess: str) -> str:
  """The whole response with a guess."""
  if mode == tags.NO_THINK:
    return f"<no_think>{guess}</no_think>"
  return f"<think>{prompt}</think>{guess}"


def is_right(prompt: str, mode: int, guess: str) -> bool:
  """Whether a guess is right: a hash of the arguments below the accuracy of the prompt's kind."""
  if prompt[:1] not in KINDS or len(guess) != 2 or not (guess.isascii() and guess.isdigit()):
    return False
  digest = hashlib.blake2b(f"{prompt}|{mode}|{guess}".encode(), digest_size=8).digest()
  return int.from_bytes(digest, "big") / 2**64 < ACCURACY[mode][KINDS.index(prompt[0])]


def _row(kind: int, number: str) -> PromptRow:
  # No answer is right in both modes: the reward asks `is_right`.
  return PromptRow(f"{KINDS[kind]}: {number}", "two digits", level=kind + 1, source="guessing")


def _number(rng: np.random.Generator) -> str:
  return "".join(map(str, rng.integers(0, 10, _DIGITS)))

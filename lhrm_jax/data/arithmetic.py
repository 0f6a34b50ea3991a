"""The embedded task: chains of small sums and products, graded by length.

A chain such as `3+4*7` is worked from left to right, and its answer is the last digit of the
result. Operands are 1 to 9, and a factor is 3, 7 or 9: multiplying by these permutes the last
digits, so no partial look at a chain gives its answer away. Levels:

  1  one operation                 4  three operations, at least one product
  2  `a+b+c`                       5  four, likewise
  3  two, at least one product     6  five, likewise

A tiny policy learns levels 1 to 3 by heart (they hold 108, 729 and 567 chains) and can answer them
at once; from level 4 on it must work step by step. So thinking costs tokens everywhere and
pays only from level 4 on, which is what HGPO has to find out.
"""

import dataclasses
import zlib

import numpy as np

from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import CharacterTokenizer, tags

LEVELS = (1, 2, 3, 4, 5, 6)
# From here on a level holds so many chains that a tenth can be kept for evaluation alone.
FIRST_HELD_OUT_LEVEL = 4
FACTORS = (3, 7, 9)

_TEMPLATE = "Left to right, last digit: what is {chain}?"
_ALPHABET = "0123456789+*=?:, "
# The fixed words are one token each, so that the chain makes up most of a prompt.
_WORDS = ("Left", " to", " right", " last", " digit", " what", " is", " so")

# Streams of random numbers that must never coincide.
_PROMPTS, _DEMONSTRATIONS, _EVALUATION = range(3)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
  """The arithmetic task; every row is a function of (seed, step).

  Attributes:
    level_mix: levels to draw from, each entry equally likely.
    direct_mix: likewise, for direct demonstrations. Half of them are of level 2, the skill that
      takes longest to appear, and few of level 3, which would otherwise be half learned.
    think_prior: for each level, the share of thinking that the HFT labels ask for.
  """

  level_mix: tuple[int, ...] = (1, 1, 1, 2, 2, 2, 3, 4, 5, 6)
  direct_mix: tuple[int, ...] = (1,) * 4 + (2,) * 11 + (3, 4, 4, 5, 5, 6)
  think_prior: tuple[float, ...] = (0.65, 0.65, 0.7, 0.9, 0.9, 0.9)
  notes: tuple[str, ...] = (
    "Levels 1 to 3 hold 108, 729 and 567 chains, few enough to be remembered: training sees them "
    "all, and the evaluation asks them again. From level 4 on a tenth of the chains is kept for "
    "evaluation and never trained on.",
  )

  def tokenizer(self) -> CharacterTokenizer:
    """Characters, with the fixed words of the prompt as one token each."""
    return CharacterTokenizer(_ALPHABET, _WORDS)

  def prompts(self, seed: int, step: int, count: int) -> list[PromptRow]:
    """Training queries of one step; chains kept for evaluation never occur."""
    rng = np.random.default_rng([_PROMPTS, seed, step])
    return [_prompt_row(*_draw(rng, self.level_mix)) for _ in range(count)]

  def demonstrations(
    self, seed: int, step: int, think: int, no_think: int
  ) -> tuple[list[HFTRow], list[HFTRow]]:
    """HFT rows of one step: `think` thinking responses and `no_think` direct ones.

    Tag weights make up for how often a mode occurs at a level, so that the policy learns
    `think_prior` over the levels of `level_mix`.
    """
    rng = np.random.default_rng([_DEMONSTRATIONS, seed, step])

    def draw(mode: int, count: int, mix: tuple[int, ...]) -> list[HFTRow]:
      rows = []
      for _ in range(count):
        level, chain = _draw(rng, mix)
        prior = self.think_prior[level - 1]
        wanted = _share(self.level_mix, level) * (prior if mode == tags.THINK else 1 - prior)
        drawn = _share(mix, level) * count / (think + no_think)
        rows.append(HFTRow(question(chain), respond(chain, mode), mode, wanted / drawn))
      return rows

    return (
      draw(tags.THINK, think, self.level_mix),
      draw(tags.NO_THINK, no_think, self.direct_mix),
    )

  def evaluation(self, count: int) -> list[PromptRow]:
    """The same `count` queries for every seed, levels in the shares of `level_mix`, no two alike
    as long as a level has that many chains.
    """
    rng = np.random.default_rng([_EVALUATION])
    rows, seen = [], set()
    for i in range(count):
      level = self.level_mix[i % len(self.level_mix)]
      for _ in range(100):
        chain = _draw_chain(rng, level, held_out=True)
        if chain not in seen:
          break
      seen.add(chain)
      rows.append(_prompt_row(level, chain))
    return rows


def question(chain: str) -> str:
  """The prompt that asks for a chain such as "3+4*7"."""
  return _TEMPLATE.format(chain=chain)


def running_results(chain: str) -> list[int]:
  """The last digit after every operation of a chain, from left to right."""
  result, digits = int(chain[0]), []
  for operator, operand in zip(chain[1::2], chain[2::2], strict=True):
    result = (result + int(operand) if operator == "+" else result * int(operand)) % 10
    digits.append(result)
  return digits


def respond(chain: str, mode: int) -> str:
  """The model response to a chain: every step with its running result, or the answer alone."""
  digits = running_results(chain)
  if mode == tags.NO_THINK:
    return f"<no_think>{digits[-1]}</no_think>"
  steps = zip(chain[1::2], chain[2::2], digits, strict=True)
  work = chain[0] + "".join(f"{operator}{operand}={digit}" for operator, operand, digit in steps)
  return f"<think>{work} so {digits[-1]}</think>{digits[-1]}"


def is_held_out(chain: str) -> bool:
  """Whether a chain is kept for evaluation: a tenth, by checksum, where the level has room."""
  operations = len(chain) // 2
  if _level_of(operations) < FIRST_HELD_OUT_LEVEL:
    return False
  return zlib.crc32(chain.encode()) % 10 == 0


def _level_of(operations: int) -> int:
  return 1 if operations == 1 else operations + 1


def _prompt_row(level: int, chain: str) -> PromptRow:
  answer = str(running_results(chain)[-1])
  return PromptRow(question(chain), answer, level, source="arithmetic")


def _share(mix: tuple[int, ...], level: int) -> float:
  return mix.count(level) / len(mix)


def _draw(rng: np.random.Generator, mix: tuple[int, ...]) -> tuple[int, str]:
  """Draws a level and a training chain of that level."""
  level = mix[rng.integers(len(mix))]
  return level, _draw_chain(rng, level, held_out=False)


def _draw_chain(rng: np.random.Generator, level: int, *, held_out: bool) -> str:
  while True:
    chain = _draw_any_chain(rng, level)
    if level < FIRST_HELD_OUT_LEVEL or is_held_out(chain) == held_out:
      return chain


def _draw_any_chain(rng: np.random.Generator, level: int) -> str:
  operations = {1: 1, 2: 2}.get(level, level - 1)
  if level == 2:
    operators = "++"
  else:
    operators = "".join(rng.choice(["+", "*"], operations))
    if level > 2 and "*" not in operators:
      return _draw_any_chain(rng, level)
  chain = str(rng.integers(1, 10))
  for operator in operators:
    operand = rng.choice(FACTORS) if operator == "*" else rng.integers(1, 10)
    chain += f"{operator}{operand}"
  return chain

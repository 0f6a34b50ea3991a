"""The task for a small pretrained policy: reasoning problems in families and levels.

Families and levels are those of `reasoning_families`. Thinking costs tokens everywhere and pays
more with each level: a small model can say the sum of two digits at once, but not that of six
numbers. In `tripling` the prompt is as long for the easiest problem as for the hardest, so that its
length can't decide the mode.
"""

import dataclasses
import zlib

import numpy as np

from lhrm_jax.data.reasoning_families import FAMILIES, Problem
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import tags

# Streams of random numbers that must never coincide.
_PROMPTS, _DEMONSTRATIONS, _EVALUATION = range(3)
_INDICES = 10**9


@dataclasses.dataclass(frozen=True)
class ReasoningTasks:
  """A mixture of families; every row is a function of (seed, step).

  Attributes:
    families: names to draw from uniformly; a name may appear several times.
    levels: levels of each family to draw from uniformly.
    cells: pairs of a family and a level to draw from uniformly, in place of `families` and
      `levels`; a pair may appear several times.
    notes: what a reader of the report must know.
  """

  families: tuple[str, ...] = tuple(FAMILIES)
  levels: tuple[int, ...] = (1, 2, 3, 4)
  cells: tuple[tuple[str, int], ...] = ()
  notes: tuple[str, ...] = (
    "Problems come from reasoning-gym's generators; prompts, worked solutions and exact answers "
    "are this project's own. A tenth of all problems, chosen by a checksum of the prompt, is kept "
    "for evaluation and never trained on.",
  )

  def __post_init__(self):
    unknown = sorted({*self.families, *(name for name, _ in self.cells)} - set(FAMILIES))
    if unknown:
      raise ValueError(f"Unknown families {unknown}; known: {', '.join(sorted(FAMILIES))}.")
    missing = [cell for cell in self.cells if not 1 <= cell[1] <= len(FAMILIES[cell[0]].levels)]
    if missing:
      raise ValueError(f"{missing[0][0]!r} has no level {missing[0][1]}.")

  def tokenizer(self) -> None:
    """`None`: these problems need a policy that can already read."""

  def prompts(self, seed: int, step: int, count: int) -> list[PromptRow]:
    """Training queries of one step."""
    rng = np.random.default_rng([_PROMPTS, seed, step])
    return [_prompt_row(*self._draw(rng, held_out=False)) for _ in range(count)]

  def demonstrations(
    self, seed: int, step: int, think: int, no_think: int
  ) -> tuple[list[HFTRow], list[HFTRow]]:
    """HFT rows of one step: `think` with the work, `no_think` with the answer alone.

    Tag weights make both modes count the same, whatever their numbers: the policy learns to choose
    either with probability 0.5, on every family and level.
    """
    rng = np.random.default_rng([_DEMONSTRATIONS, seed, step])
    batches = []
    for mode, count in ((tags.THINK, think), (tags.NO_THINK, no_think)):
      weight = (think + no_think) / (2 * count) if count else 1.0
      drawn = [self._draw(rng, held_out=False)[2] for _ in range(count)]
      batches.append([HFTRow(p.prompt, respond(p, mode), mode, weight) for p in drawn])
    return batches[0], batches[1]

  def evaluation(self, count: int) -> list[PromptRow]:
    """The same `count` held-out queries for every seed, no two alike, families and levels in turn.

    Raises:
      ValueError: a family and level has too few held-out problems.
    """
    rng = np.random.default_rng([_EVALUATION])
    cells = self.cells or [
      (name, level)
      for level in self.levels
      for name in self.families
      if level <= len(FAMILIES[name].levels)
    ]
    rows: list[PromptRow] = []
    seen: set[str] = set()
    for i in range(count):
      name, level = cells[i % len(cells)]
      for _ in range(10_000):
        problem = FAMILIES[name].problem(level, int(rng.integers(_INDICES)))
        if is_held_out(problem.prompt) and problem.prompt not in seen:
          break
      else:
        raise ValueError(
          f"{name}, level {level}, has too few problems for evaluation.prompts={count}: lower it."
        )
      seen.add(problem.prompt)
      rows.append(_prompt_row(name, level, problem))
    return rows

  def _draw(self, rng: np.random.Generator, *, held_out: bool) -> tuple[str, int, Problem]:
    while True:
      name, level = self._draw_cell(rng)
      problem = FAMILIES[name].problem(level, int(rng.integers(_INDICES)))
      if is_held_out(problem.prompt) == held_out:
        return name, level, problem

  def _draw_cell(self, rng: np.random.Generator) -> tuple[str, int]:
    if self.cells:
      return self.cells[rng.integers(len(self.cells))]
    name = self.families[rng.integers(len(self.families))]
    levels = [level for level in self.levels if level <= len(FAMILIES[name].levels)]
    return name, levels[rng.integers(len(levels))]


def respond(problem: Problem, mode: int) -> str:
  """The model response: the work and the answer, or the answer alone."""
  if mode == tags.NO_THINK:
    return f"<no_think>{problem.answer}</no_think>"
  return f"<think>{problem.work}</think>{problem.answer}"


def is_held_out(prompt: str) -> bool:
  """Whether a problem is kept for evaluation: a tenth, by checksum."""
  return zlib.crc32(prompt.encode()) % 10 == 0


def _prompt_row(name: str, level: int, problem: Problem) -> PromptRow:
  return PromptRow(problem.prompt, problem.answer, level, source=name)

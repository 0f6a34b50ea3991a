"""Small reasoning problems from `reasoning-gym`, each with the work that leads to its answer.

The generators are reasoning-gym's (https://github.com/open-thought/reasoning-gym); prompts, worked
solutions and answers are written here, so that an answer is one short text that an exact comparison
can judge: several of its own scorers evaluate the answer as code, or give credit for substrings.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Problem:
  """One problem.

  Attributes:
    prompt: what is asked.
    work: the steps that lead to the answer, as a thinking response writes them.
    answer: the only text that counts as right.
  """

  prompt: str
  work: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Family:
  """One kind of problem, in levels of growing difficulty.

  Attributes:
    generator: reasoning-gym's name of the data set; empty for one of our own.
    levels: for each level, from 1, the generator's settings.
    write: a `Problem` from an entry's question, answer and metadata; `None` for an entry that must
      not be used.
    size: entries of a level. Some generators keep a list of that length.
  """

  generator: str
  levels: tuple[Mapping[str, Any], ...]
  write: Callable[[Mapping[str, Any]], Problem | None]
  size: int = 10**9

  def problem(self, level: int, index: int) -> Problem:
    """Problem `index` of a level, or the next usable one."""
    settings = tuple(self.levels[level - 1].items())
    # Entry i is drawn with the seed plus i: levels that shared indices would share their numbers.
    first = (level - 1) * self.size
    while True:
      at = first + index % self.size
      if self.generator:
        entry = _dataset(self.generator, settings, len(self.levels) * self.size)[at]
      else:
        entry = {"metadata": {"index": at, **dict(settings)}}
      problem = self.write(entry)
      if problem is not None:
        return problem
      index += 1


@functools.cache
def _dataset(generator: str, settings: tuple[tuple[str, Any], ...], size: int):
  try:
    import reasoning_gym
  except ImportError as error:
    raise ImportError(
      "The reasoning tasks need reasoning-gym: pip install 'lhrm_jax[tasks]'."
    ) from error
  return reasoning_gym.create_dataset(generator, seed=0, size=size, **dict(settings))


def _letter_counting(entry: Mapping[str, Any]) -> Problem:
  letter, words = entry["metadata"]["target_letter"], entry["metadata"]["span"]
  total, lines = 0, []
  for word in words:
    total += word.lower().count(letter.lower())
    lines.append(f"{' '.join(word)}: {total}")
  prompt = f'How many times does the letter "{letter}" appear in "{" ".join(words)}"?'
  return Problem(prompt, "\n".join(lines), str(total))


def _spell_backward(entry: Mapping[str, Any]) -> Problem:
  word = entry["metadata"]["word"]
  work = f"{' '.join(word)}\n{' '.join(reversed(word))}"
  return Problem(f"Spell this word backward: {word}", work, word[::-1])


def _chain_sum(entry: Mapping[str, Any]) -> Problem:
  expression = entry["metadata"]["expression"]
  first, *rest = expression.split()
  total, lines = int(first), []
  for operator, operand in zip(rest[::2], rest[1::2], strict=True):
    result = total + int(operand) if operator == "+" else total - int(operand)
    lines.append(f"{total} {operator} {operand} = {result}")
    total = result
  return Problem(f"What is {expression}?", "\n".join(lines), str(total))


def _number_sorting(entry: Mapping[str, Any]) -> Problem:
  numbers = [int(float(number)) for number in entry["metadata"]["original_numbers"]]
  descending = entry["metadata"]["direction"] == "descending"
  pick, word = (max, "largest") if descending else (min, "smallest")
  left, lines = list(numbers), []
  while left:
    lines.append(f"{' '.join(map(str, left))}: {pick(left)}")
    left.remove(pick(left))
  prompt = f"Sort these numbers, {word} first: {', '.join(map(str, numbers))}"
  answer = ", ".join(map(str, sorted(numbers, reverse=descending)))
  return Problem(prompt, "\n".join(lines), answer)


_DIGITS = "0123456789abcdef"


def _base_conversion(entry: Mapping[str, Any]) -> Problem | None:
  meta = entry["metadata"]
  source, target, text = meta["source_base"], meta["target_base"], meta["source_repr"]
  value, lines = 0, []
  for digit in text:
    step = f"{value} * {source} + {_DIGITS.index(digit)}"
    value = value * source + _DIGITS.index(digit)
    lines.append(f"{step} = {value}")
  if source == 10:
    lines = []
  left, digits = value, ""
  while target != 10 and (left or not digits):
    lines.append(f"{left} / {target} = {left // target} rest {left % target}")
    digits = _DIGITS[left % target] + digits
    left //= target
  answer = str(value) if target == 10 else digits
  prompt = f"Convert {text} from base {source} to base {target}."
  return Problem(prompt, "\n".join(lines), answer)


def _gsm_symbolic(entry: Mapping[str, Any]) -> Problem | None:
  """A word problem with its worked solution; left out where its arithmetic doesn't check out."""
  work, mark, final = entry["metadata"]["answer_cot"].rpartition("####")
  answer = str(entry["answer"]).strip()
  if not mark or final.strip() != answer or not re.fullmatch(r"-?\d+", answer):
    return None
  plain = re.sub(r"\$|(?<=\d),(?=\d{3})", "", work).strip()  # $488,000 as 488000
  right = all(_holds(equation) for equation in _EQUATION.findall(plain))
  if not right or answer not in plain.splitlines()[-1]:
    return None
  prompt = entry["question"].replace("Give the result as your final answer. ", "")
  return Problem(prompt.replace("Do not include units.", "").strip(), work.strip(), answer)


_EQUATION = re.compile(
  r"(-?\d+(?:\.\d+)?)\s*([-+*/\u00d7])\s*(\d+(?:\.\d+)?)\s*=\s*(-?\d+(?:\.\d+)?)"
)


def _holds(equation: tuple[str, str, str, str]) -> bool:
  """Whether `a op b = c` is right, to the digits that are written."""
  a, operator, b, c = equation
  x, y = float(a), float(b)
  results = {"+": x + y, "-": x - y, "*": x * y, "\u00d7": x * y}
  result = results.get(operator, x / y if y else float("nan"))
  return abs(result - float(c)) <= 0.01 * max(1.0, abs(result))


def _tripling(entry: Mapping[str, Any]) -> Problem:
  """Tripling modulo 1000: the prompt is as long for one step as for nine.

  Of fewer numbers a policy would learn the answers of all problems by heart, and answer those it
  trains on, and only those, directly.
  """
  meta = entry["metadata"]
  start, extra = 100 + meta["index"] % 900, meta["index"] // 900
  steps = meta["min_steps"] + extra % (meta["max_steps"] - meta["min_steps"] + 1)
  value, lines = start, []
  for _ in range(steps):
    lines.append(f"{value} * 3 = {3 * value}")
    value = 3 * value % 1000
  prompt = f"Start with {start}. Triple it and keep the last three digits. Do this {steps} times."
  return Problem(prompt, "\n".join(lines), str(value))


def _levels(**settings: tuple) -> tuple[dict[str, Any], ...]:
  """For each level one value, or one (smallest, largest) pair, of every setting."""
  count = len(next(iter(settings.values())))
  levels: list[dict[str, Any]] = [{} for _ in range(count)]
  for name, values in settings.items():
    for level, value in zip(levels, values, strict=True):
      if isinstance(value, tuple):
        level[f"min_{name}"], level[f"max_{name}"] = value
      else:
        level[name] = value
  return tuple(levels)


FAMILIES: dict[str, Family] = {
  "letter_counting": Family(
    "letter_counting", _levels(words=((1, 2), (3, 4), (5, 7), (8, 10))), _letter_counting
  ),
  "spell_backward": Family(
    "spell_backward", _levels(word_len=((3, 3), (4, 5), (6, 7), (8, 10))), _spell_backward
  ),
  "chain_sum": Family(
    "chain_sum",
    _levels(terms=((2, 2), (3, 3), (4, 5), (6, 7)), digits=((1, 2), (1, 2), (1, 2), (2, 2))),
    _chain_sum,
  ),
  "number_sorting": Family(
    "number_sorting",
    _levels(
      numbers=((2, 3), (4, 5), (6, 7), (8, 10)), decimals=((0, 0),) * 4, value=((0, 99),) * 4
    ),
    _number_sorting,
  ),
  "base_conversion": Family(
    "base_conversion",
    _levels(base=((2, 10),) * 4, value=((2, 9), (10, 31), (32, 99), (100, 255))),
    _base_conversion,
  ),
  "gsm_symbolic": Family("gsm_symbolic", ({},), _gsm_symbolic, size=100_000),
  "tripling": Family("", _levels(steps=((1, 1), (2, 3), (4, 6), (7, 9))), _tripling),
}

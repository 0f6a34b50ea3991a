"""Draws a task's rows within the length limits; longer ones raise, are skipped or are cut.

All rows are a function of (seed, step), as the task's own are, so that a resumed run sees the same.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from lhrm_jax.data.batches import Encoded, encode, encode_prompts, prompt_ids
from lhrm_jax.data.config import LONG_DEMONSTRATIONS, LONG_PROMPTS
from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.data.tasks import Task
from lhrm_jax.text import Tokenizer, parse_response, tags

# Replacements come from steps that no run reaches.
_SPARE = 2**32
_ATTEMPTS = 100
# So do the queries of rounds of refilling, each with replacements of its own.
_REFILL = 2**40


@dataclasses.dataclass(frozen=True)
class DrawnPrompts:
  """The training queries of one step, encoded.

  Attributes:
    rows: `B` queries.
    encoded: tokens `[B, P]`, lengths `[B]` and ids `[B]`, see `batches.encode_prompts`.
    long: how many of the step's own were too long, and cut or replaced.
  """

  rows: list[PromptRow]
  encoded: tuple[np.ndarray, np.ndarray, np.ndarray]
  long: int


def draw_prompts(
  task: Task, tokenizer: Tokenizer, seed: int, step: int, count: int, *,
  max_tokens: int, long_prompts: str = "raise", refill: int = 0,
) -> DrawnPrompts:  # fmt: skip
  """Draws and encodes the training queries of one step.

  Args:
    task: where they come from.
    tokenizer: the policy's.
    seed: of the run.
    step: HGPO step.
    count: number of queries.
    max_tokens: `data.max_prompt_tokens`.
    long_prompts: one of `LONG_PROMPTS`.
    refill: round, from 1, that other queries are drawn for under the ids of the step's own.

  Raises:
    ValueError: `long_prompts` is unknown, hardly any query fits or, under "raise", one does not.
  """
  _check(long_prompts, LONG_PROMPTS, "long_prompts")
  at = step + refill * _REFILL
  rows = list(task.prompts(seed, at, count))
  ids = [prompt_ids(tokenizer, row) for row in rows]
  long = [i for i in range(count) if len(ids[i]) > max_tokens]
  if long_prompts == "truncate_left":
    for i in long:
      rows[i] = truncate_left(tokenizer, rows[i], max_tokens)
      ids[i] = prompt_ids(tokenizer, rows[i])
  elif long_prompts == "skip":
    _replace(rows, ids, long, _spares(task, seed, at, count), tokenizer, max_tokens)
  encoded = encode_prompts(tokenizer, rows, step * count, max_tokens, ids)
  return DrawnPrompts(rows, encoded, len(long))


def _spares(task: Task, seed: int, step: int, count: int) -> Iterator[PromptRow]:
  for attempt in range(1, _ATTEMPTS + 1):
    yield from task.prompts(seed, step + attempt * _SPARE, count)


def _replace(
  rows: list[PromptRow], ids: list[list[int]], long: Sequence[int], spares: Iterator[PromptRow],
  tokenizer: Tokenizer, max_tokens: int,
) -> None:  # fmt: skip
  """Puts spare rows that fit, and their ids, into the places `long`."""
  for i in long:
    for row in spares:
      rows[i], ids[i] = row, prompt_ids(tokenizer, row)
      if len(ids[i]) <= max_tokens:
        break
    else:
      raise ValueError(
        f"Hardly any prompt has at most data.max_prompt_tokens={max_tokens} tokens: raise the "
        "limit."
      )


def evaluation_prompts(
  task: Task, tokenizer: Tokenizer, count: int, *, max_tokens: int, long_prompts: str = "raise"
) -> tuple[list[PromptRow], int]:
  """The evaluation queries, at most `count`, and how many were too long: left out, or cut.

  Raises:
    ValueError: `long_prompts` is unknown, or none fits.
  """
  return within_limits(
    list(task.evaluation(count)), tokenizer, max_tokens=max_tokens, long_prompts=long_prompts
  )


def within_limits(
  rows: list[PromptRow], tokenizer: Tokenizer, *, max_tokens: int, long_prompts: str = "raise"
) -> tuple[list[PromptRow], int]:
  """Evaluation queries that fit, and how many were too long; as `evaluation_prompts`."""
  if _check(long_prompts, LONG_PROMPTS, "long_prompts") == "raise":
    return rows, 0
  fitting = [fits(tokenizer, row, max_tokens) for row in rows]
  long = fitting.count(False)
  if long_prompts == "truncate_left":
    return [
      row if fit else truncate_left(tokenizer, row, max_tokens)
      for row, fit in zip(rows, fitting, strict=True)
    ], long
  kept = [row for row, fit in zip(rows, fitting, strict=True) if fit]
  if not kept:
    raise ValueError(
      f"None of {len(rows)} evaluation prompts has at most data.max_prompt_tokens={max_tokens} "
      "tokens: raise the limit."
    )
  return kept, long


def fits(tokenizer: Tokenizer, row: PromptRow, max_tokens: int) -> bool:
  """Whether a prompt, chat template and earlier messages included, has at most `max_tokens`."""
  return len(prompt_ids(tokenizer, row)) <= max_tokens


def truncate_left(tokenizer: Tokenizer, row: PromptRow, max_tokens: int) -> PromptRow:
  """The row with the longest end of its prompt that fits.

  Earlier messages go first, oldest first, up to the user's next one; a system prompt stays.

  Raises:
    ValueError: the chat template and the system prompt alone are longer.
  """
  row = _without_oldest(tokenizer, row, max_tokens)
  first, last = 0, len(row.prompt)  # the cut at `last` fits
  while first < last:
    middle = (first + last) // 2
    if fits(tokenizer, _cut(row, middle), max_tokens):
      last = middle
    else:
      first = middle + 1
  return _cut(row, last)


def _cut(row: PromptRow, first: int) -> PromptRow:
  return dataclasses.replace(row, prompt=row.prompt[first:])


def _without_oldest(tokenizer: Tokenizer, row: PromptRow, max_tokens: int) -> PromptRow:
  """The row with as many of its latest earlier messages as leave room for a prompt."""
  roles = [role for role, _ in row.earlier]
  head = sum(1 for _ in itertools.takewhile(("system", "developer").__contains__, roles))
  starts = [i for i in range(head + 1, len(roles)) if roles[i] == "user"]
  for start in (head, *starts, len(roles)):
    kept = dataclasses.replace(row, earlier=(*row.earlier[:head], *row.earlier[start:]))
    bare = len(prompt_ids(tokenizer, _cut(kept, len(row.prompt))))
    if bare <= max_tokens:
      return kept
  raise ValueError(
    f"The chat template alone takes {bare} tokens, system prompt included, more than "
    f"data.max_prompt_tokens={max_tokens}: raise the limit."
  )


@dataclasses.dataclass(frozen=True)
class Demonstrations:
  """The encoded demonstrations of one HFT step.

  Attributes:
    think: the thinking demonstrations.
    no_think: the direct ones.
    long: number of the step's own that were too long, and replaced.
  """

  think: list[Encoded]
  no_think: list[Encoded]
  long: int


def draw_demonstrations(
  task: Task, tokenizer: Tokenizer, seed: int, step: int, counts: tuple[int, int], *,
  max_tokens: tuple[int, int], long_demonstrations: str = "raise",
) -> Demonstrations:  # fmt: skip
  """Draws and encodes the demonstrations of one step.

  Args:
    task: where they come from.
    tokenizer: the policy's.
    seed: of the run.
    step: HFT step.
    counts: numbers of thinking and of direct ones.
    max_tokens: most tokens of a thinking and of a direct one, prompt and end of sequence included.
    long_demonstrations: one of `LONG_DEMONSTRATIONS`.

  Raises:
    ValueError: `long_demonstrations` is unknown; a demonstration is malformed
      (`text.parse_response`) or, under "raise", too long; or hardly any fits.
  """
  _check(long_demonstrations, LONG_DEMONSTRATIONS, "long_demonstrations")
  kept: tuple[list[Encoded], list[Encoded]] = ([], [])
  long = 0
  for attempt in range(_ATTEMPTS):
    by_mode = task.demonstrations(seed, step + attempt * _SPARE, *counts)
    for mode, rows in enumerate(by_mode):
      for row in rows:
        if len(kept[mode]) == counts[mode]:
          break
        _check_form(row, mode)
        sequence = encode(tokenizer, row)
        if len(sequence.ids) <= max_tokens[mode]:
          kept[mode].append(sequence)
        elif long_demonstrations == "raise":
          raise ValueError(_too_long(row, sequence, max_tokens[mode]))
        else:
          long += attempt == 0
    if tuple(map(len, kept)) == tuple(counts):
      return Demonstrations(*kept, long)
  raise ValueError(
    f"Hardly any demonstration has at most {max_tokens[0]} (thinking) or {max_tokens[1]} (direct) "
    "tokens: raise data.max_prompt_tokens, data.max_response_tokens or data.max_no_think_tokens, "
    "or hft.packed_length where it is set."
  )


def _check_form(row: HFTRow | Encoded, mode: int) -> None:
  if isinstance(row, Encoded):  # checked when it was prepared
    return
  parsed = parse_response(row.response)
  problem = parsed.problem
  if not problem and parsed.mode != mode:
    problem = f"opens {tags.OPENING_TAGS[parsed.mode]} among those of mode {tags.MODES[mode]}"
  if problem:
    raise ValueError(
      f"The response of a demonstration {problem}: {row.response[:60]!r}, to {row.prompt[:60]!r}. "
      "Write <think>reasoning</think>answer or <no_think>answer</no_think>, and no further tags."
    )


def _too_long(row: HFTRow | Encoded, sequence: Encoded, most: int) -> str:
  which = "one of the prepared shards" if isinstance(row, Encoded) else repr(row.prompt[:60])
  return (
    f"A demonstration has {len(sequence.ids)} tokens, more than the {most} that fit: "
    f"{which}. Raise data.max_response_tokens (data.max_no_think_tokens for direct "
    "responses; hft.packed_length where it is set), or set data.long_demonstrations='skip'."
  )


def _check(value: str, allowed: Sequence[str], key: str) -> str:
  if value not in allowed:
    raise ValueError(f"data.{key}={value!r} is not one of {', '.join(allowed)}.")
  return value

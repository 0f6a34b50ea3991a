"""Writes every training rollout as a line of JSON, and shows a few as text."""

import json
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from lhrm_jax.data.schema import PromptRow
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.sampling import FINISH_REASONS, Rollouts
from lhrm_jax.text import TagIds, tags
from lhrm_jax.text.characters import printable


def write_rollouts(
  path: pathlib.Path,
  step: int,
  rows: Sequence[PromptRow],
  rollouts: Rollouts,
  texts: Sequence[str],
  scores: np.ndarray,
  rewards: tuple[np.ndarray, np.ndarray] | None,
  advantages: Advantages,
  tag_ids: TagIds,
) -> None:
  """Appends `B * M * G` lines.

  Args:
    path: the file; one per run or step, as the caller likes.
    step: of the update these rollouts are for.
    rows: the `B` queries.
    rollouts: on the host (numpy leaves).
    texts: flattened `[B, M, G]`.
    scores: `[B, M, G]`.
    rewards: `r_inter` and `r_intra`, `[B, M, G]`, where the advantage has them.
    advantages: `[B, M, G]`.
    tag_ids: to name each response's mode.
  """
  lines = []
  for flat, (b, m, g) in enumerate(np.ndindex(*scores.shape)):
    ids = rollouts.responses[b, m, g, : rollouts.lengths[b, m, g]].tolist()
    mode = tag_ids.mode_of(ids[0])
    line = {
      "step": step,
      "prompt_id": int(rollouts.prompts.ids[b]),
      "prompt": rows[b].prompt,
      "answer": rows[b].answer,
      "level": rows[b].level,
      "mode": tags.MODES[mode] if mode != tags.INVALID_MODE else "invalid",
      "sample": g,
      "text": texts[flat],
      "token_ids": ids,
      "finish_reason": FINISH_REASONS[rollouts.finish_reason[b, m, g]],
      "score": _number(scores[b, m, g]),
      "advantage_tag": _number(advantages.tag[b, m, g]),
      "advantage_body": _number(advantages.body[b, m, g]),
      "policy_version": int(rollouts.policy_version),
    }
    if rewards is not None:
      line["r_inter"], line["r_intra"] = (_number(r[b, m, g]) for r in rewards)
    lines.append(json.dumps(line, ensure_ascii=False))
  # A lone surrogate, which UTF-8 lacks, becomes the escape that JSON has for it.
  with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
    file.write("\n".join(lines) + "\n")


def _number(x: np.ndarray) -> float | str:
  """JSON has no name for what is not finite."""
  return float(x) if np.isfinite(x) else str(x)


def as_markdown(
  rows: Sequence[PromptRow], texts: Sequence[str], scores: np.ndarray, prompts: int = 6
) -> str:
  """A table of the first prompts with one response of each mode, marked right or wrong."""
  _, modes, samples = scores.shape
  titles = tags.MODES if modes == len(tags.MODES) else ("free",)
  lines = [
    "| level | prompt | answer | " + " | ".join(map(literal, titles)) + " |",
    "|---" * (3 + len(titles)) + "|",
  ]
  for b, row in enumerate(rows[:prompts]):
    cells = []
    for m in range(modes):
      mark = "**✓**" if scores[b, m, 0] > 0.5 else "**✗**"
      cells.append(f"{mark} {literal(texts[(b * modes + m) * samples])}")
    cells = [str(row.level), literal(row.prompt), literal(row.answer), *cells]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def literal(text: str) -> str:
  """Text of anybody as Markdown that shows it as it is, within a cell of a table.

  Nothing in it is markup: no emphasis, cell, link or picture, and no HTML.
  """
  lines = printable(text, keep="\n\t").replace("\t", "  ").split("\n")
  return "<br>".join(map(_literal_line, lines))


def _literal_line(line: str) -> str:
  line = re.sub(" (?= )|^ | $", "\u00a0", line)  # browsers run spaces together
  # An escaped bar or backquote still splits cells or opens code in some renderers; entities don't.
  line = re.sub(r"[\\`|<>&]", lambda match: f"&#{ord(match[0])};", line)
  return re.sub(r"[*_\[\]()!]", r"\\\g<0>", line)

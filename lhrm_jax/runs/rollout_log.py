"""Writes every training rollout as a line of JSON, and shows a few as Markdown."""

import pathlib
import re

from lhrm_jax import parallel
from lhrm_jax.rewards.rollout_files import write_rollouts
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.runs.config import HGPO
from lhrm_jax.runs.metric_writer import MetricWriter
from lhrm_jax.text import tags
from lhrm_jax.text.characters import printable

_SHOW_EVERY = 10  # steps


class RolloutLog:
  """The rollouts of a run: all of them in `rollouts/train.jsonl`, a few in TensorBoard."""

  def __init__(self, workdir: pathlib.Path, writer: MetricWriter):
    self._path, self._writer = workdir / "rollouts" / "train.jsonl", writer

  def write(self, step: int, scored: ScoredRollouts) -> None:
    """Logs the rollouts of the update that made step number `step`."""
    if parallel.is_writer():
      write_rollouts(self._path, step, scored)
    if (step - 1) % _SHOW_EVERY == 0:
      self._writer.text(HGPO, "rollouts", as_markdown(scored), step)


def as_markdown(scored: ScoredRollouts, prompts: int = 6) -> str:
  """Returns a table of the first prompts with one response per mode, marked right or wrong."""
  modes = scored.scores.shape[1]
  titles = tags.MODES if modes == len(tags.MODES) else ("free",)
  lines = [
    "| level | prompt | answer | " + " | ".join(map(literal, titles)) + " |",
    "|---" * (3 + len(titles)) + "|",
  ]
  for row, scores, texts in list(zip(scored.rows, scored.scores, scored.texts, strict=True))[
    :prompts
  ]:
    marks = ("**✓**" if score > 0.5 else "**✗**" for score in scores[:, 0])
    replies = (f"{m} {literal(text)}" for m, text in zip(marks, texts[:, 0], strict=True))
    cells = [str(row.level), literal(row.prompt), literal(row.answer), *replies]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def literal(text: str) -> str:
  """Escapes untrusted text so that a Markdown table cell shows it literally.

  Nothing in it acts as markup: no emphasis, cell, link, picture or HTML.
  """
  lines = printable(text, keep="\n\t").replace("\t", "  ").split("\n")
  return "<br>".join(map(_literal_line, lines))


def _literal_line(line: str) -> str:
  line = re.sub(" (?= )|^ | $", "\u00a0", line)  # browsers collapse spaces
  # An escaped bar or backquote still splits cells or opens code in some renderers; entities don't.
  line = re.sub(r"[\\`|<>&]", lambda match: f"&#{ord(match[0])};", line)
  return re.sub(r"[*_\[\]()!]", r"\\\g<0>", line)

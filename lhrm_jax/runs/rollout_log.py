"""Writes every training rollout as a line of JSON, and shows a few as Markdown."""

import pathlib
import re

from lhrm_jax import parallel
from lhrm_jax.rewards.rollout_files import write_rollouts
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.runs.metric_writer import MetricWriter
from lhrm_jax.runs.setup import HGPO
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


def write_rollouts(path: pathlib.Path, step: int, scored: ScoredRollouts) -> None:
  """Appends a line for each of the `B * M * G` responses.

  Args:
    path: file to append to.
    step: training step that these rollouts are for.
    scored: rollouts with their advantages.
  """
  rollouts, found = scored.rollouts, scored.advantages
  lines = []
  for at in np.ndindex(*scored.scores.shape):
    row, mode = scored.rows[at[0]], scored.modes[at]
    line = {
      "step": step,
      "prompt_id": int(rollouts.prompts.ids[at[0]]),
      "prompt": row.prompt,
      "answer": row.answer,
      "level": row.level,
      "mode": tags.MODES[mode] if mode != tags.INVALID_MODE else "invalid",
      "sample": at[2],
      "text": scored.texts[at],
      "token_ids": rollouts.responses[at][: rollouts.lengths[at]].tolist(),
      "finish_reason": FINISH_REASONS[rollouts.finish_reason[at]],
      "score": _number(scored.scores[at]),
      "advantage_tag": _number(found.tag[at]),
      "advantage_body": _number(found.body[at]),
      "policy_version": int(rollouts.policy_version),
    }
    if found.r_inter is not None:
      line |= {"r_inter": _number(found.r_inter[at]), "r_intra": _number(found.r_intra[at])}
    lines.append(json.dumps(line, ensure_ascii=False))
  # A lone surrogate, which UTF-8 cannot encode, becomes its JSON escape.
  with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
    file.write("\n".join(lines) + "\n")


def _number(x: np.ndarray) -> float | str:
  """Returns a float, or text for non-finite values, which JSON lacks."""
  return float(x) if np.isfinite(x) else str(x)


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

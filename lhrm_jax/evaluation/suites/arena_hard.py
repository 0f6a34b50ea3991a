"""Arena-Hard v2.0: 750 hard or creative prompts (https://arxiv.org/abs/2406.11939).

The questions come without a baseline: put its answers into a column `baseline`, or name the file of
its answers, as the project ships them, with `evaluation.judge.baseline`.
"""

import json
from collections.abc import Mapping

from lhrm_jax.data import sources
from lhrm_jax.data.fields import BadRow, Fields, text_field
from lhrm_jax.data.sources import Source
from lhrm_jax.evaluation.suites.suite import JUDGE, SuiteRow, register, row


@register("arena_hard", "lmarena-ai/arena-hard-v2.0", "train", scorer=JUDGE)
def read(fields: Fields) -> SuiteRow:
  """A row with `baseline`; see `with_baseline`."""
  if "baseline" not in fields:
    raise BadRow("no 'baseline': name the file of its answers with evaluation.judge.baseline")
  return row(
    "arena_hard", text_field(fields, "prompt"), text_field(fields, "baseline"),
    subject=fields.get("category"),
  )  # fmt: skip


def with_baseline(fields: Fields, answers: Mapping[str, str]) -> Fields:
  """A question with its baseline's answer.

  Raises:
    BadRow: there is none.
  """
  uid = text_field(fields, "uid")
  if uid not in answers:
    raise BadRow(f"the baseline has no answer to uid={uid!r}")
  return {**fields, "baseline": answers[uid]}


def baseline_answers(path: str) -> Mapping[str, str]:
  """A baseline's answers by `uid`.

  Args:
    path: JSON lines as the project ships them: `uid` and `messages`, whose last one is the answer.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a row is bad, with file and line.
  """
  return dict(sources.load(Source(path), _answer).rows)


def _answer(fields: Fields) -> tuple[str, str]:
  messages = fields.get("messages")
  try:
    content = messages[-1]["content"]
    content = content if isinstance(content, str) else content["answer"]
  except (TypeError, KeyError, IndexError):
    raise BadRow("'messages' does not end with an answer") from None
  if not isinstance(content, str) or not content.strip():
    raise BadRow(f"the answer is no text: {json.dumps(content)[:60]}")
  return text_field(fields, "uid"), content

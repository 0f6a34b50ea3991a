"""Packs an evaluation's replies into a page: compressed blocks that templates/browser.js reads.

Measured with 100,000 prompts of three replies each (see docs/report.md): base64 of gzip is a
third of the plain text and one file opens from disk, where a page may not fetch a second one. The
columns to filter by are one small block; texts are blocks of about 2 MB, so that a page of the
browser unpacks one and a search unpacks one after the other without holding up the window.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lhrm_jax.evaluation.sample_table import RIGHT, SampleTable
from lhrm_jax.evaluation.samples import PASSES
from lhrm_jax.text import tags

# Characters of all the texts in a page; what is longer loses its middle. A page of this size opens
# in seconds, and a browser keeps all of it in memory for searching.
MOST_CHARACTERS = 100_000_000
_BLOCK = 2_000_000  # characters
_LEVEL = 6  # of gzip


def blocks(table: SampleTable, stage: str, label: str) -> Iterator[tuple[str, str]]:
  """Yields the blocks of one stage as (id of its element, base64 text).

  The first holds the columns; the others the texts: each prompt followed by its replies.

  Args:
    table: prompts and replies.
    stage: name of the stage, unique in the page.
    label: how the page calls it.
  """
  starts = np.searchsorted(table.row, np.arange(len(table.prompts) + 1))
  sizes = [len(record.prompt) for record in table.prompts]
  of_texts = np.concatenate([[0], np.cumsum([len(text) for text in table.texts])]).astype(np.int64)
  characters = np.cumsum(sizes) + of_texts[starts[1:]]
  number = (characters // _BLOCK).astype(int)  # of each prompt's block; some may have no prompt
  firsts = [int(i) for i in np.flatnonzero(np.diff(number, prepend=-1))]
  yield f"{stage}-columns", _packed(_columns(table, starts, firsts) | {"label": label})
  for i, (first, end) in enumerate(zip(firsts, [*firsts[1:], len(table.prompts)], strict=True)):
    texts: list[str] = []
    for k in range(first, end):
      texts.append(table.prompts[k].prompt)
      texts += table.texts[starts[k] : starts[k + 1]]
    yield f"{stage}-{i}", _packed(texts)


def _columns(table: SampleTable, starts: np.ndarray, firsts: list[int]) -> dict[str, Any]:
  prompts = table.prompts
  return {
    "passes": PASSES,
    "modes": tags.MODES,
    "right": RIGHT,
    "keptCharacters": table.kept_characters,
    "leftOut": table.left_out,
    "firsts": firsts,
    "prompts": {
      "id": [record.prompt_id for record in prompts],
      "level": [record.level for record in prompts],
      "answer": [str(record.answer) for record in prompts],
      "chosen": table.chosen.tolist(),
      **{
        name: [_rounded(getattr(record, name)) for record in prompts]
        for name in ("p_think", "p_neither")
      },
      **{
        name: _coded([str(getattr(record, name)) for record in prompts])
        for name in ("suite", "subject", "source")
      },
    },
    "replies": {
      "count": np.diff(starts).tolist(),
      "pass": table.passes.tolist(),
      "mode": table.modes.tolist(),
      "score": [_rounded(score) for score in table.scores.tolist()],
      "tokens": table.tokens.tolist(),
      "flags": table.flags.tolist(),
    },
  }


def _coded(values: list[str]) -> Mapping[str, Any]:
  """Strings as places in the list of those that occur."""
  names = sorted(set(values))
  places = {name: i for i, name in enumerate(names)}
  return {"names": names, "codes": [places[value] for value in values]}


def _rounded(value: Any) -> float | None:
  number = round(float(value), 4)
  return number if np.isfinite(number) else None


def _packed(content: Any) -> str:
  # ASCII, so that lone surrogates, which UTF-8 lacks, come through as escapes.
  plain = json.dumps(content, separators=(",", ":")).encode("ascii")
  return base64.b64encode(gzip.compress(plain, _LEVEL, mtime=0)).decode("ascii")

"""Knobs of the data: limits on length, and the sources of the task `rows`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lhrm_jax.config import (
  MOST_TOKENS,
  NAMES,
  SHARES,
  SOURCES,
  TEXT,
  knob,
  one_of,
  real,
  whole,
)

# "raise" ends the run, "skip" takes another row in its place, "truncate_left" cuts the beginning of
# the user's text (never the chat template around it).
LONG_PROMPTS = ("raise", "skip", "truncate_left")
# A demonstration is never cut: a response without its end would teach the policy not to stop.
LONG_DEMONSTRATIONS = ("raise", "skip")
ON_BAD_ROW = ("raise", "skip")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The section `data` of a config."""

  max_prompt_tokens: int = knob(
    512, whole(1, MOST_TOKENS), "Longest prompt, chat template and earlier messages included."
  )
  max_response_tokens: int = knob(
    1024, whole(2, MOST_TOKENS), "Longest response, tag and end of sequence included."
  )
  max_no_think_tokens: int = knob(
    256,
    whole(2, MOST_TOKENS),
    "Longest direct demonstration; unless packed, these have batches of their own.",
  )
  long_prompts: str = knob(
    "raise",
    one_of(*LONG_PROMPTS),
    'Handling of longer prompts: "raise" ends the run, "skip" takes another row, "truncate_left" '
    "drops the beginning of the user's text.",
  )
  long_demonstrations: str = knob(
    "raise", one_of(*LONG_DEMONSTRATIONS), "Handling of longer demonstrations."
  )
  demonstrations: str = knob(
    "",
    NAMES,
    "Sources of HFT's demonstrations, separated by commas (docs/data.md). This key and those below "
    "belong to the task `rows`.",
  )
  prompts: str = knob("", NAMES, "Sources of HGPO's prompts.")
  evaluation: str = knob(
    "",
    NAMES,
    'Sources of the evaluation; "" holds out a tenth of `data.prompts`.',
  )
  sources: Mapping[str, Any] = knob(
    {}, SOURCES, 'Your own sources, as {"mine": {"path": "mine.jsonl"}}.'
  )
  on_bad_row: str = knob(
    "raise",
    one_of(*ON_BAD_ROW),
    'Handling of malformed rows; "skip" counts them by reason.',
  )
  root: str = knob(
    "",
    TEXT,
    "Folder or URL of data that experiments.prepare_data wrote: prompts and demonstrations are "
    "then its sources of these names.",
  )
  weights: Mapping[str, float] = knob(
    {},
    SHARES,
    'Weights of the rows of a source, as {"aime": 3.0}: they come so many times as often as those '
    "of sources that are not named.",
  )
  epochs: Mapping[str, float] = knob(
    {},
    SHARES,
    'Most epochs of a source, as {"aime": 4.0}; "*" stands for all others. A source at its limit '
    "leaves the rest to the others.",
  )
  warn_epochs: float = knob(
    4.0, real(0, above=True), "Epochs of a source within a stage from which a warning says so."
  )

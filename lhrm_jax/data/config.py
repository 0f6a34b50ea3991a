"""Knobs of the data: limits on length, and the sources of the task `rows`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lhrm_jax.config import MOST_TOKENS, NAMES, SOURCES, knob, one_of, whole

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
    "Longest direct demonstration: these are batched apart from thinking ones, unless packed.",
  )
  long_prompts: str = knob(
    "raise",
    one_of(*LONG_PROMPTS),
    'What happens to longer prompts: "raise" ends the run, "skip" takes another, "truncate_left" '
    "cuts the beginning of the user's text.",
  )
  long_demonstrations: str = knob(
    "raise", one_of(*LONG_DEMONSTRATIONS), "What happens to longer demonstrations."
  )
  demonstrations: str = knob(
    "",
    NAMES,
    "Sources of HFT's demonstrations, with commas between them (docs/data.md). This key and those "
    "below are of the task `rows`.",
  )
  prompts: str = knob("", NAMES, "Sources of HGPO's queries.")
  evaluation: str = knob(
    "",
    NAMES,
    'Sources of the evaluation; "" keeps a tenth of `data.prompts` out of training for it.',
  )
  sources: Mapping[str, Any] = knob(
    {}, SOURCES, 'Sources of your own, as {"mine": {"path": "mine.jsonl"}}.'
  )
  on_bad_row: str = knob(
    "raise", one_of(*ON_BAD_ROW), '"skip" leaves malformed rows out, counted by reason.'
  )

"""Which of many responses are well formed, and rates of malformed, empty and leaking ones."""

import re
from collections.abc import Sequence

import numpy as np

from lhrm_jax.text import tags
from lhrm_jax.text.responses import parse_response
from lhrm_jax.text.tokenizer import TagIds

# Words of thinking aloud. In direct answers they show that reasoning leaked into them; the list is
# short, so the rate shows a trend over training and does not count thoughts.
REASONING_MARKERS = ("wait", "let me", "step", "therefore", "hmm")
_MARKER = re.compile(r"\b(?:" + "|".join(REASONING_MARKERS) + r")\b", re.IGNORECASE)


def well_formed(
  texts: Sequence[str], first_ids: np.ndarray, tag_ids: TagIds | None = None
) -> np.ndarray:
  """Whether each response is well formed, `[N]` bool. Mask those cut off: none of them is.

  Args:
    texts: `N` decoded responses, tags kept, without end of sequence and padding.
    first_ids: `[N]` int, the first token of each.
    tag_ids: where given, a response must also begin with the tag's own token, not with the tag
      spelled out in others; otherwise the text alone decides.
  """
  parsed = [parse_response(text) for text in texts]
  right = np.array([p.well_formed for p in parsed], bool)
  if tag_ids is None:
    return right
  modes = [tag_ids.mode_of(int(first)) for first in first_ids]
  return right & (np.array([p.mode for p in parsed], int) == modes)


def leaks(text: str) -> bool:
  """Whether a direct response contains one of `REASONING_MARKERS`."""
  return _MARKER.search(text) is not None


def form_rates(modes: np.ndarray, well_formed: np.ndarray, texts: Sequence[str]) -> dict:
  """Rates of malformed, empty and leaking responses, by mode that any of them opens.

  Args:
    modes: `[N]` int, by first token.
    well_formed: `[N]` bool.
    texts: `N` strings.

  Returns:
    `think/malformed_rate` and `no_think/malformed_rate`; `think/empty_rate`, the share of thinking
    responses that are well formed and hold no thought; `no_think/leak_rate`, the share of direct
    responses that contain one of `REASONING_MARKERS`.
  """
  modes, well_formed = np.ravel(modes), np.ravel(well_formed)
  rates = {}
  for mode, name in enumerate(tags.MODES):
    of_mode = np.flatnonzero(modes == mode)
    if not len(of_mode):
      continue
    rates[f"{name}/malformed_rate"] = float((~well_formed[of_mode]).mean())
    if mode == tags.THINK:
      empty = [well_formed[i] and not parse_response(texts[i]).reasoning.strip() for i in of_mode]
      rates["think/empty_rate"] = float(np.mean(empty))
    else:
      leaking = [leaks(texts[i]) for i in of_mode]
      rates["no_think/leak_rate"] = float(np.mean(leaking))
  return rates

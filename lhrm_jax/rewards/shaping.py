"""Rewards for the form of a response. No config uses them, and both are known to collapse modes.

A length penalty pays for leaving out the reasoning whether or not it was needed, so think mode dies
out; a format bonus pays as much for a wrong answer as for a right one, and is learned first. HGPO
needs neither: a malformed response scores 0 under every rule of `rules.py`, and short right answers
win through `delta`. They exist to demonstrate the collapse.
"""

from __future__ import annotations

from lhrm_jax.rewards.registry import register
from lhrm_jax.text.responses import parse_response


@register("format")
def format_term(prompt: str, response: str, answer: str) -> float:
  """1.0 for a well-formed response, else 0.0. Known to collapse modes."""
  del prompt, answer
  return float(parse_response(response).well_formed)


@register("length")
def length_term(prompt: str, response: str, answer: str) -> float:
  """Minus the characters of a well-formed response, in thousands. Known to collapse modes."""
  del prompt, answer
  return -len(response) / 1000.0 if parse_response(response).well_formed else 0.0

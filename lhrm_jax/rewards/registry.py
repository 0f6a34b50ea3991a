"""Reward functions by name."""

from lhrm_jax.text import parse_response


def get(name):
  return {
    "exact_match": lambda prompt, response, answer: float(
      (parse_response(response).answer or "").strip() == answer
    )
  }[name]

"""What a model that was not trained to choose its mode is sent once a router has chosen.

Models such as Qwen3 take the mode from outside: as a word at the end of the user's message, or as
`enable_thinking`, an argument of the chat template, which servers accept with a request.
"""

from typing import Any

from lhrm_jax.text import tags

_SWITCHES = {tags.THINK: "/think", tags.NO_THINK: "/no_think"}


def with_switch(prompt: str, mode: int) -> str:
  """The user's message with the word that switches the mode, as Qwen3 reads it."""
  return f"{prompt} {_SWITCHES[mode]}"


def chat_request(prompt: str, mode: int) -> dict[str, Any]:
  """Fields of a request to an OpenAI-compatible server whose chat template chooses the mode."""
  return {
    "messages": [{"role": "user", "content": prompt}],
    "chat_template_kwargs": {"enable_thinking": mode == tags.THINK},
  }

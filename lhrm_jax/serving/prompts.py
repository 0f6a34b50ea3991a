"""Ids of the prompts of requests."""

from collections.abc import Sequence

from lhrm_jax.serving.bodies import ChatRequest, CompletionRequest
from lhrm_jax.serving.errors import wrong
from lhrm_jax.text import Tokenizer, printable

_LONGEST_MESSAGE = 500  # characters


def prompt_ids(body: ChatRequest | CompletionRequest, tokenizer: Tokenizer) -> Sequence[int]:
  """Ids of a request's prompt; blocks while a chat template is rendered.

  Control tokens in a conversation's text stay text. A raw prompt may hold the four tags.

  Raises:
    ApiError: the model's template or vocabulary does not take it.
  """
  try:
    if isinstance(body, CompletionRequest):
      return _raw_ids(body.prompt, tokenizer)
    messages = [{"role": m.role.replace("developer", "system"), "content": m.text()}
                for m in body.messages]  # fmt: skip
    if messages[-1]["role"] != "user":
      raise wrong("messages: the last one has to be the user's, which is replied to.", "messages")
    if hasattr(tokenizer, "encode_messages"):
      return tokenizer.encode_messages(messages)
    if len(messages) > 1:
      raise wrong(
        f"messages: this model was trained on single questions, and these are {len(messages)} "
        "messages: send the user's last one alone.", "messages",
      )  # fmt: skip
    if not (ids := tokenizer.encode_prompt(messages[0]["content"])):
      raise wrong("messages: there is no token in them.", "messages")
    return ids
  except ValueError as error:
    raise wrong(
      printable(str(error), _LONGEST_MESSAGE),
      "messages" if isinstance(body, ChatRequest) else "prompt",
    ) from error


def _raw_ids(prompt: str | list, tokenizer: Tokenizer) -> Sequence[int]:
  if isinstance(prompt, list) and isinstance(prompt[0], int):
    return prompt
  text = prompt if isinstance(prompt, str) else prompt[0]
  ids = tokenizer.encode_response(text)[:-1]
  if not ids:
    raise wrong("prompt: there is no token in it.", "prompt")
  return ids

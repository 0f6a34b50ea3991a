"""Bodies of requests, as the API declares them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

_Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
# `fail_fast`: a message names the first fault alone, and a list may hold a hundred thousand.
# 2**63: what OpenAI's clients send. Booleans are no numbers.
_Whole = Annotated[int, Field(strict=True)]
_Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Body(BaseModel):
  model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class StreamOptions(_Body):
  """Options of a stream: usage at its end, and in every chunk as vLLM's clients ask for it."""

  include_usage: bool = False
  continuous_usage_stats: bool = False


class _Request(_Body):
  """What both kinds of request may ask for."""

  model: Annotated[str, Field(max_length=200)]
  max_tokens: Annotated[_Whole, Field(ge=1, le=2**31)] | None = None
  temperature: Annotated[_Real, Field(ge=0, le=100)] | None = None
  top_p: Annotated[_Real, Field(gt=0, le=1)] | None = None
  top_k: Annotated[_Whole, Field(ge=-1, le=2**31 - 1)] | None = None
  n: Annotated[_Whole, Field(ge=1, le=1024)] | None = None
  seed: Annotated[_Whole, Field(ge=-(2**63), lt=2**64)] | None = None
  stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
  ignore_eos: bool | None = None
  stream: bool | None = None
  stream_options: StreamOptions | None = None
  think_threshold: Annotated[_Real, Field(ge=0, le=1)] | None = None
  tag_bias: Annotated[_Real, Field(ge=-100, le=100)] | None = None
  thinking_token_budget: Annotated[_Whole, Field(ge=1, le=2**31 - 1)] | None = None
  # Taken, since clients send them, and without effect on a reply.
  user: str | None = None
  # Taken only at the value that changes nothing.
  frequency_penalty: Literal[0] | None = None
  presence_penalty: Literal[0] | None = None
  logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None


class TextPart(_Body):
  """A part of a message; only text is known."""

  type: Literal["text"]
  text: str


class Message(_Body):
  """One message of a conversation; the thoughts of earlier replies are not read again."""

  role: Literal["system", "developer", "user", "assistant"]
  content: str | Annotated[list[TextPart], Field(max_length=1000, fail_fast=True)]
  name: str | None = None
  reasoning: str | None = None
  reasoning_content: str | None = None
  refusal: None = None

  def text(self) -> str:
    if isinstance(self.content, str):
      return self.content
    return "".join(part.text for part in self.content)


class TemplateOptions(_Body):
  """What the chat template takes: the choice of mode."""

  enable_thinking: bool | None = None


class ResponseFormat(_Body):
  """Text is the only format."""

  type: Literal["text"]


class ChatRequest(_Request):
  """Body of `/v1/chat/completions`."""

  messages: Annotated[list[Message], Field(min_length=1, max_length=10_000, fail_fast=True)]
  max_completion_tokens: Annotated[_Whole, Field(ge=1, le=2**31)] | None = None
  logprobs: bool | None = None
  top_logprobs: Annotated[_Whole, Field(ge=0, le=20)] | None = None
  chat_template_kwargs: TemplateOptions | None = None
  reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
  response_format: ResponseFormat | None = None
  tools: Annotated[list[Any], Field(max_length=0)] | None = None
  tool_choice: Literal["none"] | None = None
  metadata: dict[str, str] | None = None
  store: Literal[False] | None = None


class CompletionRequest(_Request):
  """Body of `/v1/completions`; the prompt is a text, or the ids of its tokens."""

  prompt: (
    str
    | Annotated[list[_Whole], Field(min_length=1, fail_fast=True)]
    | Annotated[list[str], Field(min_length=1, max_length=1)]
  )
  logprobs: Annotated[_Whole, Field(ge=0, le=20)] | None = None
  echo: Literal[False] | None = None
  best_of: Literal[1] | None = None
  suffix: None = None

"""What a request asks for: the mode, the dials, the prompt, in terms of the engine."""

import dataclasses
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lhrm_jax.serving.bodies import ChatRequest, CompletionRequest
from lhrm_jax.serving.errors import ApiError, wrong
from lhrm_jax.serving.lanes import CORE, FAST, Lane, Part
from lhrm_jax.serving.sequences import Settings
from lhrm_jax.text import tags

# Share of the reply that a thought of this effort may take.
_EFFORT_SHARES = {"low": 1 / 8, "medium": 1 / 2}
_FORCED_BY_EFFORT = {"none": tags.NO_THINK, "minimal": tags.NO_THINK, "high": tags.THINK}


@dataclasses.dataclass(frozen=True)
class Asked:
  """A request as engines see it.

  Attributes:
    parts: by lane whose context holds it; the core's always does.
    settings: of each choice; they differ in `choice`.
    logprobs: whether to tell the log-probability of each token.
    decided_by: what chooses the mode: "request", "router", "threshold" or "model".
    p_router: probability that thinking serves the prompt better, where a router has judged it.
    handover: last tokens of a thought from which the fast lane writes the answer; 0 for none.
  """

  parts: Mapping[str, Part]
  settings: tuple[Settings, ...]
  logprobs: bool
  decided_by: str
  p_router: float | None = None
  handover: int = 0


@dataclasses.dataclass(frozen=True)
class Defaults:
  """What a server sets for all requests.

  Attributes:
    name: name of the model.
    temperature: where a request sets none.
    top_p: where a request sets none.
    max_choices: largest `n`.
    router_lane: lane whose policy chooses the mode where a request and the router leave it open.
    router: gives the mode of a prompt's text and the probability behind it; `None` where the
      policy chooses.
    threshold_at: threshold for a wanted think rate; `None` where there are none.
    handover: see `Asked`.
  """

  name: str
  temperature: float
  top_p: float
  max_choices: int
  threshold_at: Callable[[float], float] | None = None
  router_lane: str = CORE
  router: Callable[[str], tuple[int, float]] | None = None
  handover: int = 0

  def models(self) -> list[str]:
    """Names that requests may use; with thresholds, any rate may stand in place of 0.5."""
    found = [self.name, f"{self.name}:think", f"{self.name}:no_think"]
    return [*found, f"{self.name}:auto-0.5"] if self.threshold_at else found


@dataclasses.dataclass(frozen=True)
class _Choice:
  """Who chooses the mode, and how.

  Attributes:
    forced: mode, -1 where the policy chooses.
    threshold: on p(think), if any.
    tag_bias: on the logit of `<think>`.
  """

  forced: int = -1
  threshold: float | None = None
  tag_bias: float = 0.0


def of_request(
  body: ChatRequest | CompletionRequest, prompts: Mapping[str, Sequence[Any]],
  lanes: Mapping[str, Lane], d: Defaults, deadline: float = math.inf,
) -> Asked:  # fmt: skip
  """Settings of a request; blocks while a router judges it.

  Args:
    body: the request.
    prompts: from `prompts_by_lane`.
    lanes: lanes by name.
    d: defaults of the server.
    deadline: see `Part`.

  Raises:
    ApiError: fields contradict each other, or ask for more than there is.
  """
  choice = _choice(body, d)
  stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
  raw = isinstance(body, CompletionRequest)
  parts = _parts(
    body, prompts, lanes,
    stops=stops, raw=raw, deadline=deadline, ignore_eos=bool(body.ignore_eos),
  )  # fmt: skip
  n = body.n or 1
  if n > d.max_choices:
    raise wrong(f"n={n} exceeds the {d.max_choices} choices that this server writes.", "n")
  if isinstance(body, ChatRequest):
    tops, logprobs = body.top_logprobs or 0, bool(body.logprobs)
    if tops and not logprobs:
      raise wrong("top_logprobs has no effect without logprobs=true.", "top_logprobs")
  else:
    tops, logprobs = body.logprobs or 0, body.logprobs is not None
  if body.stream_options and not body.stream:
    raise wrong("stream_options has no effect without stream=true.", "stream_options")
  settings = Settings(
    seed=secrets.randbits(64) if body.seed is None else body.seed % 2**64,
    temperature=d.temperature if body.temperature is None else body.temperature,
    top_p=d.top_p if body.top_p is None else body.top_p,
    top_k=max(body.top_k or 0, 0),
    tops=tops,
    forced=choice.forced,
    tag_bias=choice.tag_bias,
    threshold=choice.threshold,
    budget=_budget(body, choice.forced, parts[CORE].max_tokens),
  )
  by = "request" if choice.forced >= 0 else "model" if choice.threshold is None else "threshold"
  p_router, text = None, _text(body)
  if d.router and choice == _Choice() and text is not None:
    mode, p_router = d.router(text)
    settings, by = dataclasses.replace(settings, forced=mode), "router"
  if settings.forced < 0 and lanes[d.router_lane].tokenizer is None:
    raise wrong(
      "The mode of this request is the policy's choice, whose p(think) is not known here: force a "
      "mode, or send neither think_threshold nor tag_bias.", code="no_choice",
    )  # fmt: skip
  choices = tuple(dataclasses.replace(settings, choice=i) for i in range(n))
  # Raw texts, and log-probabilities, are of one policy.
  handover = 0 if raw or logprobs or FAST not in parts else d.handover
  return Asked(parts, choices, logprobs, by, p_router, handover)


def _text(body: ChatRequest | CompletionRequest) -> str | None:
  """What a router judges: the user's last message, or a prompt that is text."""
  if isinstance(body, ChatRequest):
    return body.messages[-1].text()
  prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
  return prompt if isinstance(prompt, str) else None


def _parts(
  body: ChatRequest | CompletionRequest, prompts: Mapping[str, Sequence[Any]],
  lanes: Mapping[str, Lane], **shared: Any,
) -> dict[str, Part]:  # fmt: skip
  """The request in each lane that holds it; only lanes with tokens tell log-probabilities."""
  parts = {}
  for name, prompt in prompts.items():
    try:
      if body.logprobs and lanes[name].tokenizer is None:
        raise wrong("logprobs are told by lanes of the server's own process only.", "logprobs")
      parts[name] = Part(prompt, _max_tokens(body, len(prompt), lanes[name].context), **shared)
    except ApiError:
      if name == CORE:
        raise
  return parts


def _choice(body: ChatRequest | CompletionRequest, d: Defaults) -> _Choice:
  """The mode that is forced, or how the policy chooses; every field that says so must agree."""
  suffix = body.model.removeprefix(d.name) if body.model.startswith(d.name) else body.model
  rate = re.fullmatch(r":auto-(0(?:\.\d+)?|1(?:\.0+)?)", suffix)
  if suffix not in ("", ":think", ":no_think") and not rate:
    raise ApiError(
      404, f"model={body.model[:80]!r} is not served here; there is {', '.join(d.models())}.",
      param="model", code="model_not_found",
    )  # fmt: skip
  forced: dict[str, int] = {}
  if suffix in (":think", ":no_think"):
    forced[f"model={body.model}"] = tags.MODES.index(suffix[1:])
  if isinstance(body, ChatRequest):
    options = body.chat_template_kwargs
    if options and options.enable_thinking is not None:
      wanted = tags.THINK if options.enable_thinking else tags.NO_THINK
      forced[f"chat_template_kwargs.enable_thinking={str(options.enable_thinking).lower()}"] = (
        wanted
      )
    if body.reasoning_effort in _FORCED_BY_EFFORT:
      forced[f"reasoning_effort={body.reasoning_effort}"] = _FORCED_BY_EFFORT[body.reasoning_effort]
  dials = {
    f"model={body.model}": rate and float(rate[1]), "think_threshold": body.think_threshold,
    "tag_bias": body.tag_bias,
  }  # fmt: skip
  dials = {name: value for name, value in dials.items() if value is not None}
  said = [*forced, *dials]
  if len(set(forced.values())) > 1 or (dials and len(said) > 1):
    raise wrong(f"{' and '.join(said)} both choose the mode: leave one.", code="contradiction")
  if forced:
    return _Choice(forced=next(iter(forced.values())))
  if rate:
    if d.threshold_at is None:
      raise wrong(
        f"model={body.model!r} needs thresholds by think rate, and the server has none: start it "
        "with --config.thresholds=FILE, or send think_threshold.", "model",
      )  # fmt: skip
    return _Choice(threshold=d.threshold_at(float(rate[1])))
  return _Choice(threshold=body.think_threshold, tag_bias=body.tag_bias or 0.0)


def _max_tokens(
  body: ChatRequest | CompletionRequest, prompt: int, context: int | None
) -> int | None:
  asked = {"max_tokens": body.max_tokens}
  if isinstance(body, ChatRequest):
    asked["max_completion_tokens"] = body.max_completion_tokens
  values = {value for value in asked.values() if value is not None}
  if len(values) > 1:
    raise wrong("max_tokens and max_completion_tokens differ: leave one.", "max_tokens")
  if context is None:  # an endpoint checks by itself
    return values.pop() if values else None
  room = context - prompt
  most = values.pop() if values else room
  if most > room or room < 1:
    raise wrong(
      f"The prompt's {prompt} tokens" + (f" and max_tokens={most}" if values or room > 0 else "")
      + f" exceed the {context} tokens of a request: shorten the prompt or lower max_tokens.",
      "messages" if isinstance(body, ChatRequest) else "prompt", "context_length_exceeded",
    )  # fmt: skip
  return most


def _budget(body: ChatRequest | CompletionRequest, forced: int, max_tokens: int | None) -> int:
  budget = body.thinking_token_budget
  effort = body.reasoning_effort if isinstance(body, ChatRequest) else None
  if budget is not None and forced == tags.NO_THINK:
    raise wrong(
      "thinking_token_budget has no effect where thinking is off.", "thinking_token_budget"
    )
  if effort not in _EFFORT_SHARES:
    return budget or 0
  if budget is not None or forced == tags.NO_THINK:
    other = "thinking_token_budget" if budget is not None else "thinking turned off"
    raise wrong(f"reasoning_effort={effort} contradicts {other}: leave one.", "reasoning_effort")
  if max_tokens is None:
    raise wrong(f"reasoning_effort={effort} is a share of max_tokens: set it.", "max_tokens")
  return max(1, int(_EFFORT_SHARES[effort] * max_tokens))


def prompts_by_lane(
  body: ChatRequest | CompletionRequest, lanes: Mapping[str, Lane]
) -> dict[str, Sequence[Any]]:
  """The prompt of a request in each lane that takes it; blocks while templates are rendered.

  Raises:
    ApiError: the core lane does not take it.
  """
  found: dict[str, Sequence[Any]] = {}
  raw = body.prompt if isinstance(body, CompletionRequest) else ""
  ids = not isinstance(raw, str) and not isinstance(raw[0], str)
  for name, lane in lanes.items():
    if ids and name != CORE and lane.tokenizer and not lanes[CORE].same_tokens(lane):
      continue  # ids of one tokenizer are another text to the other
    try:
      found[name] = lane.prompt(body)
    except ApiError:
      if name == CORE:
        raise
  return found

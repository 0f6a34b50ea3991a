"""Knobs of a server: its engine, what a request may ask for, and what it starts from."""

import dataclasses
import re
from collections.abc import Iterator

from lhrm_jax.config import (
  MOST_ROWS,
  MOST_TOKENS,
  NAME,
  PATH,
  SHORT,
  TEMPERATURE_OR_GREEDY,
  TEXT,
  Range,
  idle,
  knob,
  knobs,
  one_of,
  real,
  section,
  together,
  whole,
)

CORE, FAST = "core", "fast"  # the lanes
_LONGEST_CLOSING = 500  # characters


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """Knobs of the decode engine."""

  slots: int = knob(8, whole(1, 4096), "Replies that are decoded together, one row each.")
  context: int = knob(
    0,
    whole(0, MOST_TOKENS),
    "Longest request in tokens, prompt and reply together; 0 takes the policy's positions.",
  )
  page_tokens: int = knob(
    16,
    whole(1, 4096),
    "Tokens of a page, the unit of KV memory, of prefill and of the prefixes that requests share.",
  )
  kv_mib: float = knob(
    0.0,
    real(0, 2**30),
    "KV memory in MiB, at least one request's; 0 has room for every slot's whole context.",
  )
  weights: str = knob(
    "float",
    one_of("float", "int8"),
    "The policy's own precision, or int8 with a scale per output channel.",
  )
  kv: str = knob(
    "float", one_of("float", "int8"), "KV memory likewise, with a scale per token and head."
  )
  draft: str = knob(
    "",
    TEXT,
    "What proposes tokens for the policy to check (speculative decoding): `int8` for the policy in "
    "int8, or a smaller run or model of the same tokens; empty for none.",
  )
  draft_tokens: int = knob(4, whole(1, 64), "Tokens that are proposed at a time.")
  prefill_pages: int = knob(
    4, whole(1, 4096), "Pages of prompts that run between two decoding steps."
  )
  quantum: int = knob(
    64,
    whole(1, MOST_TOKENS),
    "Tokens after which a reply counts as long: it then yields its slot to requests that wait.",
  )
  waiting: int = knob(
    64, whole(0, MOST_ROWS), "Requests that may wait for a slot; further ones are answered 429."
  )


@dataclasses.dataclass(frozen=True)
class LaneConfig(EngineConfig):
  """Knobs of a lane: an engine, or an endpoint elsewhere."""

  url: str = knob(
    "",
    Range(
      lambda x: isinstance(x, str) and (not x or bool(re.fullmatch(r"https?://[!-~]+", x))),
      "an address such as http://127.0.0.1:8001/v1",
    ),
    "OpenAI-compatible endpoint that writes this lane's replies; empty for an engine here.",
  )
  model: str = knob("", TEXT, "Name of the model at `url`.")


@dataclasses.dataclass(frozen=True)
class FastLaneConfig(LaneConfig):
  """Knobs of the lane that writes direct answers."""

  init_from: str = knob(
    "", TEXT, "Run or model that writes direct answers; empty, without `url`, for no such lane."
  )
  handover: int = knob(
    0,
    whole(0, MOST_TOKENS),
    "Last tokens of the core's thought, its conclusion, from which this lane writes the answer in "
    "the core's place; 0 leaves answers to the core.",
  )

  @property
  def exists(self) -> bool:
    """Whether there is a fast lane."""
    return bool(self.init_from or self.url)


_ENGINE = [knob.key for knob in knobs(EngineConfig)]


@idle(FastLaneConfig, "handover", *_ENGINE)
def _no_fast_engine(c: FastLaneConfig) -> str:
  return "" if c.init_from and not c.url else "fast.init_from empty or fast.url set"


@dataclasses.dataclass(frozen=True)
class ServingConfig(LaneConfig):
  """Knobs of a server."""

  name: str = knob(
    "", SHORT, "Name of the model in requests; empty takes the last part of its path."
  )
  temperature: float = knob(1.0, TEMPERATURE_OR_GREEDY, "Where a request sets none.")
  top_p: float = knob(1.0, real(0, 1, above=True), "Where a request sets none.")
  closing: str = knob(
    "",
    Range(
      lambda x: isinstance(x, str) and len(x) <= _LONGEST_CLOSING,
      f"text of at most {_LONGEST_CLOSING} characters",
    ),
    "Sentence that ends a thought cut by its budget.",
  )
  thresholds: str = knob(
    "", PATH, "File of thresholds on p(think) by think rate, for the models NAME:auto-RATE."
  )
  router: str = knob(
    "core",
    NAME,
    "What chooses the mode where a request leaves it open: the policy of the lane `core` or "
    "`fast`, or a router that judges the prompt alone, by its file or the name of a rule.",
  )
  fast: FastLaneConfig = section(FastLaneConfig)
  max_choices: int = knob(8, whole(1, 1024), "Largest `n` of a request.")
  request_seconds: float = knob(600.0, real(0, 1e6, above=True), "Longest time of one request.")
  body_mib: float = knob(1.0, real(0, 1024, above=True), "Largest body of a request.")
  body_seconds: float = knob(
    20.0, real(0, 1e6, above=True), "Time in which a request's body has to arrive."
  )
  log: str = knob(
    "off",
    one_of("off", "requests", "text"),
    "Lines of JSON on standard error: none, one per request, or one with its prompt and replies.",
  )


@together(ServingConfig, "draft", "kv")
@together(FastLaneConfig, "draft", "kv")
def _draft_of_rounded_memory(c: LaneConfig) -> str:
  if not (c.draft and c.kv == "int8"):
    return ""
  return (
    f"draft={c.draft!r} with kv='int8': a step that checks several tokens reads the last of them "
    "before they are rounded, so replies would not be those without a draft. Set kv='float'."
  )


@idle(ServingConfig, "draft_tokens")
@idle(FastLaneConfig, "draft_tokens")
def _no_draft(c: LaneConfig) -> str:
  return "" if c.draft else "no draft"


@idle(ServingConfig, *_ENGINE)
def _no_engine(c: ServingConfig) -> str:
  return f"url={c.url}, as the core is then elsewhere" if c.url else ""


@idle(ServingConfig, "fast.handover")
def _no_thought(c: ServingConfig) -> str:
  return f"url={c.url}, as thoughts elsewhere end there" if c.url else ""


@together(ServingConfig, "url", "model", "router", "fast")
def _lanes_that_work(c: ServingConfig) -> Iterator[str]:
  for prefix, lane in (("", c), ("fast.", c.fast)):
    if bool(lane.url) != bool(lane.model):
      yield (
        f"{prefix}url={lane.url!r} and {prefix}model={lane.model!r} go together: set both or none."
      )
  if c.fast.init_from and c.fast.url:
    yield "fast.init_from and fast.url name two policies for one lane: set one of them."
  if c.router == "fast" and not c.fast.exists:
    yield "router='fast' needs a fast lane: set fast.init_from, or another router."
  if {"core": c.url, "fast": c.fast.url}.get(c.router):
    yield (
      f"router={c.router!r} is a lane elsewhere, whose p(think) is not known here: the router must "
      "be a policy of this process, a file or a rule."
    )

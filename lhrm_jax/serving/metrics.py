"""Metrics of a server in Prometheus' form."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lhrm_jax.serving.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_BY = ("mode", "lane")
_HOLDERS = {"held": "replies hold", "kept": "keeps prefixes", "total": "there is"}


@dataclasses.dataclass
class _Followed:
  """A counter that follows a number of an engine."""

  counter: Counter
  value: Callable[[], int]
  seen: int = 0


class Metrics:
  """Counters and gauges of one server, in a registry of its own."""

  def __init__(self, engines: Mapping[str, Engine]):
    """Args:
    engines: by lane.
    """
    self._registry = registry = CollectorRegistry()

    self.requests = Counter("lhrm_requests", "Requests by answer.", ("status",), registry=registry)
    self.replies = Counter(
      "lhrm_replies", "Replies by mode, lane, what decided the mode, and end.",
      (*_BY, "decided_by", "finish"), registry=registry,
    )  # fmt: skip
    self.tokens = Counter(
      "lhrm_tokens", "Tokens of prompts, of shared prefixes, of thoughts and of answers.",
      ("kind",), registry=registry,
    )  # fmt: skip
    self.first_token = Histogram(
      "lhrm_time_to_first_token_seconds", "Time from a request to its first token.", _BY,
      buckets=_SECONDS, registry=registry,
    )  # fmt: skip
    self.per_token = Histogram(
      "lhrm_time_per_output_token_seconds", "Mean time of a reply's tokens after the first.", _BY,
      buckets=_TOKEN_SECONDS, registry=registry,
    )  # fmt: skip
    self._followed: list[_Followed] = []

    def follow(name: str, meaning: str, value: Callable[[Engine], int], of=engines) -> None:
      counter = Counter(name, meaning, ("lane",), registry=registry)
      for lane, engine in of.items():
        self._followed.append(_Followed(counter.labels(lane), functools.partial(value, engine)))

    def gauge(name: str, meaning: str, value: Callable[[Engine], float], of=engines) -> None:
      made = Gauge(name, meaning, ("lane",), registry=registry)
      for lane, engine in of.items():
        made.labels(lane).set_function(functools.partial(value, engine))

    follow(
      "lhrm_preemptions", "Replies that left their slot for another.",
      lambda engine: engine.preemptions,
    )  # fmt: skip
    drafted = {lane: engine for lane, engine in engines.items() if engine.payoff}
    follow(
      "lhrm_speculation_proposed_tokens", "Tokens that a draft has proposed.",
      lambda engine: engine.payoff.proposed, drafted,
    )  # fmt: skip
    follow(
      "lhrm_speculation_accepted_tokens", "Of these, tokens that the policy has drawn too.",
      lambda engine: engine.payoff.accepted, drafted,
    )  # fmt: skip
    gauge(
      "lhrm_speculation_speedup", "Tokens per second with a draft, of those without, as measured.",
      lambda engine: engine.payoff.mean_speedup, drafted,
    )  # fmt: skip
    gauge(
      "lhrm_speculation_on", "Whether the last step has asked the draft.",
      lambda engine: engine.payoff.on, drafted,
    )  # fmt: skip

    gauge("lhrm_queue", "Replies that wait for a slot.", lambda engine: engine.waiting)
    gauge("lhrm_slots_active", "Slots that hold a reply.", lambda engine: engine.active)
    gauge("lhrm_slots", "Slots.", lambda engine: engine.slots)
    for held_by in ("held", "kept", "total"):
      gauge(
        f"lhrm_kv_bytes_{held_by}", f"KV memory that {_HOLDERS[held_by]}.",
        lambda engine, held_by=held_by: getattr(engine.pages, held_by) * engine.page_bytes,
      )  # fmt: skip

  def text(self) -> bytes:
    """The exposition."""
    for followed in self._followed:
      followed.counter.inc(followed.value() - followed.seen)
      followed.seen = followed.value()
    return generate_latest(self._registry)

"""Metrics of a server in Prometheus' form."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lhrm_jax.serving.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_BY = ("mode", "lane")


class Metrics:
  """Counters and gauges of one server, in a registry of its own."""

  def __init__(self, engine: Engine, slots: int):
    self._registry = registry = CollectorRegistry()

    def gauge(name: str, meaning: str, value) -> None:
      Gauge(name, meaning, registry=registry).set_function(value)

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
    self._seen_preemptions, self._engine = 0, engine
    self._preemptions = Counter(
      "lhrm_preemptions", "Replies that left their slot for another.", registry=registry
    )
    gauge("lhrm_queue", "Replies that wait for a slot.", lambda: engine.waiting)
    gauge("lhrm_slots_active", "Slots that hold a reply.", lambda: engine.active)
    gauge("lhrm_slots", "Slots.", lambda: slots)
    kv = Gauge("lhrm_kv_bytes", "KV memory by what holds it.", ("held_by",), registry=registry)
    for held_by, pages in (
      ("replies", lambda: engine.pages.held), ("prefixes", lambda: engine.pages.kept),
      ("all", lambda: engine.pages.total),
    ):  # fmt: skip
      kv.labels(held_by).set_function(lambda pages=pages: pages() * engine.page_bytes)

  def text(self) -> bytes:
    """The exposition."""
    new = self._engine.preemptions - self._seen_preemptions
    self._seen_preemptions += new
    self._preemptions.inc(new)
    return generate_latest(self._registry)

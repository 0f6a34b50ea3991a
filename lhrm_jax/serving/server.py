"""One process that serves one policy."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import uvicorn

from lhrm_jax import policy
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.serving.api import Service, create_app
from lhrm_jax.serving.asked import Defaults
from lhrm_jax.serving.config import ServingConfig
from lhrm_jax.serving.engine import Engine
from lhrm_jax.serving.guard import is_loopback
from lhrm_jax.serving.lanes import CORE, FAST, Lane, LocalLane
from lhrm_jax.serving.metrics import Metrics
from lhrm_jax.serving.remote import RemoteLane
from lhrm_jax.text import Tokenizer

_SHORTEST_KEY = 16  # characters
_SHUTDOWN_S = 5  # for replies that are being written
_CONNECTIONS = 64  # beyond those that a slot or a place in the queue can have


class Policy(NamedTuple):
  """A policy to serve.

  Attributes:
    config: static part of the policy.
    params: its parameters.
    tokenizer: its tokenizer.
    draft: a smaller policy of the same tokens, where the lane's `draft` names one.
  """

  config: PolicyConfig
  params: policy.Params
  tokenizer: Tokenizer
  draft: tuple[PolicyConfig, policy.Params] | None = None


def bind(host: str, port: int, key: str) -> socket.socket:
  """A socket on the address; nobody can connect before `serve`.

  Args:
    host: address or name of this machine.
    port: 0 for a free one.
    key: what requests have to bear, "" for none.

  Raises:
    ValueError: others than this machine could ask without a key; or the key is short; or the
      address cannot be had.
  """
  if not key and not is_loopback(host):
    raise ValueError(
      f"--host {host} is reached by other machines: set a key that requests have to bear, in the "
      "environment variable LHRM_API_KEY or by --api_key_file, or keep to --host 127.0.0.1."
    )
  if key and (len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key):
    raise ValueError(
      f"The key has to be of {_SHORTEST_KEY} or more printable ASCII characters without spaces, "
      "as `openssl rand -hex 16` prints them."
    )
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  # Named TCP, or asyncio leaves Nagle's algorithm on: each stream would wait 40 ms for the client.
  listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
  try:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
  except (OSError, OverflowError) as error:
    listening.close()
    raise ValueError(
      f"--host {host} --port {port} cannot be had: {error}. Another port may be free; 0 takes one."
    ) from error
  return listening


def serve(
  policies: Mapping[str, Policy],
  c: ServingConfig,
  listening: socket.socket,
  *,
  key: str = "",
  endpoint_key: str = "",
  threshold_at: Callable[[float], float] | None = None,
  router: Callable[[str], tuple[int, float]] | None = None,
) -> None:
  """Compiles, prints the address, and serves until SIGINT or SIGTERM.

  Args:
    policies: by lane, "core" and perhaps "fast", but for lanes that are elsewhere.
    c: knobs, with a name.
    listening: from `bind`.
    key: bearer token that requests have to bear, "" for none.
    endpoint_key: bearer token for the endpoints of lanes, "" for none.
    threshold_at: threshold on p(think) for a wanted think rate, if calibrated.
    router: see `Defaults`; `None` where `c.router` names a lane.

  Raises:
    ValueError: the knobs do not fit the policies.
  """
  lanes: dict[str, Lane] = {}
  for name, knobs in ((CORE, c), (FAST, c.fast)):
    if knobs.url:
      lanes[name] = RemoteLane(knobs.url, knobs.model, endpoint_key)
    elif name in policies:
      served = policies[name]
      with _naming(name):
        engine = Engine(
          served.config, served.params, served.tokenizer, knobs, c.closing, served.draft
        )
      lanes[name] = LocalLane(engine, served.tokenizer)
  if c.fast.handover and not lanes[CORE].same_tokens(lanes[FAST]):
    raise ValueError("fast.handover needs a fast lane of the core's tokens: set it to 0.")
  engines = {name: lane.engine for name, lane in lanes.items() if isinstance(lane, LocalLane)}
  routes = CORE if router else c.router
  defaults = Defaults(
    c.name, c.temperature, c.top_p, c.max_choices, threshold_at, routes, router, c.fast.handover
  )
  app = create_app(Service(lanes, defaults, c, Metrics(engines)), key)
  # It warns where something was sent to a client that has left, which is nobody's mistake.
  logging.getLogger("asyncio").setLevel(logging.ERROR)
  for engine in engines.values():
    engine.warm_up()
    engine.start()
  host, port = listening.getsockname()[:2]
  address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
  connections = _CONNECTIONS + sum(part.slots + part.waiting for part in (c, c.fast))
  server = _Server(
    uvicorn.Config(
      app, log_level="warning", access_log=False, server_header=False, lifespan="off",
      ws="none", timeout_graceful_shutdown=_SHUTDOWN_S, h11_max_incomplete_event_size=2**16,
      limit_concurrency=connections,
    ),
    f"{c.name} is served at {address}",
  )  # fmt: skip
  try:
    asyncio.run(server.serve(sockets=[listening]))
  finally:
    for engine in engines.values():
      engine.stop()


@contextlib.contextmanager
def _naming(lane: str) -> Iterator[None]:
  """Puts the lane's section before what its knobs do wrong."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{'' if lane == CORE else f'{lane}.'}{error}") from error


class _Server(uvicorn.Server):
  """Says when it listens, and ends by a signal as by itself: uvicorn would raise it again."""

  def __init__(self, config: uvicorn.Config, ready: str):
    super().__init__(config)
    self._ready = ready

  async def startup(self, sockets=None) -> None:
    await super().startup(sockets)
    print(self._ready, flush=True)

  @contextlib.contextmanager
  def capture_signals(self):
    before = {
      number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

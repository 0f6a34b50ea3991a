"""Lanes: engines of different policies behind one name, and which of them writes a reply.

The core lane writes whatever is thought about. A fast lane, where there is one, writes direct
answers: a smaller policy, with memory and a context of its own. The opening tag is the router: of
the core's policy, which knows best whether it needs to think, or of the fast lane's, which costs
less. A reply that begins in the one lane and belongs into the other starts there anew, with its
mode forced.
"""

import dataclasses
from collections.abc import Collection

from lhrm_jax.serving.engine import Engine
from lhrm_jax.text import Tokenizer, tags

CORE, FAST = "core", "fast"


@dataclasses.dataclass(frozen=True)
class Lane:
  """A policy that is served.

  Attributes:
    engine: decodes its replies.
    tokenizer: its tokenizer.
  """

  engine: Engine
  tokenizer: Tokenizer


def first_lane(forced: int, router: str, fitting: Collection[str]) -> str:
  """The lane in which a reply begins.

  Args:
    forced: mode that the request forces, -1 for none.
    router: lane whose policy chooses the mode.
    fitting: lanes whose context holds the request; the core's always does.
  """
  wanted = router if forced == tags.INVALID_MODE else lane_of(forced, CORE, fitting)
  return wanted if wanted in fitting else CORE


def lane_of(mode: int, current: str, fitting: Collection[str]) -> str:
  """The lane that writes a reply of this mode; one without a mode stays where it is."""
  if mode == tags.INVALID_MODE:
    return current
  return FAST if mode == tags.NO_THINK and FAST in fitting else CORE

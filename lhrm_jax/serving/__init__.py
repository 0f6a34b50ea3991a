"""A server of one policy: a decode engine behind an OpenAI-compatible API.

The API needs the extra `serve` and is imported by `serving.server` alone; the engine needs nothing
beyond the library.
"""

from lhrm_jax.serving.config import CORE, FAST, EngineConfig, ServingConfig
from lhrm_jax.serving.engine import BusyError, Engine
from lhrm_jax.serving.reply import Reply
from lhrm_jax.serving.sequences import Row, Settings

__all__ = [
  "CORE",
  "FAST",
  "BusyError",
  "Engine",
  "EngineConfig",
  "Reply",
  "Row",
  "ServingConfig",
  "Settings",
]

"""Routers: which mode a prompt should get, judged by its text alone.

They are the rivals of a policy that chooses its own mode, and serve models without that training.
Importing this loads neither JAX nor what fits routers.
"""

from lhrm_jax.routing import classifiers, rules  # noqa: F401, importing them registers routers
from lhrm_jax.routing.files import (
  BadRouter,
  TrainedRouter,
  load,
  load_thresholds,
  save,
  save_thresholds,
  train,
  untrained,
)
from lhrm_jax.routing.router import REGISTRY, Examples, Router, get, names, register
from lhrm_jax.routing.thresholds import Thresholds, threshold_for

__all__ = [
  "REGISTRY",
  "BadRouter",
  "Examples",
  "Router",
  "Thresholds",
  "TrainedRouter",
  "get",
  "load",
  "load_thresholds",
  "names",
  "register",
  "save",
  "save_thresholds",
  "threshold_for",
  "train",
  "untrained",
]

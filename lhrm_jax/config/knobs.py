"""Declarations of knobs: default, range and meaning, as metadata of a dataclass field."""

import dataclasses
from typing import Any

from lhrm_jax.config.ranges import Range


def knob(default: Any, allowed: Range, meaning: str) -> Any:
  """A dataclass field that is a setting of a config.

  Args:
    default: its value where a config does not set it; the paper's where the paper has one.
    allowed: the values it may have.
    meaning: one or two sentences, with the unit, for the table of all knobs.
  """
  metadata = {"allowed": allowed, "meaning": meaning}
  if isinstance(default, dict):
    return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
  return dataclasses.field(default=default, metadata=metadata)

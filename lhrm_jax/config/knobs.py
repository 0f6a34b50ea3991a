"""Declarations of knobs: default, range and meaning, as metadata of a dataclass field."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from lhrm_jax.config.ranges import Range


@dataclasses.dataclass(frozen=True)
class Knob:
  """One setting, as it was declared.

  Attributes:
    key: dotted, from the section that was asked about.
    default: its value where a config does not set it.
    allowed: the values it may have.
    meaning: one or two sentences.
    before: what runs older than the knob did, as its value; see `knob`.
  """

  key: str
  default: Any
  allowed: Range
  meaning: str
  before: Any


def knob(default: Any, allowed: Range, meaning: str, *, before: Any = dataclasses.MISSING) -> Any:
  """A dataclass field that is a setting of a config.

  Args:
    default: its value where a config does not set it; the paper's where the paper has one.
    allowed: the values it may have.
    meaning: one or two sentences, with the unit, for the table of all knobs.
    before: where the default is another method than that of runs older than the knob, the value
      that does what they did, `None` where no value does, or a function of their section that
      returns these. Left out, they did what the default does.
  """
  before = default if before is dataclasses.MISSING else before
  metadata = {"allowed": allowed, "meaning": meaning, "before": before}
  if isinstance(default, dict):
    # Left out of the hash, so that a section can be a static argument of `jax.jit`.
    return dataclasses.field(default_factory=lambda: dict(default), hash=False, metadata=metadata)
  return dataclasses.field(default=default, metadata=metadata)


def section(declared: type) -> Any:
  """A dataclass field that is a section below, with its knobs at their defaults."""
  return dataclasses.field(default_factory=declared, metadata={"section": declared})


def with_default(section: type, name: str, default: Any) -> Any:
  """The knob `name` of a section that another one inherits, with a default of its own."""
  declared = section.__dataclass_fields__[name].metadata
  return knob(default, declared["allowed"], declared["meaning"])


def knobs(section: type, prefix: str = "") -> Iterator[Knob]:
  """The knobs of a section and of those in it, in the order of their declaration."""
  for field in dataclasses.fields(section):
    if inner := field.metadata.get("section"):
      yield from knobs(inner, f"{prefix}{field.name}.")
    elif field.metadata:
      default = field.default
      if default is dataclasses.MISSING:
        default = field.default_factory()
      yield Knob(f"{prefix}{field.name}", default, **field.metadata)

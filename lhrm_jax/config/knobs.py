"""Declarations of knobs: default, range and meaning, as metadata of a dataclass field."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from lhrm_jax.config.ranges import Range


@dataclasses.dataclass(frozen=True)
class Knob:
  """The declaration of one setting.

  Attributes:
    key: dotted key, relative to the section that was asked for.
    default: value where a config does not set it.
    allowed: range of its values.
    meaning: meaning in one or two sentences.
    before: value that reproduces runs older than the knob; see `knob`.
  """

  key: str
  default: Any
  allowed: Range
  meaning: str
  before: Any


def knob(default: Any, allowed: Range, meaning: str, *, before: Any = dataclasses.MISSING) -> Any:
  """Declares a dataclass field as a setting of a config.

  Args:
    default: value where a config does not set it; the paper's where the paper has one.
    allowed: range of its values.
    meaning: meaning in one or two sentences, with the unit, for the table of all knobs.
    before: value that reproduces runs older than the knob, if that is not the default: `None`
      where no value does, or a function of their section that returns either.
  """
  before = default if before is dataclasses.MISSING else before
  metadata = {"allowed": allowed, "meaning": meaning, "before": before}
  if isinstance(default, dict):
    # Left out of the hash, so that a section can be a static argument of `jax.jit`.
    return dataclasses.field(default_factory=lambda: dict(default), hash=False, metadata=metadata)
  return dataclasses.field(default=default, metadata=metadata)


def section(declared: type) -> Any:
  """Declares a dataclass field as a nested section, with its knobs at their defaults."""
  return dataclasses.field(default_factory=declared, metadata={"section": declared})


def with_default(section: type, name: str, default: Any) -> Any:
  """Declares the inherited knob `name` of `section` again, with another default."""
  declared = section.__dataclass_fields__[name].metadata
  return knob(default, declared["allowed"], declared["meaning"])


def knobs(section: type, prefix: str = "") -> Iterator[Knob]:
  """Yields the knobs of a section and of its nested sections, in the order of declaration."""
  for field in dataclasses.fields(section):
    if inner := field.metadata.get("section"):
      yield from knobs(inner, f"{prefix}{field.name}.")
    elif field.metadata:
      default = field.default
      if default is dataclasses.MISSING:
        default = field.default_factory()
      yield Knob(f"{prefix}{field.name}", default, **field.metadata)

"""Sections of a config, which are nested dataclasses of knobs: read, built and checked by key.

What must hold between knobs is a function beside the section that has them:

```python
@together(HFTConfig, "think_per_step", "no_think_per_step")
def _something_to_train_on(c: HFTConfig) -> str:
  return "" if c.think_per_step or c.no_think_per_step else "hft.think_per_step=0 and ..."
```
"""

import collections
import dataclasses
import difflib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict

from lhrm_jax.config.knobs import knobs
from lhrm_jax.config.ranges import SHOWN

Section = TypeVar("Section")
Check = Callable[[Any], str | Iterable[str]]

# By section: names of knobs, dotted where they lie in a section below, and a function of it.
_TOGETHER: dict[type, list[tuple[tuple[str, ...], Check]]] = collections.defaultdict(list)
_IDLE: dict[type, list[tuple[tuple[str, ...], Callable[[Any], str]]]] = collections.defaultdict(
  list
)


def together(section: type, *names: str) -> Callable[[Check], Check]:
  """Registers what must hold between knobs of a section, asked where each is right by itself.

  Args:
    section: the dataclass.
    *names: the knobs that the function reads.

  Returns:
    A decorator of `fn(section) -> str`: what is wrong, or ""; or of a generator of such sentences.
  """

  def add(check: Check) -> Check:
    _TOGETHER[section].append((names, check))
    return check

  return add


def idle(section: type, *names: str) -> Callable[[Callable], Callable]:
  """Registers when knobs have no effect under the other settings.

  Only what differs from its default is an error: a default says nothing of what the user meant.

  Returns:
    A decorator of `fn(section) -> str`: the settings that leave them without effect, to follow "has
    no effect with", or "".
  """

  def add(why: Callable[[Any], str]) -> Callable[[Any], str]:
    _IDLE[section].append((names, why))
    return why

  return add


def flatten(
  config: Any, leaves: Collection[str] = (), prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Dotted keys with their values.

  Args:
    config: a section, or a mapping.
    leaves: keys whose mappings are values, filled by a user with names of their own.
    prefix: of all keys.
  """
  if dataclasses.is_dataclass(config):
    items = [(field.name, getattr(config, field.name)) for field in dataclasses.fields(config)]
  else:
    items = list(config.items())
  for name, value in items:
    key = f"{prefix}{name}"
    if (_is_table(value) or dataclasses.is_dataclass(value)) and key not in leaves:
      yield from flatten(value, leaves, f"{key}.")
    else:
      yield key, value


def build(section: type[Section], values: Mapping[str, Any], prefix: str = "") -> Section:
  """The section with these values by dotted key, and defaults elsewhere; nothing is checked."""
  found = {}
  for field in dataclasses.fields(section):
    key = f"{prefix}{field.name}"
    if inner := field.metadata.get("section"):
      found[field.name] = build(inner, values, f"{key}.")
    elif key in values:
      found[field.name] = _plain(values[key])
  return section(**found)


def replaced(config: Section, values: Mapping[str, Any]) -> Section:
  """The section with other values, by dotted key.

  Raises:
    ValueError: there is no such key; says which is nearest.
  """
  declared = {knob.key for knob in knobs(type(config))}
  for key in values:
    if key not in declared:
      raise ValueError(_unknown(key, declared))
  return build(type(config), {**dict(flatten(config, declared)), **values})


def read(config: Any, key: str) -> Any:
  """The value at a dotted key."""
  return functools.reduce(getattr, key.split("."), config)


def range_problems(section: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
  """What is wrong with single values, by key.

  Args:
    section: that declares the knobs.
    values: by dotted key.
    prefix: of the keys in messages.
  """
  return {
    knob.key: f"{prefix}{knob.key}={short(values[knob.key])} must be {knob.allowed.allowed}"
    for knob in knobs(section)
    if knob.key in values and not knob.allowed.holds(values[knob.key])
  }


def section_problems(section: type, values: Mapping[str, Any]) -> list[str]:
  """What is wrong with a config, a sentence or two each, in the order of the declarations.

  Args:
    section: the outermost.
    values: by dotted key, of any type.
  """
  declared = {knob.key: knob for knob in knobs(section)}
  parents = {key[:i] for key in declared for i, letter in enumerate(key) if letter == "."}
  outside = range_problems(section, values)
  wrong: dict[str, str] = {}
  for key, knob in declared.items():
    above = [name for name in parents if name in values and key.startswith(f"{name}.")]
    if above:
      wrong[key] = f"{above[0]}={short(values[above[0]])} must be a section with keys of its own."
    elif key not in values:
      wrong[key] = f"{key} is missing: start a config from lhrm_jax.runs.defaults.get_config()."
    elif key in outside:
      wrong[key] = f"{outside[key]}. Set --config.{key}; the default is {short(knob.default)}."
  found = list(dict.fromkeys(wrong.values()))
  found += [_unknown(key, declared) for key in values if key not in {*declared, *parents}]
  config = build(section, values)
  for prefix, inner in _sections(config):
    for names, check in _registered(_TOGETHER, inner):
      if not any(f"{prefix}{name}" in wrong for name in names):
        said = check(inner)
        found += [said] if isinstance(said, str) else said
  found = list(filter(None, found))
  if found:
    return found
  return [
    f"{key}={short(read(config, key))} has no effect with {reason}. Set it back to "
    f"{short(declared[key].default)}, its default, or change the other."
    for key, reason in without_effect(config)
  ]


def without_effect(config: Any, of: Collection[str] = ()) -> Iterator[tuple[str, str]]:
  """Each knob that is set and has no effect, and under which other settings.

  Args:
    config: the outermost section.
    of: keys that are asked about; all where none is named.
  """
  default = {knob.key: knob.default for knob in knobs(type(config))}
  for prefix, section in _sections(config):
    for names, why in _registered(_IDLE, section):
      for key in (f"{prefix}{name}" for name in names):
        asked = not of or key in of
        if asked and read(config, key) != default[key] and (reason := why(section)):
          yield key, reason


def nearest(key: str, known: Iterable[str]) -> str:
  """The known key that is most like `key`, first by the whole and then by its last name; or ""."""
  known = list(known)
  near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
  if not near:  # right but for its section
    last = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.75)
    near = [last[name] for name in near] or difflib.get_close_matches(key, known, n=1)
  return near[0] if near else ""


def short(value: Any) -> str:
  """A value as an error shows it: its beginning, where it is long."""
  try:
    text = repr(_plain(value))
  except ValueError:  # a whole number of more digits than Python prints
    return f"<a {type(value).__name__} too large to print>"
  return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _unknown(key: str, known: Iterable[str]) -> str:
  near = nearest(key, known)
  return f"{short(key)[1:-1]} is no key of a config." + (f" Did you mean {near}?" if near else "")


def _sections(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """A section and those in it, each with the prefix of its keys."""
  yield prefix, config
  for field in dataclasses.fields(config):
    if "section" in field.metadata:
      yield from _sections(getattr(config, field.name), f"{prefix}{field.name}.")


def _registered(table: Mapping[type, list], section: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
  for cls in reversed(type(section).__mro__):
    yield from table.get(cls, ())


def _is_table(value: Any) -> bool:
  return isinstance(value, Mapping | ConfigDict)


def _plain(value: Any) -> Any:
  """Dicts, tuples and Python's numbers in place of a user's sections, lists and NumPy's."""
  if isinstance(value, ConfigDict):
    value = value.to_dict()
  if isinstance(value, np.generic):
    return value.item()
  if isinstance(value, Mapping):
    return {name: _plain(x) for name, x in value.items()}
  return tuple(value) if isinstance(value, list) else value

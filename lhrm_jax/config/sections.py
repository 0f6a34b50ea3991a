"""Sections of a config, nested dataclasses of knobs: built, read and checked by key.

A check between knobs is a function beside their section:

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

# By section: names of knobs, dotted for those of nested sections, and a function of the section.
_TOGETHER: dict[type, list[tuple[tuple[str, ...], Check]]] = collections.defaultdict(list)
_IDLE: dict[type, list[tuple[tuple[str, ...], Callable[[Any], str]]]] = collections.defaultdict(
  list
)

_RETIRED: dict[type, dict[str, str]] = collections.defaultdict(dict)


def together(section: type, *names: str) -> Callable[[Check], Check]:
  """Registers a check between knobs of a section, run if each of them is right by itself.

  Args:
    section: dataclass of the section.
    *names: knobs that the check reads.

  Returns:
    A decorator of `fn(section)`, which returns the problem or "", or yields problems.
  """

  def add(check: Check) -> Check:
    _TOGETHER[section].append((names, check))
    return check

  return add


def idle(section: type, *names: str) -> Callable[[Callable], Callable]:
  """Registers when knobs have no effect under the other settings.

  Only a value off its default is an error: a default does not show what the user meant.

  Returns:
    A decorator of `fn(section) -> str`: the settings that leave the knobs without effect, to follow
    "has no effect with", or "".
  """

  def add(why: Callable[[Any], str]) -> Callable[[Any], str]:
    _IDLE[section].append((names, why))
    return why

  return add


def retire(section: type, name: str, why: str) -> None:
  """Registers a knob that a section had: configs that still set it are told why it is gone.

  Args:
    section: dataclass of the section.
    name: name that the knob had.
    why: sentence with what to set instead.
  """
  _RETIRED[section][name] = why


def retired(section: type, prefix: str = "") -> dict[str, str]:
  """Returns why each retired knob of a section and of its nested sections is gone, by key."""
  found = {}
  for cls in section.__mro__:
    found |= {f"{prefix}{name}": why for name, why in _RETIRED.get(cls, {}).items()}
  for field in dataclasses.fields(section):
    if inner := field.metadata.get("section"):
      found |= retired(inner, f"{prefix}{field.name}.")
  return found


def flatten(
  config: Any, leaves: Collection[str] = (), prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields dotted keys with their values.

  Args:
    config: a section or a mapping.
    leaves: keys whose mappings are values, with keys that a user names.
    prefix: prefix of all keys.
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
  """Returns an unchecked section with these values by dotted key, and defaults elsewhere."""
  found = {}
  for field in dataclasses.fields(section):
    key = f"{prefix}{field.name}"
    if inner := field.metadata.get("section"):
      found[field.name] = build(inner, values, f"{key}.")
    elif key in values:
      found[field.name] = _plain(values[key])
  return section(**found)


def replaced(config: Section, values: Mapping[str, Any]) -> Section:
  """Returns the section with some values replaced, by dotted key.

  Raises:
    ValueError: there is no such key; names the nearest.
  """
  declared = {knob.key for knob in knobs(type(config))}
  for key in values:
    if key not in declared:
      raise ValueError(_unknown(key, declared))
  return build(type(config), {**dict(flatten(config, declared)), **values})


def read(config: Any, key: str) -> Any:
  """Returns the value at a dotted key."""
  return functools.reduce(getattr, key.split("."), config)


def range_problems(section: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
  """Returns the problems of single values, by key.

  Args:
    section: section that declares the knobs.
    values: values by dotted key.
    prefix: prefix of the keys in messages.
  """
  return {
    knob.key: f"{prefix}{knob.key}={short(values[knob.key])} must be {knob.allowed.allowed}"
    for knob in knobs(section)
    if knob.key in values and not knob.allowed.holds(values[knob.key])
  }


def section_problems(section: type, values: Mapping[str, Any]) -> list[str]:
  """Returns the problems of a config, a sentence or two each, in the order of declaration.

  Args:
    section: outermost section.
    values: values of any type by dotted key.
  """
  declared = {knob.key: knob for knob in knobs(section)}
  parents = {key[:i] for key in declared for i, letter in enumerate(key) if letter == "."}
  outside = range_problems(section, values)
  wrong: dict[str, str] = {}
  for key, knob in declared.items():
    above = [name for name in parents if name in values and key.startswith(f"{name}.")]
    if above:
      wrong[key] = f"{above[0]}={short(values[above[0]])} must be a section with keys."
    elif key not in values:
      wrong[key] = f"{key} is missing: start a config from lhrm_jax.runs.defaults.get_config()."
    elif key in outside:
      wrong[key] = f"{outside[key]}. Set --config.{key}; the default is {short(knob.default)}."
  found = list(dict.fromkeys(wrong.values()))
  gone = retired(section)
  for key in values:
    if key not in {*declared, *parents}:
      found.append(f"{key} is gone: {gone[key]}" if key in gone else _unknown(key, declared))
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
  """Yields each knob that is set without effect, and the other settings that cause it.

  Args:
    config: outermost section.
    of: keys to check; empty for all.
  """
  default = {knob.key: knob.default for knob in knobs(type(config))}
  for prefix, section in _sections(config):
    for names, why in _registered(_IDLE, section):
      for key in (f"{prefix}{name}" for name in names):
        asked = not of or key in of
        if asked and read(config, key) != default[key] and (reason := why(section)):
          yield key, reason


def nearest(key: str, known: Iterable[str]) -> str:
  """Returns the known key most like `key`, by the whole key or else by its last name; or ""."""
  known = list(known)
  near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
  if not near:  # perhaps only the section is wrong
    last = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.75)
    near = [last[name] for name in near] or difflib.get_close_matches(key, known, n=1)
  return near[0] if near else ""


def short(value: Any) -> str:
  """Returns a value as errors show it, truncated if long."""
  try:
    text = repr(_plain(value))
  except ValueError:  # a whole number with more digits than Python prints
    return f"<a {type(value).__name__} too large to print>"
  return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _unknown(key: str, known: Iterable[str]) -> str:
  near = nearest(key, known)
  return f"{short(key)[1:-1]} is not a key of the config." + (
    f" Did you mean {near}?" if near else ""
  )


def _sections(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields a section and its nested sections, each with the prefix of its keys."""
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
  """Returns the value with sections, lists and NumPy's numbers as dicts, tuples and Python's."""
  if isinstance(value, ConfigDict):
    value = value.to_dict()
  if isinstance(value, np.generic):
    return value.item()
  if isinstance(value, Mapping):
    return {name: _plain(x) for name, x in value.items()}
  return tuple(value) if isinstance(value, list) else value

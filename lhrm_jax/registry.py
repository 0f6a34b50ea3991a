"""Registry of what a config chooses by name: rewards, advantages, tasks, objectives."""

import difflib
import os
import sys
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownName(KeyError, ValueError):
  """No entry has this name: both a failed look-up and a wrong value of a setting."""

  def __str__(self) -> str:
    return self.args[0]  # a KeyError would print its repr


class Registry(Generic[T]):
  """Entries by name.

  Attributes:
    kind: noun for an entry in messages, e.g. "reward".
    entries: entries by name.
  """

  def __init__(self, kind: str):
    self.kind = kind
    self.entries: dict[str, T] = {}
    self._places: dict[str, _Place] = {}

  def register(self, name: str, entry: T | None = None, *, replace: bool = False) -> Any:
    """Registers `entry` as `name` and returns it; without `entry`, returns a decorator.

    The same definition may be registered again: a config file that registers something is executed
    more than once if another one imports it, or where a mistyped key is looked for in it.

    Raises:
      ValueError: the name is taken by another definition and `replace` is not set.
    """
    if entry is None:

      def decorator(entry: T) -> T:
        return self.register(name, entry, replace=replace)

      return decorator
    place = _place()
    if name in self.entries and not (
      replace or _same(entry, self.entries[name]) or _executed_again(place, self._places.get(name))
    ):
      raise ValueError(
        f"{self.kind} {name!r} is already registered; pass replace=True to put yours in its place"
      )
    self.entries[name], self._places[name] = entry, place
    return entry

  def get(self, name: str) -> T:
    """Returns the entry registered as `name`.

    Raises:
      UnknownName: there is none; the message names the nearest.
    """
    if name in self.entries:
      return self.entries[name]
    near = difflib.get_close_matches(name, self.entries, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownName(f"no {self.kind} named {name!r}; {hint}registered: {', '.join(self.names())}")

  def names(self) -> list[str]:
    """Returns the registered names, sorted."""
    return sorted(self.entries)

  def name_of(self, entry: T) -> str | None:
    """Returns a name `entry` is registered under, if any."""
    return next((name for name, registered in self.entries.items() if registered is entry), None)


# File, line, and the variables of the module, which every execution of a file has anew.
_Place = tuple[str, int, dict[str, Any]]


def _place() -> _Place:
  """The line outside of this package that registers."""
  frame = sys._getframe(1)
  while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
    frame = frame.f_back
  # A file may be executed under its relative path and imported under its absolute one.
  return os.path.abspath(frame.f_code.co_filename), frame.f_lineno, frame.f_globals


def _executed_again(now: _Place, before: _Place | None) -> bool:
  """Whether a line registers again because its file is executed again, and not in a loop."""
  return before is not None and now[:2] == before[:2] and now[2] is not before[2]


def _same(a: Any, b: Any) -> bool:
  """Whether two entries are one, or functions of one definition that differ in nothing bound."""
  return a is b or (_definition(a) is not None and _definition(a) == _definition(b))


def _definition(entry: Any) -> tuple | None:
  """What makes a function what it is; `None` for other entries, and where variables are bound."""
  code = getattr(entry, "__code__", None)
  if code is None or entry.__closure__ or entry.__defaults__ or entry.__kwdefaults__:
    return None
  return code.co_filename, code

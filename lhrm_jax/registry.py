"""Registry of what a config chooses by name: rewards, advantages, tasks, objectives."""

import difflib
import functools
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

  def register(self, name: str, entry: T | None = None, *, replace: bool = False) -> Any:
    """Registers `entry` as `name` and returns it; without `entry`, returns a decorator.

    The same definition may be registered again: a config file that registers something is executed
    more than once if another one imports it.

    Raises:
      ValueError: the name is taken by another definition and `replace` is not set.
    """
    if entry is None:

      def decorator(entry: T) -> T:
        return self.register(name, entry, replace=replace)

      return decorator
    if name in self.entries and not (replace or _same(entry, self.entries[name])):
      raise ValueError(
        f"{self.kind} {name!r} is already registered; pass replace=True to put yours in its place"
      )
    self.entries[name] = entry
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


def _same(a: Any, b: Any) -> bool:
  """Whether two entries have one definition, possibly executed twice."""
  if isinstance(a, functools.partial) and isinstance(b, functools.partial):
    return (a.func, a.args, a.keywords) == (b.func, b.args, b.keywords)
  return a is b or (_origin(a) is not None and _origin(a) == _origin(b))


def _origin(entry: Any) -> tuple[str, str, int] | None:
  code = getattr(entry, "__code__", None)
  return code and (code.co_filename, code.co_qualname, code.co_firstlineno)

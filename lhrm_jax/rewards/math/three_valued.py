"""Three-valued logic: "and" and "or" over verdicts that may be undecided."""

from collections.abc import Iterable


def any_true(verdicts: Iterable[bool | None]) -> bool | None:
  """True if one is; else None if one is undecided; else False."""
  undecided = False
  for verdict in verdicts:
    if verdict is True:
      return True
    undecided |= verdict is None
  return None if undecided else False


def all_true(verdicts: Iterable[bool | None]) -> bool | None:
  """False if one is; else None if one is undecided; else True."""
  undecided = False
  for verdict in verdicts:
    if verdict is False:
      return False
    undecided |= verdict is None
  return None if undecided else True

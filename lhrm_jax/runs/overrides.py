"""Overrides of keys that a user names: `--config.data.sources.mine.path=mine.jsonl`.

`ml_collections` overrides only existing keys; these sections start empty, and the user names their
keys.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from lhrm_jax.runs.config import KNOBS

# Keys whose values stay text, even where they read as numbers.
_TEXT = re.compile(r"data\.sources\.[^.]+\.(?:path|split|subset|format|columns\..+)")

# Dotted keys of the sections that start empty.
_OPEN = tuple(key for key, knob in KNOBS.items() if isinstance(knob.default, dict))


def split_off(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
  """Separates the overrides of open sections from a command line.

  Args:
    argv: program, then arguments.

  Returns:
    The other arguments, and values by dotted key; a value is a Python literal if it reads as one,
    else text.
  """
  sections = "|".join(map(re.escape, _OPEN))
  override = re.compile(rf"--?config\.({sections})\.([^=]+)(?:=(.*))?", re.DOTALL)
  rest, found = [], {}
  arguments = iter(argv)
  for argument in arguments:
    if argument == "--":
      return [*rest, argument, *arguments], found
    match = override.fullmatch(argument)
    if not match:
      rest.append(argument)
      continue
    section, name, value = match.groups()
    key = f"{section}.{name}"
    found[key] = _value(key, next(arguments, "") if value is None else value)
  return rest, found


def _value(key: str, text: str) -> Any:
  if _TEXT.fullmatch(key):
    return text
  try:
    return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
  except (MemoryError, RecursionError, SyntaxError, ValueError):
    return text


def apply(config: ConfigDict, values: Mapping[str, Any]) -> None:
  """Sets the keys that `split_off` found; their values are checked later, with all others.

  Raises:
    ValueError: the config has no such section, or a key lies in something that is not a section.
  """
  with config.unlocked(), config.ignore_type():
    for key, value in values.items():
      section = next(s for s in _OPEN if key.startswith(f"{s}."))
      node: Any = config
      *path, last = (*section.split("."), *key.removeprefix(f"{section}.").split("."))
      for depth, name in enumerate(path):
        if name not in node and depth > section.count("."):
          node[name] = ConfigDict()
        node = node.get(name)
        if not isinstance(node, ConfigDict):
          raise ValueError(f"{key}: {'.'.join(path[: depth + 1])} is not a section.")
      node[last] = value

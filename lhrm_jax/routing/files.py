"""Files of trained routers and of calibrated thresholds: JSON, in which nothing is executed."""

import dataclasses
import json
import math
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lhrm_jax.routing.router import REGISTRY, Examples, Router, get
from lhrm_jax.routing.thresholds import RATES, Thresholds
from lhrm_jax.text import tags
from lhrm_jax.text.characters import printable

_VERSION = 1
_LARGEST = 2**26  # bytes
_HALF = 0.5


class BadRouter(ValueError):
  """A file that holds no router; says which and why."""


@dataclasses.dataclass(frozen=True)
class TrainedRouter:
  """A router with the threshold from which it thinks.

  Attributes:
    name: it is registered under.
    router: gives probabilities.
    threshold: least probability that thinks; 1 never does.
    thresholds: calibrated on its training prompts; `None` where it had none.
  """

  name: str
  router: Router
  threshold: float = _HALF
  thresholds: Thresholds | None = None

  def probability(self, prompts: Sequence[str]) -> np.ndarray:
    """Probability `[K]` that thinking serves each prompt better."""
    return self.router.probability(prompts)

  def modes(self, prompts: Sequence[str]) -> np.ndarray:
    """The mode `[K]` of each prompt, `tags.THINK` or `tags.NO_THINK`."""
    thinks = (self.probability(prompts) >= self.threshold) & (self.threshold < 1)
    return np.where(thinks, tags.THINK, tags.NO_THINK)

  def at(self, think_rate: float) -> "TrainedRouter":
    """The router with the threshold that thought on this share of its training prompts.

    Raises:
      ValueError: it was not calibrated, or the rate is no share.
    """
    if self.thresholds is None:
      raise ValueError(f"The router {self.name!r} has no training prompts to calibrate it on.")
    return dataclasses.replace(self, threshold=self.thresholds.at(think_rate))


def train(name: str, examples: Examples) -> TrainedRouter:
  """Fits the router registered as `name`, and calibrates its thresholds on the same prompts.

  Raises:
    UnknownName: there is none; the message names the nearest.
    ImportError: it needs a package that is not installed.
  """
  router = get(name).fit(examples)
  return TrainedRouter(name, router, thresholds=Thresholds.of(router.probability(examples.prompts)))


def untrained(name: str) -> TrainedRouter:
  """A router that needs no training.

  Raises:
    UnknownName: there is none; the message names the nearest.
    ValueError: it needs training.
  """
  kind = get(name)
  if dataclasses.fields(kind):
    raise ValueError(f"The router {name!r} must be trained; name a file that holds one.")
  return TrainedRouter(name, kind())


def save(path: pathlib.Path | str, trained: TrainedRouter) -> None:
  """Writes what `load` reads back; the folder must exist."""
  held = {
    "version": _VERSION,
    "router": trained.name,
    "fields": dataclasses.asdict(trained.router),
    "threshold": trained.threshold,
    "thresholds": trained.thresholds and dataclasses.asdict(trained.thresholds),
  }
  _write(path, held)


def load(path: pathlib.Path | str) -> TrainedRouter:
  """Reads a trained router.

  Raises:
    FileNotFoundError: there is no such file.
    BadRouter: it holds no router of this version, or one that is not registered.
  """
  held = _read(path)
  if held.get("version") != _VERSION:
    raise BadRouter(f"{printable(str(path))} holds no router of version {_VERSION}.")
  name = held.get("router")
  if not isinstance(name, str) or name not in REGISTRY.entries:
    raise BadRouter(
      f"{printable(str(path))}: router={printable(repr(name), 40)} is not registered. Import the "
      f"module that registers it; registered: {', '.join(REGISTRY.names())}."
    )
  kind, fields = REGISTRY.entries[name], held.get("fields")
  try:
    router = kind(**_checked(kind, fields))
    threshold = _plain(held.get("threshold"), float)
    thresholds = held.get("thresholds")
    thresholds = None if thresholds is None else _thresholds(thresholds)
    if not 0 <= router.probability(["What is 3 + 4?"])[0] <= 1:
      raise ValueError("its numbers make no probability")
  except (ArithmeticError, LookupError, NameError, TypeError, ValueError) as error:
    raise BadRouter(f"{printable(str(path))} is damaged: {printable(str(error), 200)}.") from error
  return TrainedRouter(name, router, threshold, thresholds)


def save_thresholds(path: pathlib.Path | str, thresholds: Thresholds) -> None:
  """Writes thresholds on a policy's p(think), which `load_thresholds` reads back."""
  _write(path, dataclasses.asdict(thresholds))


def load_thresholds(path: pathlib.Path | str) -> Thresholds:
  """Reads what `save_thresholds` wrote.

  Raises:
    FileNotFoundError: there is no such file.
    BadRouter: it does not hold thresholds.
  """
  try:
    return _thresholds(_read(path))
  except (TypeError, ValueError) as error:
    raise BadRouter(f"{printable(str(path))} is damaged: {printable(str(error), 200)}.") from error


def _thresholds(held: Any) -> Thresholds:
  found = Thresholds(**_checked(Thresholds, held))
  if len(found.values) != RATES + 1:
    raise ValueError(f"{len(found.values)} thresholds, not {RATES + 1}")
  return found


def _checked(kind: type, held: Any) -> dict[str, Any]:
  """The fields of a dataclass, each of the type that it declares.

  Raises:
    ValueError: one is missing, unknown, or of another type.
  """
  declared = {field.name for field in dataclasses.fields(kind)}
  if not isinstance(held, dict) or set(held) != declared:
    raise ValueError(f"expected the fields {', '.join(sorted(declared)) or '(none)'}")
  hints = typing.get_type_hints(kind)
  return {name: _plain(value, hints[name]) for name, value in held.items()}


def _plain(value: Any, hint: Any) -> Any:
  """A value of JSON as the type that a field declares."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if hint is float:
    if type(value) not in (int, float) or not math.isfinite(value):
      raise ValueError(f"{value!r:.40} is no finite number")
    return float(value)
  if hint in (int, str, bool):
    if type(value) is not hint:
      raise ValueError(f"{value!r:.40} is no {hint.__name__}")
    return value
  if origin is tuple and isinstance(value, list):
    return tuple(_plain(item, arguments[0]) for item in value)
  if origin in (Mapping, dict) and isinstance(value, dict):
    return {key: _plain(item, arguments[1]) for key, item in value.items()}
  raise ValueError(f"{value!r:.40} is no {hint}")


def _write(path: pathlib.Path | str, held: Mapping[str, Any]) -> None:
  path = pathlib.Path(path)
  unfinished = path.with_name(f"{path.name}.tmp")
  unfinished.write_text(json.dumps(held, allow_nan=False) + "\n", encoding="utf-8")
  unfinished.rename(path)


def _read(path: pathlib.Path | str) -> dict[str, Any]:
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"there is no file {printable(str(path))}.")
  if not path.is_file() or path.stat().st_size > _LARGEST:
    raise BadRouter(f"{printable(str(path))} is not a file of at most {_LARGEST:,} bytes.")
  try:
    held = json.loads(path.read_bytes())
  except (RecursionError, ValueError) as error:
    raise BadRouter(f"{printable(str(path))} is no JSON: {printable(str(error), 200)}.") from error
  if not isinstance(held, dict):
    raise BadRouter(f"{printable(str(path))} holds no JSON object.")
  return held

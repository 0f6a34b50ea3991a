"""Dumps non-finite updates, which the device has skipped, with their batch and parameters.

`python -m experiments.replay DUMP` inspects a dump.
"""

import dataclasses
import json
import pathlib
import shutil
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from lhrm_jax import parallel, policy
from lhrm_jax.config import knob, whole
from lhrm_jax.runs import saved_arrays

_ABOUT = "about.json"


@dataclasses.dataclass(frozen=True)
class NumericsConfig:
  """Knobs of the handling of non-finite updates, the section `numerics` of a config."""

  max_skipped_in_a_row: int = knob(
    10, whole(1), "Consecutive non-finite updates, each skipped, that end the run."
  )
  max_dumps: int = knob(
    3, whole(0), "Non-finite updates dumped per stage; each dump is as large as the policy."
  )


class NonFiniteError(Exception):
  """Too many consecutive updates were not finite; says where the first one was dumped."""


class NonFiniteGuard:
  """Dumps non-finite updates and ends the run after too many of them."""

  def __init__(
    self,
    folder: pathlib.Path,
    stage: str,
    *,
    limit: int,
    dumps: int,
    report: Callable[[str], None] = print,
  ):
    """Args:
    folder: folder of the dumps.
    stage: stage whose updates are checked.
    limit: consecutive skipped updates that end the run.
    dumps: largest number of dumps; each is as large as the parameters.
    report: called with a message for every skipped update.
    """
    self._folder, self._stage = folder, stage
    self._limit, self._dumps, self._report = limit, dumps, report

  def check(self, step: int, metrics: Mapping[str, Any], params: policy.Params, batch: Any) -> None:
    """Dumps the step's update if it was not finite.

    Args:
      step: number of the step just made.
      metrics: metrics of the step, on the host or not.
      params: parameters after the step; a skipped update leaves them as they were before it.
      batch: input of the update, a tree of dataclasses.

    Raises:
      NonFiniteError: the limit of consecutive updates is reached.
    """
    in_a_row = int(metrics["skipped_in_a_row"])
    if not in_a_row:
      return
    kept = self._folder / f"{self._stage}-{step:06d}"
    dumps = sorted(self._folder.glob(f"{self._stage}-*"))
    # Of several updates of a step, the first one's stays.
    if kept not in dumps and len(dumps) < self._dumps:
      save_dump(kept, {"stage": self._stage, "step": step}, params, batch)
    elif kept not in dumps and dumps:
      kept = dumps[-1]
    advice = f"python -m experiments.replay {kept}"
    if not dumps and not self._dumps:
      advice = "no update is dumped (numerics.max_dumps=0, or no disk that all processes share)"
    self._report(
      f"{self._stage} step {step}: loss {float(metrics['loss'])}, gradient norm "
      f"{float(metrics['grad_norm'])}; update skipped ({in_a_row} in a row). Inspect it: {advice}"
    )
    if in_a_row >= self._limit:
      raise NonFiniteError(
        f"{in_a_row} updates in a row were not finite (numerics.max_skipped_in_a_row="
        f"{self._limit}). The parameters are those before the first one. Find the input or "
        f"parameter at fault: {advice}"
      )


def save_dump(
  path: pathlib.Path, about: Mapping[str, Any], params: policy.Params, batch: Any
) -> None:
  """Writes the parameters and the batch of one update."""
  if parallel.is_writer():
    shutil.rmtree(path, ignore_errors=True)
  saved_arrays.save_tree(path / "arrays", {"params": params, "batch": _plain(batch)})
  if parallel.is_writer():
    (path / _ABOUT).write_text(json.dumps(dict(about)) + "\n", encoding="utf-8")


def load_dump(path: pathlib.Path) -> tuple[dict[str, Any], policy.Params, Any]:
  """Returns what `save_dump` wrote: about, parameters, and the batch as nested dicts and lists.

  Raises:
    FileNotFoundError: there is no dump at `path`.
  """
  about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
  arrays = saved_arrays.load_tree(path / "arrays")
  return about, arrays["params"], arrays["batch"]


def rebuild(cls: type, values: Any) -> Any:
  """Returns a dataclass of arrays built from nested dicts, by its declared field types."""
  hints, fields = typing.get_type_hints(cls), {}
  for field in dataclasses.fields(cls):
    value, hint = values.get(field.name), hints[field.name]
    if isinstance(hint, types.UnionType):
      hint = next((h for h in hint.__args__ if dataclasses.is_dataclass(h)), hint)
    fields[field.name] = (
      rebuild(hint, value) if value is not None and dataclasses.is_dataclass(hint) else value
    )
  return cls(**fields)


def _plain(tree: Any) -> Any:
  """Returns the tree with dataclasses as dicts, without fields that are `None`."""
  if dataclasses.is_dataclass(tree):
    values = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
    return {name: _plain(value) for name, value in values.items() if value is not None}
  if isinstance(tree, list | tuple):
    return [_plain(value) for value in tree]
  return tree

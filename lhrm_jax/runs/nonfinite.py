"""What happens when an update is not finite: it was skipped on the device; here it is kept.

The batch and the parameters it met are dumped, to be looked into with
`python -m experiments.replay DUMP`.
"""

import dataclasses
import json
import pathlib
import shutil
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lhrm_jax import policy
from lhrm_jax.config import knob, whole
from lhrm_jax.runs import checkpoints

_ABOUT = "about.json"


@dataclasses.dataclass(frozen=True)
class NumericsConfig:
  """Knobs of what follows updates that are not finite, the section `numerics` of a config."""

  max_skipped_in_a_row: int = knob(10, whole(1), "Such updates in a row that end the run.")
  max_dumps: int = knob(3, whole(0), "Such updates kept per stage; each is as large as the policy.")


class NonFiniteError(Exception):
  """Too many updates in a row were not finite; says where the first of them is kept."""


class NonFiniteGuard:
  """Looks at every step's metrics."""

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
    folder: for dumps.
    stage: which the dumps are of.
    limit: skipped updates in a row that end the run.
    dumps: kept at most; they are as large as the parameters.
    report: told of every skipped update.
    """
    self._folder, self._stage = folder, stage
    self._limit, self._dumps, self._report = limit, dumps, report

  def check(self, step: int, metrics: Mapping[str, Any], params: policy.Params, batch: Any) -> None:
    """Does nothing after a finite update.

    Args:
      step: just made.
      metrics: of it, on the host or not.
      params: after it: those before it, since it was skipped.
      batch: its input, a tree of dataclasses.

    Raises:
      NonFiniteError: the limit is reached.
    """
    in_a_row = int(metrics["skipped_in_a_row"])
    if not in_a_row:
      return
    kept = self._folder / f"{self._stage}-{step:06d}"
    dumps = sorted(self._folder.glob(f"{self._stage}-*"))
    if kept in dumps or len(dumps) < self._dumps:
      save_dump(kept, {"stage": self._stage, "step": step}, params, batch)
    else:
      kept = dumps[-1]
    advice = f"python -m experiments.replay {kept}"
    self._report(
      f"{self._stage} step {step}: loss {float(metrics['loss'])}, gradient norm "
      f"{float(metrics['grad_norm'])}; update skipped ({in_a_row} in a row). Look: {advice}"
    )
    if in_a_row >= self._limit:
      raise NonFiniteError(
        f"{in_a_row} updates in a row were not finite (numerics.max_skipped_in_a_row="
        f"{self._limit}). The parameters are as before the first of them. Find out which input or "
        f"parameter it is: {advice}"
      )


def save_dump(
  path: pathlib.Path, about: Mapping[str, Any], params: policy.Params, batch: Any
) -> None:
  """Writes parameters and batch of one update."""
  if jax.process_index() == 0:
    shutil.rmtree(path, ignore_errors=True)
  checkpoints.save_tree(path / "arrays", {"params": params, "batch": _plain(batch)})
  if jax.process_index() == 0:
    (path / _ABOUT).write_text(json.dumps(dict(about)) + "\n", encoding="utf-8")


def load_dump(path: pathlib.Path) -> tuple[dict[str, Any], policy.Params, Any]:
  """What `save_dump` wrote: about, parameters, and the batch as nested dicts and lists.

  Raises:
    FileNotFoundError: there is no dump at `path`.
  """
  about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
  arrays = checkpoints.load_tree(path / "arrays")
  return about, arrays["params"], arrays["batch"]


def rebuild(cls: type, values: Any) -> Any:
  """A dataclass of arrays from nested dicts, by the types that its fields declare."""
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
  """Dataclasses as dicts, whose `None`s are left out."""
  if dataclasses.is_dataclass(tree):
    values = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
    return {name: _plain(value) for name, value in values.items() if value is not None}
  if isinstance(tree, list | tuple):
    return [_plain(value) for value in tree]
  return tree

"""Which config changes a resumed run accepts, and which of its stages are finished."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lhrm_jax.config import flatten
from lhrm_jax.errors import UserError
from lhrm_jax.runs import policy_settings
from lhrm_jax.runs.checkpoints import CheckpointError, Saved
from lhrm_jax.runs.config import HFT, KNOBS, RETIRED, STAGES, Config, of_older_run, plain
from lhrm_jax.storage import urls

# Keys that may differ when a run is resumed: they change where and how fast it runs, not results.
FREE = ("allow_config_change", "checkpoint", "compilation_cache", "dpo.micro_batch_rows",
        "dpo.packed_length", "gates", "hft.micro_batch_rows", "hgpo.micro_batch_rows",
        "hgpo.decode_slots", "hgpo.packed_length", "hgpo.reward_workers", "hgpo.sampling_chunks",
        "judging", "mesh", "profile_steps", "rft.micro_batch_rows", "rft.packed_length",
        "sampling_mesh")  # fmt: skip
# Keys that may differ once training is over: the run is evaluated again.
_OF_EVALUATION = ("data", "evaluation", "policy", "reward", "reward_by_source", "reward_model",
                  "reward_weights", "task")  # fmt: skip
_SHOWN = 20


def allowed_changes(
  before: Mapping[str, Any], config: Config, folder: str
) -> dict[str, tuple[Any, Any]]:
  """Returns the keys outside of `FREE` whose values differ from the run's, with both values.

  A key newer than the run counts as set to what the run did: its default, unless its declaration
  says otherwise (`config.knob`).

  Args:
    before: config of the run, as plain values.
    config: config of this command.
    folder: path of the run, for messages.

  Raises:
    UserError: a key that differs is not in `config.allow_config_change`.
  """
  older, differ = of_older_run(before)
  filled = dict(flatten(plain(older), KNOBS)) | dict(flatten(before, KNOBS)) | differ
  changed = dict(_changes(filled, config))
  allowed = list(filter(None, config.allow_config_change.replace(" ", "").split(",")))
  refused = {key: values for key, values in changed.items() if not _within(key, allowed)}
  if not refused:
    return changed
  lines = [f"  {key}: {_shown(*x, key in differ)}" for key, x in list(refused.items())[:_SHOWN]]
  more = [f"  and {len(refused) - _SHOWN} more"] if len(refused) > _SHOWN else []
  raise UserError(
    "\n".join([
      f"--workdir={folder} holds a run with another config:", *lines, *more,
      "Choose another folder, or resume with the new values, knowing that results may differ:",
      f"  --config.allow_config_change={','.join(changed)}",
    ])
  )  # fmt: skip


def _shown(old: Any, new: Any, older: bool) -> str:
  """Shows both values of a key and, for a key newer than the run, what the first one means."""
  if not older:
    return f"{old!r} -> {new!r}"
  if old is None:
    return f"the run is older than this key, and no value reproduces what it did -> {new!r}"
  return f"{old!r}, which is what the run did before this key existed -> {new!r}"


def check_effect(
  changed: Mapping[str, Any], saved: Mapping[str, Saved | None], config: Config
) -> None:
  """Checks that every changed key can still take effect.

  Args:
    changed: result of `allowed_changes`.
    saved: checkpoint that each stage resumes from, by stage in order.
    config: config of this command.

  Raises:
    UserError: a stage has made more steps than asked for, or a key belongs to a finished stage.
  """
  stages = list(saved)
  begun = [stage for stage in stages if saved[stage]]
  for stage in begun:
    done = saved[stage].step
    later = [s for s in begun if stages.index(s) > stages.index(stage)]
    steps = f"{stage}.steps"
    if steps in changed and getattr(config, stage).steps < done and not later:
      raise UserError(
        f"{steps}={getattr(config, stage).steps} is less than the {done} steps already made. "
        f"Choose at least {done}, or another folder with init_from="
        f"{saved[stage].path.parent}/STEP."
      )
    mine = [key for key in changed if key.startswith(f"{stage}.")]
    if mine and (later or over(stage, saved[stage], config)):
      after = f", and {later[-1]} has begun" if later else ""
      raise UserError(
        f"{', '.join(mine)} would change nothing: {stage} ended at step {done}{after}. Undo the "
        "change, or choose another folder."
      )
  last = stages[-1] if stages else None
  if last and saved[last] and over(last, saved[last], config):
    idle = [key for key in changed if not _within(key, _OF_EVALUATION)]
    if idle:
      raise UserError(
        f"{', '.join(idle)} would change nothing: training is finished. Undo the change, raise "
        f"{last}.steps with it, or choose another folder."
      )


def over(stage: str, saved: Saved | None, config: Config) -> bool:
  """Whether a stage has finished training; raising its steps reopens it."""
  if saved is None or not saved.record.get("finished"):
    return False
  before = saved.record.get("config", {}).get(stage, {})
  if stage == HFT and saved.step < before.get("steps", 0):  # it stopped early
    return before.get("until") == plain(config.hft.until)
  return saved.step >= getattr(config, stage).steps


def check_record(saved: Saved) -> None:
  """Checks the types and ranges of a checkpoint's record.

  Raises:
    CheckpointError: no run writes such a record.
  """
  record = saved.record
  logs, seconds = record.get("logs"), record.get("seconds", 0.0)
  right = (
    isinstance(logs, Mapping)
    and all(type(size) is int and size >= 0 for size in logs.values())
    and type(seconds) in (int, float)
    and 0 <= seconds < float("inf")
    and isinstance(record.get("finished", False), bool)
    and isinstance(record.get("config", {}), Mapping)
    and all(isinstance(record.get("config", {}).get(s, {}), Mapping) for s in STAGES)
  )
  if not right:
    raise CheckpointError(
      f"the checkpoint {saved.path} has a record that this version did not write. Remove it, and "
      "the one before is used."
    )


def _changes(before: Mapping[str, Any], config: Config) -> Iterator[tuple[str, tuple[Any, Any]]]:
  """Yields the keys whose requested value differs, with both values; see `policy_settings`."""
  asked = policy_settings.asked(config)
  for key, (old, new) in difference(before, dict(flatten(plain(config), KNOBS))).items():
    section, _, name = key.partition(".")
    # What a run started from may be gone when it is resumed.
    same_path = key.endswith(("init_from", "rollouts.path")) and _same_path(str(old), new)
    left_alone = section == "policy" and config.init_from and name not in asked
    if not (_within(key, FREE) or key in RETIRED or same_path or left_alone):
      yield key, (old, new)


def _same_path(a: str, b: str) -> bool:
  """Whether two values of `init_from` name the same thing, existing or not."""
  if not (a and b) or urls.is_url(a) or urls.is_url(b):
    return a == b
  return pathlib.Path(a).expanduser().absolute() == pathlib.Path(b).expanduser().absolute()


def _within(key: str, names: Sequence[str]) -> bool:
  """Whether a key is one of `names` or lies in a section among them."""
  return any(key == name or key.startswith(f"{name}.") for name in names)


def difference(
  before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
  """Returns the dotted keys that differ, with both values; `None` where a side lacks the key."""
  found: dict[str, tuple[Any, Any]] = {}
  for key in sorted({*before, *now}):
    old, new = before.get(key), now.get(key)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
      found |= difference(old, new, f"{prefix}{key}.")
    elif old != new and (old is not None or new != {}):  # an empty section newer than the run
      found[f"{prefix}{key}"] = (old, new)
  return found

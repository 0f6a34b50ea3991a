"""What a resumed run may change of its config, and which of its stages are over."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lhrm_jax.config import flatten
from lhrm_jax.errors import UserError
from lhrm_jax.runs import policy_settings, setup
from lhrm_jax.runs.checkpoints import CheckpointError, Saved
from lhrm_jax.runs.config import KNOBS, Config, of_older_run, plain

# What may differ when a run is resumed: it changes where and how fast, and no result.
FREE = ("allow_config_change", "checkpoint", "compilation_cache", "gates", "hgpo.reward_workers",
        "hgpo.sampling_chunks", "judging", "mesh", "profile_steps", "sampling_mesh")  # fmt: skip
# What a run whose training is over may change: it is evaluated anew.
_OF_EVALUATION = ("data", "evaluation", "policy", "reward", "reward_by_source", "reward_model",
                  "reward_weights", "task")  # fmt: skip
_SHOWN = 20


def allowed_changes(
  before: Mapping[str, Any], config: Config, folder: str
) -> dict[str, tuple[Any, Any]]:
  """The keys in which a config differs from the run's, with both values, without those in `FREE`.

  A key that the run is older than counts as set to what the run did, which is the key's default
  unless its declaration says otherwise (`config.knob`).

  Args:
    before: the run's, plain.
    config: now.
    folder: of the run, for messages.

  Raises:
    UserError: one of them is not in `config.allow_config_change`.
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
      f"--workdir={folder} holds a run of another config:", *lines, *more,
      "Take another folder, or resume with the new values, if you know that results may differ:",
      f"  --config.allow_config_change={','.join(changed)}",
    ])
  )  # fmt: skip


def _shown(old: Any, new: Any, older: bool) -> str:
  """Both values of a key, and where the run is older than it, what the first stands for."""
  if not older:
    return f"{old!r} -> {new!r}"
  if old is None:
    return f"the run is older than this key, and no value of it does what the run did -> {new!r}"
  return f"{old!r}, which the run did before there was this key -> {new!r}"


def check_effect(
  changed: Mapping[str, Any], saved: Mapping[str, Saved | None], config: Config
) -> None:
  """Checks that changes of the config can still change what it says they do.

  Args:
    changed: from `allowed_changes`.
    saved: by stage in order, the checkpoint that it is resumed from.
    config: now.

  Raises:
    UserError: a stage has made more steps than asked for, or a key belongs to what is over.
  """
  stages = list(saved)
  begun = [stage for stage in stages if saved[stage]]
  for stage in begun:
    done = saved[stage].step
    later = [s for s in begun if stages.index(s) > stages.index(stage)]
    steps = f"{stage}.steps"
    if steps in changed and getattr(config, stage).steps < done and not later:
      raise UserError(
        f"{steps}={getattr(config, stage).steps} is less than the {done} steps that are done. "
        f"Choose at least {done}, or take another folder and init_from="
        f"{saved[stage].path.parent}/STEP."
      )
    mine = [key for key in changed if key.startswith(f"{stage}.")]
    if mine and (later or over(stage, saved[stage], config)):
      after = f", and {later[-1]} has begun" if later else ""
      raise UserError(
        f"{', '.join(mine)} would change nothing: {stage} ended at step {done}{after}. Undo the "
        "change, or take another folder."
      )
  last = stages[-1] if stages else None
  if last and saved[last] and over(last, saved[last], config):
    idle = [key for key in changed if not _within(key, _OF_EVALUATION)]
    if idle:
      raise UserError(
        f"{', '.join(idle)} would change nothing: the training is over. Undo the change, raise "
        f"{last}.steps with it, or take another folder."
      )


def over(stage: str, saved: Saved | None, config: Config) -> bool:
  """Whether a stage has nothing left to train: not where it was given more steps since."""
  if saved is None or not saved.record.get("finished"):
    return False
  before = saved.record.get("config", {}).get(stage, {})
  if stage == setup.HFT and saved.step < before.get("steps", 0):  # it reached its accuracies
    return before.get("until") == plain(config.hft.until)
  return saved.step >= getattr(config, stage).steps


def check_record(saved: Saved) -> None:
  """Raises:
  CheckpointError: what a checkpoint says of its run is not what a run writes.
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
    and all(isinstance(record.get("config", {}).get(s, {}), Mapping) for s in setup.STAGES)
  )
  if not right:
    raise CheckpointError(
      f"the checkpoint {saved.path} has a record that no run of this version wrote. Remove it, and "
      "the one before is used."
    )


def _changes(before: Mapping[str, Any], config: Config) -> Iterator[tuple[str, tuple[Any, Any]]]:
  """Keys that differ in what they ask for from values by key; see `policy_settings.asked`."""
  asked = policy_settings.asked(config)
  for key, (old, new) in difference(before, dict(flatten(plain(config), KNOBS))).items():
    section, _, name = key.partition(".")
    # What a run started from may be gone when it is resumed.
    same_path = key.endswith("init_from") and setup.same_path(str(old), new)
    left_alone = section == "policy" and config.init_from and name not in asked
    if not (_within(key, FREE) or same_path or left_alone):
      yield key, (old, new)


def _within(key: str, names: Sequence[str]) -> bool:
  """Whether a key is one of `names`, or in a section of that name."""
  return any(key == name or key.startswith(f"{name}.") for name in names)


def difference(
  before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
  """Dotted keys whose values differ, with both values; `None` where a side lacks the key."""
  found: dict[str, tuple[Any, Any]] = {}
  for key in sorted({*before, *now}):
    old, new = before.get(key), now.get(key)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
      found |= difference(old, new, f"{prefix}{key}.")
    elif old != new and (old is not None or new != {}):  # what names may be put into came later
      found[f"{prefix}{key}"] = (old, new)
  return found

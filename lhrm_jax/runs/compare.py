"""The arms of a comparison, as a config describes them.

A config file of `experiments.compare` is that of a run, with two keys more:

```python
config.arms = arms({"hgpo": {}, "grpo": {"hgpo.advantage": "grpo", "hgpo.pairing": "free"}})
config.seeds = (0, 1, 2)
```
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from lhrm_jax.config import flatten, short
from lhrm_jax.errors import UserError
from lhrm_jax.runs.config import KNOBS, Config, from_config_dict, problems, to_dict
from lhrm_jax.runs.paths import absolute

JOB = "job"  # of an arm: the key beside its overrides
_DEFAULT_JOB = "hgpo"
EVALUATION_ONLY = "hft"  # the job that trains nothing
OFFLINE = ("dpo", "rft")  # those that train on rollouts sampled before
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SEED = "{seed}"
# What all arms share: they start from the same policy and are evaluated alike.
_SHARED = ("allow_config_change", "data", "evaluation", "hft", "init_from", "policy", "reward",
           "reward_by_source", "reward_model", "reward_weights", "rollouts", "seed",
           "task")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Arm:
  """One method of a comparison.

  Attributes:
    name: also of its folder.
    job: what trains it.
    overrides: of the config that all arms share, by dotted key.
  """

  name: str
  job: str
  overrides: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Arms and seeds, checked.

  Attributes:
    base: the config that all arms share.
    arms: in order; the others are compared with the first.
    seeds: distinct.
  """

  base: ConfigDict
  arms: tuple[Arm, ...]
  seeds: tuple[int, ...]

  def init_from(self, seed: int) -> str:
    """What the arms of a seed start from; "" where the comparison makes it."""
    return absolute(self.base.init_from.replace(_SEED, str(seed)))

  def start(self, seed: int, start: str = "") -> Config:
    """The config of what all arms of a seed share: the cold start, or the rollouts of `start`."""
    return from_config_dict(_with(self.base, {"seed": seed, "init_from": start}))

  def config(self, arm: Arm, seed: int, start: str, rollouts: str = "") -> Config:
    """The config of one arm from what `start` names, on the rollouts in a folder if given."""
    values = {**arm.overrides, "seed": seed, "init_from": start}
    if rollouts:
      values["rollouts.path"] = rollouts
    return from_config_dict(_with(self.base, values))


def arms(overrides: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
  """The section `arms` of a config: overrides by dotted key, and perhaps "job", by arm."""
  section = ConfigDict(sort_keys=False)  # the first one is what the others are compared with
  for name, of_arm in overrides.items():
    section[name] = ConfigDict()
    for key, value in of_arm.items():
      _set(section[name], key, value)
  return section


def of_config(config: ConfigDict, jobs: Collection[str]) -> Comparison:
  """The comparison that a config describes; nothing has run.

  Args:
    config: of a run, with `arms` and `seeds`.
    jobs: names that an arm's `job` may have.

  Raises:
    UserError: names everything that is wrong in any arm.
  """
  given = {key: config.get(key) for key in ("arms", "seeds")}
  base = ConfigDict({key: value for key, value in config.items() if key not in given})
  seeds, wrong = given["seeds"], []
  if not (isinstance(seeds, tuple | list) and seeds and len({*seeds}) == len(seeds)):
    wrong.append(f"seeds={short(seeds)} must be a tuple of distinct whole numbers, as (0, 1, 2).")
    seeds = (0,)  # for the checks of the arms
  if not isinstance(given["arms"], ConfigDict) or not len(given["arms"]):
    wrong.append("arms is empty: name at least one, as lhrm_jax.runs.compare.arms({'hgpo': {}}).")
    given["arms"] = ConfigDict()
  of_base = problems(base)
  found = []
  for name, section in given["arms"].items():
    if not (_NAME.fullmatch(name) and isinstance(section, ConfigDict)):
      wrong.append(f"arms.{short(name)}: a name of letters, digits, - and _, with a section.")
      continue
    overrides = dict(flatten(section.to_dict(), KNOBS))
    arm = Arm(name, overrides.pop(JOB, _DEFAULT_JOB), overrides)
    found.append(arm)
    of_arm = _problems(arm, base, seeds, jobs)
    wrong += [f"arms.{name}: {problem}" for problem in of_arm if problem not in of_base]
  wrong = of_base + wrong
  if wrong:
    raise UserError("\n  ".join([f"{len(wrong)} of the comparison's values cannot be:", *wrong]))
  return Comparison(base, tuple(found), tuple(seeds))


def _problems(
  arm: Arm, base: ConfigDict, seeds: Collection[int], jobs: Collection[str]
) -> list[str]:
  if arm.job not in jobs:
    return [f"job={short(arm.job)} must be one of {', '.join(sorted(jobs))}."]
  if arm.job == EVALUATION_ONLY and arm.overrides:
    return [f"job={arm.job!r} only evaluates the start: {', '.join(arm.overrides)} has no effect."]
  shared = [key for key in arm.overrides if key.partition(".")[0] in _SHARED]
  if shared:
    return [f"{', '.join(shared)}: all arms share these. Set it for the whole comparison."]
  found: dict[str, None] = {}
  for seed in seeds:  # each, since they are the user's
    found |= dict.fromkeys(problems(_with(base, {**arm.overrides, "seed": seed})))
  return list(found)


def _with(base: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
  config = ConfigDict(to_dict(base))
  for key, value in values.items():
    _set(config, key, value)
  return config


def _set(config: ConfigDict, key: str, value: Any) -> None:
  """Sets a dotted key, with the sections on the way where they are missing."""
  *path, last = key.split(".")
  for name in path:
    if not isinstance(config.get(name), ConfigDict):
      config[name] = ConfigDict()
    config = config[name]
  with config.ignore_type():
    config[last] = value

"""Methods against each other on the demo's task, from one cold start per seed.

  python -m experiments.compare --config experiments/configs/compare_arithmetic.py \\
      --workdir runs/compare

An arm is HGPO's config with a method's knobs (docs/algorithms.md); differences in the tables are to
the first arm. Learning rate, batch and number of samples are HGPO's, as for the paper's baselines.
"""

from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from experiments.configs import arithmetic, arithmetic_dpo, arithmetic_rft
from lhrm_jax.runs import methods
from lhrm_jax.runs.compare import arms

_METHODS = ("hgpo", "hgpo_rloo", "hgpo_reinforce_pp", "grpo", "thinkless", "adapt_think",
            "auto_think", "ada_grpo", "l1_max")  # fmt: skip
_EVAL_EVERY = 20  # steps


def get_config() -> ConfigDict:
  config = arithmetic.get_config()
  config.hgpo.eval_every = _EVAL_EVERY
  config.hgpo.eval_hacc = True
  config.seeds = (0, 1, 2, 3, 4)
  config.arms = arms(
    {name: methods.overrides(name) for name in _METHODS}
    | {"hft": {"job": "hft"}}
    | {"hft_rft": _offline("rft", arithmetic_rft), "hft_dpo": _offline("dpo", arithmetic_dpo)}
  )
  return config


def _offline(job: str, module: ModuleType) -> dict[str, Any]:
  section = {**module.get_config()[job], "eval_every": _EVAL_EVERY}
  return {"job": job, **{f"{job}.{key}": value for key, value in section.items()}}

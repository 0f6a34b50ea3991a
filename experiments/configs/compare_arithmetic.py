"""Methods against each other on the demo's task, from one cold start per seed.

  python -m experiments.compare --config experiments/configs/compare_arithmetic.py \\
      --workdir runs/compare

An arm is HGPO's config with other keys (docs/algorithms.md); differences in the tables are to the
first arm.
"""

from ml_collections import ConfigDict

from experiments.configs import arithmetic
from lhrm_jax.runs.compare import arms

_FREE = {"hgpo.advantage": "grpo", "hgpo.pairing": "free"}


def get_config() -> ConfigDict:
  config = arithmetic.get_config()
  config.hgpo.eval_every = 20
  config.hgpo.eval_hacc = True
  config.seeds = (0, 1, 2, 3, 4)
  config.arms = arms(
    {
      "hgpo": {},
      "hgpo_rloo": {"hgpo.estimator": "rloo"},
      "hgpo_reinforce_pp": {"hgpo.estimator": "reinforce_pp"},
      "grpo": _FREE,
      "hft": {"job": "hft"},
    }
  )
  return config

"""Paired against free sampling from starts that think on few, half or nearly all prompts.

  for prior in 0.02 0.5 0.98; do
    python -m experiments.compare --config experiments/configs/compare_starts.py:$prior \\
        --workdir runs/compare_starts_$prior
  done

On prompts of known accuracies (`lhrm_jax.data.guessing`): whatever the method, thinking is right
for kind A and a direct answer for kind E.
"""

from ml_collections import ConfigDict

from experiments.configs import guessing
from lhrm_jax.runs import methods
from lhrm_jax.runs.compare import arms

_METHODS = ("hgpo", "adapt_think", "grpo", "thinkless", "auto_think", "ada_grpo")


def get_config(think_prior: str = "0.5") -> ConfigDict:
  config = guessing.get_config(think_prior)
  config.hgpo.eval_every = 25
  config.seeds = (0, 1, 2, 3, 4)
  config.arms = arms({name: methods.overrides(name) for name in _METHODS})
  return config

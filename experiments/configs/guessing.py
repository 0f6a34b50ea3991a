"""A task on which it is known how often each mode is right (`lhrm_jax.data.guessing`).

  python -m experiments.hgpo --config experiments/configs/guessing.py --workdir runs/guessing

The start thinks on half of all prompts; `--config experiments/configs/guessing.py:0.02` has one
that thinks on 2 %.
"""

import functools

from ml_collections import ConfigDict

from experiments.configs import arithmetic
from lhrm_jax.data import tasks
from lhrm_jax.data.guessing import Guessing


def get_config(think_prior: float | str = 0.5) -> ConfigDict:
  think_prior = float(think_prior)
  config = arithmetic.get_config()
  config.task = "guessing"
  if think_prior != 0.5:
    config.task = f"guessing_{think_prior:g}"
    tasks.register(config.task, functools.partial(Guessing, think_prior=think_prior))
  config.reward = "guess"

  config.hft.steps = 300
  config.hft.think_per_step = 24
  config.hft.no_think_per_step = 24
  config.hft.until.think = 0.0
  config.hft.until.no_think = 0.0

  # A guess is a draw: greedy decoding would make the same one for every prompt of a kind.
  config.evaluation.temperature = 1.0
  config.evaluation.hacc_temperature = 1.0
  return config

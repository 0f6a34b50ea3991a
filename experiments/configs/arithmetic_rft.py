"""HFT-RFT of the demo's policy, on as many responses as the demo's HGPO samples.

  C=experiments/configs/arithmetic_rft.py
  python -m experiments.rollouts --config $C --config.init_from=runs/arithmetic/checkpoints/hft \\
      --workdir runs/rollouts
  python -m experiments.rft --config $C --config.init_from=runs/arithmetic/checkpoints/hft \\
      --config.rollouts.path=runs/rollouts --workdir runs/rft

The paper takes over HGPO's learning rate, batch size and number of samples; so does this.
"""

from ml_collections import ConfigDict

from experiments.configs import arithmetic


def get_config() -> ConfigDict:
  config = arithmetic.get_config()
  config.rft.steps = config.hgpo.steps
  config.rft.responses_per_step = config.hgpo.prompts_per_step
  config.rft.learning_rate = config.hgpo.learning_rate
  config.rft.packed_length = 256
  return config

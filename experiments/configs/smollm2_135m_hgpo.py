"""Teaches SmolLM2-135M-Instruct when to think, from a run of `smollm2_135m_hft.py`.

  python -m experiments.hgpo --config experiments/configs/smollm2_135m_hgpo.py \\
      --config.init_from=runs/smol_hft --workdir runs/smol_hgpo

For one GPU. No full run yet, see `smollm2_135m_hft.py`.
"""

from ml_collections import ConfigDict

from experiments.configs import smollm2_135m_hft


def get_config() -> ConfigDict:
  config = smollm2_135m_hft.get_config()
  config.init_from = "runs/smol_hft"
  return config

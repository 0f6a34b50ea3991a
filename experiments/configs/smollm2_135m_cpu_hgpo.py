"""Teaches SmolLM2-135M-Instruct when to think, on two CPU cores: after `smollm2_135m_cpu_hft.py`.

  python -m experiments.hgpo --config experiments/configs/smollm2_135m_cpu_hgpo.py \\
      --workdir runs/smol_cpu_hgpo
"""

from ml_collections import ConfigDict

from experiments.configs import smollm2_135m_cpu_hft


def get_config() -> ConfigDict:
  config = smollm2_135m_cpu_hft.get_config()
  config.init_from = "runs/smol_cpu_hft"
  return config

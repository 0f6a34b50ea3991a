"""Teaches SmolLM2-135M-Instruct when to think, from a run of `smollm2_135m_gpu_hft.py`.

  python -m experiments.hgpo --config experiments/configs/smollm2_135m_gpu_hgpo.py \\
      --workdir runs/smol_gpu_hgpo
"""

from ml_collections import ConfigDict

from experiments.configs import smollm2_135m_gpu_hft


def get_config() -> ConfigDict:
  config = smollm2_135m_gpu_hft.get_config()
  config.init_from = "runs/smol_gpu_hft"
  return config

"""Hybrid Group Policy Optimization of Qwen2.5-Math-1.5B with the paper's settings.

  python -m experiments.hgpo --config experiments/configs/qwen2_5_math_1_5b_hgpo.py:v5e-16 \\
      --config.init_from=/mnt/runs/qwen1_5b_hft --workdir /mnt/runs/qwen1_5b_hgpo

See `qwen2_5_math_7b_hgpo.py`. Not yet run.
"""

from ml_collections import ConfigDict

from experiments.configs import qwen2_5_math_1_5b_hft, qwen2_5_math_7b_hgpo


def get_config(chips: str = "v5e-16") -> ConfigDict:
  return qwen2_5_math_7b_hgpo.as_hgpo(qwen2_5_math_1_5b_hft.get_config(chips), "runs/qwen1_5b_hft")

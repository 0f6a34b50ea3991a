"""Hybrid Fine-Tuning of Qwen2.5-Math-1.5B with the paper's settings, at 32k tokens of context.

  python -m experiments.hft --config experiments/configs/qwen2_5_math_1_5b_hft.py:v5e-16 \\
      --workdir /mnt/runs/qwen1_5b_hft

The suffix after the colon names the chips: v5e-16 (4x4), v5p-64, v6e-64 or h100-8; see
`qwen2_5_math_7b_hft.py`. Not yet run.
"""

from ml_collections import ConfigDict

from experiments.configs import qwen2_5_math_7b_hft

LAYOUTS = {
  "v5e-16": {
    "fsdp": 16,
    "tensor": 1,
    "sampling": 1,
    "chunks": 4,
    "rows": 16,
    "responses": 2,
  },
  "v5p-64": {"fsdp": 32, "tensor": 1, "sampling": 1, "rows": 64},
  "v6e-64": {"fsdp": 32, "tensor": 2, "sampling": 1, "rows": 32},
  "h100-8": {"fsdp": 8, "tensor": 1, "sampling": 1, "chunks": 2, "rows": 8},
}


def get_config(chips: str = "v5e-16") -> ConfigDict:
  config = qwen2_5_math_7b_hft.get_config()
  config.init_from = "Qwen/Qwen2.5-Math-1.5B"
  config.policy.vocab_size = 151_936
  config.policy.hidden_size = 1536
  config.policy.intermediate_size = 8960
  config.policy.num_heads = 12
  config.policy.num_kv_heads = 2
  config.policy.tie_embeddings = True
  return qwen2_5_math_7b_hft.on_chips(config, chips, LAYOUTS)

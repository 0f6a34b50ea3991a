"""Hybrid Fine-Tuning of Qwen2.5-Math-7B with the paper's settings, at 32k tokens of context.

  python -m experiments.hft --config experiments/configs/qwen2_5_math_7b_hft.py:v5p-64 \\
      --workdir /mnt/runs/qwen7b_hft

The suffix after the colon names the chips, which determine mesh and rows at a time: v5p-64 (64
chips, 4x4x4), v5p-16 (2x2x4), v6e-64 (8x8) or h100-8. `python -m experiments.plan` estimates the
cost of each (docs/scaling.md). The workdir is in a bucket (s3://, gs://), or on a file system that
all hosts share (docs/launching.md). Trains on the paper's sources (`mixture_lhrm.py`), prepared
once by experiments.prepare_data and named by --config.data.root=/mnt/lhrm; without that, they are
read from the hub into each host's memory. Not yet run: no score or time is known.
"""

from ml_collections import ConfigDict

from experiments.configs import mixture_lhrm
from lhrm_jax.runs import defaults

# Axes of the update's mesh (data takes the remaining chips), devices that share a copy of the
# weights in sampling, chunks that a step's prompts are sampled in, rows of HFT at a time.
LAYOUTS = {
  # 32 chips hold whole tiles of each matrix (docs/scaling.md); v6e lacks the memory.
  "v5p-64": {"fsdp": 32, "tensor": 1, "sampling": 4, "rows": 64},
  # Planned for HFT alone: the paper's 128 demonstrations of a step fill some 14 rows, one a chip.
  "v5p-16": {"fsdp": 16, "tensor": 1, "sampling": 4, "rows": 16},
  "v6e-64": {"fsdp": 64, "tensor": 1, "sampling": 4, "rows": 64},
  "h100-8": {"fsdp": 8, "tensor": 1, "sampling": 1, "chunks": 4, "rows": 8},
}


def get_config(chips: str = "v5p-64") -> ConfigDict:
  config = mixture_lhrm.with_sources(defaults.get_config())
  config.reward = "math"
  config.init_from = "Qwen/Qwen2.5-Math-7B"

  # The model's own sizes, so that it can be planned without its files. It was trained at 4,096
  # positions; the higher RoPE base extends it to 32,768 (https://arxiv.org/abs/2309.16039).
  config.policy.vocab_size = 152_064
  config.policy.hidden_size = 3584
  config.policy.intermediate_size = 18_944
  config.policy.num_layers = 28
  config.policy.num_heads = 28
  config.policy.num_kv_heads = 4
  config.policy.head_dim = 128
  config.policy.qkv_bias = True
  config.policy.tie_embeddings = False
  config.policy.max_positions = 32_768
  config.policy.rope_theta = 300_000.0
  config.policy.dtype = "bfloat16"
  config.policy.remat = "full"

  config.data.long_prompts = "skip"
  config.data.long_demonstrations = "skip"

  config.hft.steps = 39_717  # 3 epochs of the paper's 1,694,586 demonstrations
  config.hft.warmup_steps = 3972
  config.hft.think_per_step = 77  # 60 % of them think
  config.hft.no_think_per_step = 51
  config.hft.packed_length = 32_768
  config.hft.learning_rate = 1e-4

  config.evaluation.prompts = 500
  config.evaluation.batch_prompts = 32
  config.checkpoint.every = 200
  return on_chips(config, chips, LAYOUTS)


def on_chips(config: ConfigDict, chips: str, layouts: dict[str, dict[str, int]]) -> ConfigDict:
  """Sets the keys that depend on the chips, from one of `layouts`."""
  if chips not in layouts:
    raise ValueError(f"no layout for {chips!r}; choose one of {', '.join(layouts)}.")
  layout = layouts[chips]
  config.mesh.fsdp, config.mesh.tensor = layout["fsdp"], layout["tensor"]
  config.sampling_mesh.tensor = layout["sampling"]
  config.hgpo.sampling_chunks = layout.get("chunks", 1)
  config.hft.micro_batch_rows = layout["rows"]
  parts = int(chips.partition("-")[2]) // layout["tensor"]
  # Longest responses in each part of the batch: 4 have about as many tokens as one row of HFT.
  config.hgpo.micro_batch_rows = layout.get("responses", 4) * parts
  # Logits of 1,024 tokens at a time in each part of the batch.
  config.policy.logprob_chunk = 1024 * parts
  return config

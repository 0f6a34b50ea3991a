"""The demo: a tiny policy, trained from scratch on a laptop, learns when to think.

  python -m experiments.hgpo --config experiments/configs/arithmetic.py --workdir runs/arithmetic

Hybrid Fine-Tuning of a 3-layer policy of 162,000 parameters on chains such as 3+4*7, until it
solves the short ones directly and all of them by thinking. It then thinks on every prompt, as most
of its labels do; HGPO teaches it to think only where that pays. Results: README.md.
"""

from ml_collections import ConfigDict

from lhrm_jax.runs import defaults


def get_config() -> ConfigDict:
  config = defaults.get_config()
  config.task = "arithmetic"
  config.reward = "exact_match"

  # Three layers compile fast and run faster unrolled. The low RoPE base suits 50 positions (with
  # 10,000, most channels hardly rotate), and normalised queries and keys let attention sharpen
  # early: each halves the steps until the policy learns to think.
  config.policy.scan_layers = False
  config.policy.rope_theta = 100.0
  config.policy.qk_norm = True
  config.policy.max_positions = 64

  config.data.max_prompt_tokens = 22
  config.data.max_response_tokens = 28
  config.data.max_no_think_tokens = 4

  config.hft.steps = 3000
  config.hft.think_per_step = 12
  config.hft.no_think_per_step = 64
  config.hft.learning_rate = 3e-3
  config.hft.until.think = 0.99
  config.hft.until.no_think = 0.99

  config.hgpo.steps = 100
  config.hgpo.prompts_per_step = 32
  config.hgpo.samples_per_mode = 4
  config.hgpo.learning_rate = 5e-4
  config.hgpo.beta = 0.02
  config.hgpo.clip_low = 0.2
  config.hgpo.clip_high = 0.2
  # Responses are short here, and direct ones a fifth as long as the others; see docs/method.md.
  config.hgpo.aggregation = "token_mean"

  # Greedy replies for accuracy; Hybrid Accuracy samples at the paper's temperature.
  config.evaluation.prompts = 300
  config.evaluation.temperature = 0.0
  config.evaluation.top_p = 1.0
  config.evaluation.hacc_temperature = 0.6
  return config

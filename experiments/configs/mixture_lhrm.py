"""The paper's mixture: 1,694,586 demonstrations of two modes and the queries of stage II.

  python -m experiments.prepare_data --config experiments/configs/mixture_lhrm.py --out /mnt/lhrm
  python -m experiments.hft --config experiments/configs/qwen2_5_math_7b_hft.py:v5p-64 \\
      --config.data.root=/mnt/lhrm --workdir /mnt/runs/qwen7b_hft

Sources and sizes are those of tables 2 and 3 of https://arxiv.org/abs/2505.14631; where more rows
are left than the paper has, so many are chosen at random. The tokenizer is Qwen2.5-Math's, which
1.5B and 7B share. A copy on disk is read in place of the hub's with
--config.data.sources.wildchat.path='copies/wildchat/*.parquet'
--config.data.sources.wildchat.format=wildchat. The paper's 741 problems of AIME are left out: the
hub has no responses to them, and `aime_solved` reads those of your own (docs/data.md). Not yet run
on the real sources.
"""

from ml_collections import ConfigDict

from lhrm_jax.evaluation.suites import REGISTRY
from lhrm_jax.runs import defaults

# Rows by source. General:
DIRECT = {"wildchat": 649_569, "oasst1": 25_339}
THINKING = {
  # mathematics
  "synthetic1_math": 343_988,
  "openr1_math": 93_533,
  "openthoughts_math": 55_566,
  "aops": 137_497,
  # code
  "synthetic1_code": 107_543,
  "codeforces_cots": 8_926,
  "openthoughts_code": 19_447,
  "kodcode": 245_929,
  # other
  "synthetic1_other": 6_508,
}
QUERIES = {"deepscaler": 40_000, "tulu3_preferences": 50_000}


def get_config() -> ConfigDict:
  return with_sources(defaults.get_config())


def with_sources(config: ConfigDict) -> ConfigDict:
  """Sets the keys that name the paper's sources, and how they are prepared."""
  config.task = "rows"
  config.data.demonstrations = ",".join([*DIRECT, *THINKING])
  config.data.prompts = ",".join(QUERIES)
  config.data.evaluation = "math500"
  config.data.on_bad_row = "skip"
  config.data.max_prompt_tokens = 2048
  config.data.max_response_tokens = 30_720
  config.data.max_no_think_tokens = 9216

  config.prepare.tokenizer = "Qwen/Qwen2.5-Math-7B"
  config.prepare.chat = "wildchat"
  config.prepare.most_rows = {
    name: float(rows) for name, rows in {**DIRECT, **THINKING, **QUERIES}.items()
  }
  config.prepare.suites = ",".join(REGISTRY.names())
  config.prepare.tasks = 64
  return config

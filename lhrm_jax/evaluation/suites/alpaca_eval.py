"""AlpacaEval 2: 805 open instructions, each with GPT-4-Turbo's output as the baseline.

A judge compares the reply with that output (`evaluation.judge`); the score is the probability that
it prefers the reply. The published figures come from one judge and its own prompt
(https://github.com/tatsu-lab/alpaca_eval): scores of another judge compare with each other only.
"""

from lhrm_jax.data.fields import Fields, text_field
from lhrm_jax.evaluation.suites.suite import JUDGE, SuiteRow, register, row


@register(
  "alpaca_eval", "tatsu-lab/alpaca_eval", "eval", subset="alpaca_eval_gpt4_baseline", scorer=JUDGE
)
def read(fields: Fields) -> SuiteRow:
  """The answer of a row is the baseline's output."""
  return row(
    "alpaca_eval", text_field(fields, "instruction"), text_field(fields, "output"),
    subject=fields.get("dataset"),
  )  # fmt: skip

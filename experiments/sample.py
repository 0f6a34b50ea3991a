"""Asks a trained policy a question: shows the mode it chooses, with both forced responses.

  python -m experiments.sample --config.init_from=runs/arithmetic \\
      "Left to right, last digit: what is 3+4*7?"
"""

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from lhrm_jax import parallel, policy
from lhrm_jax.errors import UserError
from lhrm_jax.runs import command_line, replies, setup
from lhrm_jax.sampling import SamplerSpec, mode_logprobs, prefill, sample
from lhrm_jax.text import tags

_DEFAULT_CONFIG = "experiments/configs/sample.py"


def main(argv) -> None:
  c = _CONFIG.value
  questions = argv[1:]
  if not c.init_from or not questions:
    raise UserError(
      'Name a run and a question: python -m experiments.sample --config.init_from=RUN "..."'
    )
  setup.use_compilation_cache(c.compilation_cache)
  config, tokenizer, params = setup.load_policy(c.init_from, parallel.make_mesh())
  for question in questions:
    answer(c, config, tokenizer, params, question)


def answer(c, config, tokenizer, params, question: str) -> None:
  """Prints the mode probabilities and both forced responses of one question."""
  prompts, max_tokens = replies.prompt_of(question, tokenizer, config, c.max_response_tokens)
  opening, console = tokenizer.tag_ids.opening, Console()

  hidden, _ = prefill(config, params, prompts)
  logits = policy.next_token_logits(config, params, hidden) / (c.temperature or 1.0)
  probs = np.exp(mode_logprobs(logits, opening))[0]
  chosen = tokenizer.tag_ids.mode_of(int(logits[0].argmax()))
  choice = tags.MODES[chosen] if chosen != tags.INVALID_MODE else "neither mode"
  console.print(
    f"chooses [bold]{choice}[/bold]   p(think) = {probs[0]:.3f}   p(no_think) = {probs[1]:.3f}   "
    f"p(neither) = {probs[2]:.3f}"
  )

  spec = SamplerSpec.of(
    tokenizer, samples=1, max_tokens=max_tokens, paired=True, temperature=c.temperature,
    top_p=c.top_p,
  )  # fmt: skip
  rollouts = jax.device_get(sample(config, spec, params, prompts, jax.random.key(c.seed)))
  table = Table(show_lines=True)
  for mode in tags.MODES:
    table.add_column(mode, overflow="fold")
  for row in zip(*replies.shown(tokenizer, rollouts), strict=True):
    table.add_row(*row)
  console.print(table)


if __name__ == "__main__":
  _CONFIG = command_line.define_config(_DEFAULT_CONFIG)
  command_line.run(main, arguments="QUESTION ...")

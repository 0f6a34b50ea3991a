"""Asks a trained policy a question: shows the mode it chooses, with both forced responses.

  python -m experiments.sample --config.init_from=runs/arithmetic \\
      "Left to right, last digit: what is 3+4*7?"

The dials change the choice and the thought: --config.dials.tag_bias=2 thinks sooner,
--config.dials.threshold=0.3 thinks where p(think) reaches it, --config.dials.budget=6 cuts the
thought.
"""

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from lhrm_jax import parallel, policy
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.runs import command_line, loading, replies, setup
from lhrm_jax.sampling import Dials, SamplerSpec, mode_logprobs, prefill, sample
from lhrm_jax.sampling.dials import biased, decided
from lhrm_jax.text import tags

_DEFAULT_CONFIG = "experiments/configs/sample.py"


def main(argv) -> None:
  c = _CONFIG.value
  questions = argv[1:]
  if not c.init_from or not questions:
    raise UserError(
      'Name a run and a question: python -m experiments.sample --config.init_from=RUN "..."'
    )
  set_dials = replies.dials_of(c.dials)
  setup.use_compilation_cache(c.compilation_cache)
  config, tokenizer, params = loading.load_policy(c.init_from, parallel.make_mesh())
  with as_user_error(ValueError):
    dials = Dials.of(set_dials, tokenizer)
  for question in questions:
    answer(c, config, tokenizer, params, question, dials)


def answer(c, config, tokenizer, params, question: str, dials: Dials | None) -> None:
  """Prints the mode probabilities and both forced responses of one question."""
  prompts, max_tokens = replies.prompt_of(question, tokenizer, config, c.max_response_tokens)
  opening, console = tokenizer.tag_ids.opening, Console()

  hidden, _ = prefill(config, params, prompts)
  logits = policy.next_token_logits(config, params, hidden)
  set_to = (dials or Dials()).by_row((1, 1, 1))
  bias, threshold = (None if x is None else x.ravel() for x in (set_to.tag_bias, set_to.threshold))
  turned = biased(logits, opening, bias)
  probs = np.exp(mode_logprobs(turned / (c.temperature or 1.0), opening))[0]
  first = decided(jnp.argmax(turned, axis=1), logits, opening, threshold)
  chosen = tokenizer.tag_ids.mode_of(int(first[0]))
  choice = tags.MODES[chosen] if chosen != tags.INVALID_MODE else "neither mode"
  console.print(
    f"chooses [bold]{choice}[/bold]   p(think) = {probs[0]:.3f}   p(no_think) = {probs[1]:.3f}   "
    f"p(neither) = {probs[2]:.3f}"
  )

  spec = SamplerSpec.of(
    tokenizer, samples=1, max_tokens=max_tokens, paired=True, temperature=c.temperature,
    top_p=c.top_p,
  )  # fmt: skip
  rollouts = jax.device_get(
    sample(config, spec, params, prompts, jax.random.key(c.seed), dials=dials)
  )
  table = Table(show_lines=True)
  for mode in tags.MODES:
    table.add_column(mode, overflow="fold")
  for row in zip(*replies.shown(tokenizer, rollouts), strict=True):
    table.add_row(*row)
  console.print(table)


if __name__ == "__main__":
  _CONFIG = command_line.define_config(_DEFAULT_CONFIG)
  command_line.run(main, arguments="QUESTION ...")

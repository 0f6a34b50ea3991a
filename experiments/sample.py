"""Asks a trained policy: the mode it chooses, how surely, and both forced responses side by side.

  python -m experiments.sample --config.init_from=runs/arithmetic \\
      "Left to right, last digit: what is 3+4*7?"
"""

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lhrm_jax import parallel, policy
from lhrm_jax.errors import UserError
from lhrm_jax.evaluation import mode_probs
from lhrm_jax.runs import command_line, setup
from lhrm_jax.sampling import FINISH_REASONS, Prompts, SamplerSpec, prefill, sample
from lhrm_jax.text import parse_response, tags
from lhrm_jax.text.characters import printable

_DEFAULT_CONFIG = "experiments/configs/sample.py"


def main(argv) -> None:
  c = _CONFIG.value
  questions = argv[1:]
  if not c.init_from or not questions:
    raise UserError(
      'Name a run and ask something: python -m experiments.sample --config.init_from=RUN "..."'
    )
  setup.use_compilation_cache(c.compilation_cache)
  config, tokenizer, params = setup.load_policy(c.init_from, parallel.make_mesh())
  for question in questions:
    answer(c, config, tokenizer, params, question)


def answer(c, config, tokenizer, params, question: str) -> None:
  """Prints one question's mode probabilities and both responses."""
  try:
    ids = tokenizer.encode_prompt(question)
  except ValueError as error:
    raise UserError(str(error)) from error
  room = config.max_positions - len(ids)
  max_tokens = min(c.max_response_tokens or room, room)
  if max_tokens < 2:
    raise UserError(
      f"The prompt's {len(ids)} tokens leave no room in {config.max_positions} positions."
    )
  prompts = Prompts(
    np.array([ids], np.int32), np.array([len(ids)], np.int32), np.zeros(1, np.int32)
  )
  hidden, _ = prefill(config, params, prompts)
  logits = policy.next_token_logits(config, params, hidden)
  if c.temperature > 0:
    logits = logits / c.temperature
  probs = np.asarray(mode_probs(logits, tokenizer.tag_ids.opening))[0]
  chosen = tokenizer.tag_ids.mode_of(int(logits[0].argmax()))

  spec = SamplerSpec.of(tokenizer, samples=1, max_tokens=max_tokens, paired=True)
  rollouts = jax.device_get(
    sample(
      config, spec, params, prompts, jax.random.key(c.seed),
      temperature=c.temperature, top_p=c.top_p,
    )
  )  # fmt: skip

  console = Console()
  choice = tags.MODES[chosen] if chosen != tags.INVALID_MODE else "neither mode"
  console.print(
    f"chooses [bold]{choice}[/bold]   p(think) = {probs[0]:.3f}   p(no_think) = {probs[1]:.3f}   "
    f"p(neither) = {probs[2]:.3f}"
  )
  table = Table(show_lines=True)
  for mode in tags.MODES:
    table.add_column(mode, overflow="fold")
  texts, footers = [], []
  for m in range(len(tags.MODES)):
    length = int(rollouts.lengths[0, m, 0])
    text = tokenizer.decode(rollouts.responses[0, m, 0, :length].tolist())
    problem = parse_response(text).problem
    if FINISH_REASONS[rollouts.finish_reason[0, m, 0]] == "length":
      problem = "cut off"
    texts.append(shown(text))
    footers.append(f"{length} tokens" + (f"; malformed: {problem}" if problem else ""))
  table.add_row(*texts)
  table.add_row(*footers)
  console.print(table)


def shown(reply: str) -> Text:
  """A reply as a terminal may show it: what could move the cursor or do worse is escaped."""
  return Text(printable(reply, keep="\n\t"))


if __name__ == "__main__":
  _CONFIG = command_line.define_config(_DEFAULT_CONFIG)
  command_line.run(main, arguments="QUESTION ...")

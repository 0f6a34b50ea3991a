"""Asks a router which mode each question should get, without a model.

  python -m experiments.route "What is 17 * 23?" "Say hello."
  python -m experiments.route --router runs/routers/routers/logistic.json --think_rate 0.3 "..."

Prints the decision, the probability that thinking serves the question better, and what a model that
does not choose for itself is sent. `experiments.routers` trains routers. A router of your own must
be registered: --config FILE is executed for what it registers.
"""

import json
import pathlib

from absl import flags

from lhrm_jax import routing
from lhrm_jax.errors import UserError, as_user_error
from lhrm_jax.routing import prompts
from lhrm_jax.runs import command_line
from lhrm_jax.text import tags
from lhrm_jax.text.characters import printable


def main(argv) -> None:
  questions = argv[1:]
  if not questions:
    raise UserError('Ask a question: python -m experiments.route "What is 17 * 23?"')
  router = find(_ROUTER.value)
  if _THINK_RATE.value is not None:
    with as_user_error(ValueError):
      router = router.at(_THINK_RATE.value)
  for question, mode, p in zip(
    questions, router.modes(questions).tolist(), router.probability(questions), strict=True
  ):
    print(f"{tags.MODES[mode]}   p = {p:.3f}, threshold {router.threshold:.3f}, {router.name}")
    print("  message:", printable(prompts.with_switch(question, mode), keep="\n"))
    print("  request:", json.dumps(prompts.chat_request(question, mode)))


def find(named: str) -> routing.TrainedRouter:
  """The router in a file, or the registered one that needs no training."""
  with as_user_error(FileNotFoundError, ValueError):
    if pathlib.Path(named).expanduser().exists() or named.endswith(".json"):
      return routing.load(pathlib.Path(named).expanduser())
    return routing.untrained(named)


if __name__ == "__main__":
  _CONFIG = command_line.define_config(required=False)  # executed for what it registers
  _ROUTER = flags.DEFINE_string("router", "keywords", "Trained router's file, or a rule.")
  _THINK_RATE = flags.DEFINE_float("think_rate", None, "Think rate on prompts as in training.")
  command_line.run(main, arguments="QUESTION ...")

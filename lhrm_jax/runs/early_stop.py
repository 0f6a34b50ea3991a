"""Early stop of Hybrid Fine-Tuning, on the accuracies of the forced modes."""

from collections.abc import Sequence

import numpy as np

from lhrm_jax import policy
from lhrm_jax.errors import UserError
from lhrm_jax.evaluation import Evaluator
from lhrm_jax.text import tags


def forced_accuracy(evaluator: Evaluator, params: policy.Params, until) -> dict:
  """Returns the accuracy of forced thinking on all prompts, and of no-think on some levels."""
  scores = evaluator.forced(params).scores[..., 0]  # [K, 2]
  chosen = no_think_rows([row.level for row in evaluator.rows], until)
  return {
    "think": float(scores[:, tags.THINK].mean()),
    "no_think": float(scores[chosen, tags.NO_THINK].mean()),
  }


def check(evaluator: Evaluator, until) -> None:
  """Checks that the evaluation prompts can measure the accuracies of `hft.until`.

  Raises:
    UserError: they cannot, see `no_think_rows`.
  """
  no_think_rows([row.level for row in evaluator.rows], until)


def no_think_rows(levels: Sequence[int], until) -> np.ndarray:
  """Returns which evaluation rows measure the accuracy of forced no-think, `[K]` bool.

  Rows of `until.no_think_levels`, or all where no row has a level.

  Raises:
    UserError: `until.no_think` is set and no row has one of these levels.
  """
  levels = np.asarray(levels)
  chosen = np.isin(levels, until.no_think_levels)
  if chosen.any():
    return chosen
  if levels.any() and until.no_think:
    have = ", ".join(map(str, sorted(set(levels.tolist()))))
    raise UserError(
      f"hft.until.no_think={until.no_think:g} would never be reached: no evaluation prompt "
      f"is of hft.until.no_think_levels={tuple(until.no_think_levels)}. Their levels are {have}."
    )
  return np.ones(levels.shape, bool)


def reached(accuracy: dict, until) -> bool:
  """Whether the accuracies that end the cold start are set and reached."""
  if not (until.think or until.no_think):
    return False
  think, no_think = accuracy["eval/think"], accuracy["eval/no_think"]
  return think >= until.think and no_think >= until.no_think


def stopped_early(done: int, c, accuracy: dict[str, float]) -> str:
  """Returns a message on why a cold start ended before its last step."""
  reached = " and ".join(
    f"{mode} {accuracy[f'eval/{mode}']:.3f} of {getattr(c.until, mode):g}" for mode in tags.MODES
  )
  return (
    f"HFT ends at step {done} of {c.steps}: the accuracies of hft.until are reached ({reached})."
  )


def warm_up_warning(stage: str, steps: int, warmup_steps: int) -> str:
  """Returns a warning for a stage that ends before its learning rate peaks."""
  return (
    f"warning: {stage}.steps={steps} end within {stage}.warmup_steps={warmup_steps}: the learning "
    f"rate peaks at {steps - 1}/{warmup_steps} of {stage}.learning_rate. Lower "
    f"{stage}.warmup_steps or raise {stage}.steps."
  )

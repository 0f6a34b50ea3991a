"""Advantages of scored rollouts, by the advantage function that a config names."""

import dataclasses
import functools
import traceback
from collections.abc import Callable

import jax
import numpy as np

from lhrm_jax.objectives import advantages as registry
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.training.hgpo import HGPOConfig


def make_advantage_fn(c: HGPOConfig) -> Callable[[ScoredRollouts, int], ScoredRollouts]:
  """Returns `advantage_fn(scored, step)`, which adds advantages to rollouts, on the host.

  The function that `c.advantage` names is given the scores and, by name, the other arguments it
  takes (`objectives.advantages`): arrays and numbers only, so that `objectives` does not depend on
  rollouts. A non-finite score makes its advantages non-finite, so that the update is skipped; means
  and comparisons of modes could hide it.

  Raises:
    ValueError: there is no such function.
  """
  fn = registry.get(c.advantage)
  fn = functools.partial(fn, **registry.options(c.advantage, c, c.advantage_options))
  named = registry.context_of(c.advantage)
  if c.advantage == "hgpo":
    fn = jax.jit(fn)

  def advantage_fn(scored: ScoredRollouts, step: int) -> ScoredRollouts:
    context = {
      "lengths": scored.lengths,
      "modes": scored.modes,
      "truncated": scored.truncated,
      "well_formed": scored.well_formed,
      "step": step,
      "total_steps": c.steps,
      "ref_accuracy": scored.ref_accuracy,
      "max_length": scored.rollouts.responses.shape[-1],
    }
    found = fn(scored.scores, **{name: context[name] for name in named})
    tag, body, *rewards = (
      None if x is None else np.asarray(x, np.float32)
      for x in (found.tag, found.body, found.r_inter, found.r_intra)
    )
    with np.errstate(invalid="ignore"):
      spoiled = 0.0 * scored.scores
    return dataclasses.replace(
      scored, advantages=Advantages(tag + spoiled, body + spoiled, *rewards)
    )

  return advantage_fn


def try_out(c: HGPOConfig) -> None:
  """Computes the advantages of made-up scores, so that a function that cannot fails at once.

  Without that, its first call comes after the cold start.

  Raises:
    ValueError: the function raises, or returns no advantages of the scores' shape; says which.
  """
  shape = (c.prompts_per_step, 2 if c.pairing == "paired" else 1, c.samples)
  scores = (np.indices(shape).sum(0) % 2).astype(np.float32)
  context = {
    "lengths": np.full(shape, 2, np.int32),
    "modes": (np.indices(shape)[1] % 2).astype(int),
    "truncated": np.zeros(shape, bool),
    "well_formed": np.ones(shape, bool),
    "step": 0,
    "total_steps": c.steps,
    "ref_accuracy": np.full(shape[0], 0.5, np.float32),
    "max_length": 2,
  }
  fn, asked = registry.get(c.advantage), registry.context_of(c.advantage)
  options = registry.options(c.advantage, c, c.advantage_options)
  begin = f"hgpo.advantage={c.advantage!r}, tried on scores of 0 and 1 of shape {shape},"
  try:
    found = fn(scores, **options, **{name: context[name] for name in asked})
    shapes = {name: np.shape(getattr(found, name)) for name in ("tag", "body")}
  except Exception as error:  # a user's function may raise anything
    at = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{at.filename}:{at.lineno}"
    raise ValueError(f"{begin} fails: {type(error).__name__}: {error} ({place})") from error
  if wrong := {name: of for name, of in shapes.items() if of != shape}:
    raise ValueError(f"{begin} returns other shapes: {wrong}")

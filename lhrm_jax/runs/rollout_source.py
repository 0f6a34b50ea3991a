"""The scored rollouts of each HGPO step, with their advantages."""

import dataclasses
import functools
import pathlib

import numpy as np

from lhrm_jax import policy
from lhrm_jax.data.limits import DrawnPrompts
from lhrm_jax.objectives import advantages
from lhrm_jax.objectives.group_advantages import has_signal
from lhrm_jax.rewards.scored_rollouts import PendingScores, ScoredRollouts
from lhrm_jax.rewards.scoring import Scorer
from lhrm_jax.runs import rollouts
from lhrm_jax.runs.instruments import Instruments
from lhrm_jax.runs.reference_accuracy import ReferenceAccuracy
from lhrm_jax.runs.setup import Setup
from lhrm_jax.training.advantages import make_advantage_fn


class RolloutSource:
  """Draws a step's queries, samples and scores them, and replaces those without signal.

  Args:
    run: what a config describes.
    scorer: of the rollouts.
    measured: counts what is sampled.
    workdir: the run folder.
    start: parameters that HGPO started from, for advantages that ask for their accuracy.
  """

  def __init__(
    self, run: Setup, scorer: Scorer, measured: Instruments, workdir: pathlib.Path,
    start: policy.Params,
  ):  # fmt: skip
    c = run.config.hgpo
    self._run, self._scorer, self._measured = run, scorer, measured
    self._rollout_fn, self._advantage_fn = rollouts.make_rollout_fn(run), make_advantage_fn(c)
    self._reference = None
    if "ref_accuracy" in advantages.context_of(c.advantage):
      self._reference = ReferenceAccuracy(run, start, scorer, measured, workdir)

  def start(self, params: policy.Params, drawn: DrawnPrompts, step: int) -> PendingScores:
    """This host's rollouts of a step; their scores are under way.

    Args:
      params: as sampling takes them.
      drawn: queries of the step, of all hosts; each samples and scores its own.
      step: training step, from 0.
    """
    sample_chunk = functools.partial(self._rollout_fn, params, step=step)
    return rollouts.start(self._run, self._scorer, self._measured.clock, drawn, sample_chunk)

  def finish(
    self, pending: PendingScores, params: policy.Params, drawn: DrawnPrompts, step: int
  ) -> tuple[ScoredRollouts, dict[str, float]]:
    """The rollouts of all hosts with scores and advantages, once queries have been replaced.

    Arguments as in `start`, which made `pending`.

    Returns:
      The rollouts, and metrics: `refill/rounds` and `refill/queries` say what was replaced.
    """
    every = np.ones(len(drawn.rows), bool)
    scored = self._judged(pending, drawn, step, 0, every)
    scored, made, queries = self._advantage_fn(scored, step), 0, 0
    while made < self._run.config.hgpo.refill:
      vacant = ~np.asarray(has_signal(scored.advantages))
      if not vacant.any():
        break
      made, queries = made + 1, queries + int(vacant.sum())
      others = self._others(params, step, made, vacant)
      scored = self._advantage_fn(scored.replaced(np.flatnonzero(vacant), others), step)
    if not self._run.config.hgpo.refill:
      return scored, {}
    return scored, {"refill/rounds": made, "refill/queries": queries}

  def _others(
    self, params: policy.Params, step: int, refill: int, vacant: np.ndarray
  ) -> ScoredRollouts:
    """Other queries for the places that are vacant `[B]`, whole groups."""
    drawn, c = rollouts.draw_prompts(self._run, step, refill), self._run.config
    shape = (2 if c.hgpo.pairing == "paired" else 1, c.hgpo.samples)

    def sample_chunk(prompts):
      limits = rollouts.limits_of(vacant, prompts, np.ones(shape, bool), c.data.max_response_tokens)
      return self._rollout_fn(params, prompts, step, refill=refill, limits=limits)

    pending = rollouts.start(
      self._run, self._scorer, self._measured.clock, drawn, sample_chunk, vacant.copy()
    )
    return self._judged(pending, drawn, step, refill, vacant)

  def _judged(
    self, pending: PendingScores, drawn: DrawnPrompts, step: int, refill: int, wanted: np.ndarray
  ) -> ScoredRollouts:
    """The queries wanted `[B]` with scores and what else the advantages ask for; counted."""
    with self._measured.clock.time("reward"):
      scored = pending.wait().gathered()
    places = scored.rollouts.prompts.ids % len(wanted)
    if len(places) > wanted.sum():
      scored = scored.take(np.flatnonzero(wanted[places]))
    self._measured.sampled(scored.rollouts)
    if self._reference is None:
      return scored
    return dataclasses.replace(scored, ref_accuracy=self._reference.of(drawn, step, refill, wanted))

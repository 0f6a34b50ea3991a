"""How well the policy that HGPO started from answers each query by thinking."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from lhrm_jax import parallel, policy
from lhrm_jax.data.limits import DrawnPrompts
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.rewards.scoring import Scorer
from lhrm_jax.runs import rollouts
from lhrm_jax.runs.instruments import Instruments
from lhrm_jax.runs.setup import Setup
from lhrm_jax.sampling import Prompts, Rollouts
from lhrm_jax.text import tags

_STREAM = 2  # of random numbers, beside that of the rollouts


class ReferenceAccuracy:
  """Mean scores of the starting policy in think, sampled once per query.

  `rollouts/reference.jsonl` keeps them: a query that comes again costs nothing, and a resumed run,
  which cuts that file back with the other logs, samples the same.
  """

  def __init__(
    self, run: Setup, params: policy.Params, scorer: Scorer, measured: Instruments,
    workdir: pathlib.Path,
  ):  # fmt: skip
    self._run, self._params, self._scorer, self._measured = run, params, scorer, measured
    self._path = workdir / "rollouts" / "reference.jsonl"
    self._samples = run.config.hgpo.reference_samples
    self._rollout_fn = rollouts.make_rollout_fn(
      run, _STREAM, samples=self._samples, paired=True, forced=0
    )
    lines = self._path.read_text().splitlines() if self._path.exists() else ()
    self._known = {row["query"]: row["accuracy"] for row in map(json.loads, lines)}

  def of(self, drawn: DrawnPrompts, step: int, refill: int, wanted: np.ndarray) -> np.ndarray:
    """Accuracies `[W]` of the queries that are wanted.

    Args:
      drawn: the `B` queries.
      step: training step, from 0.
      refill: round of refilling that they were drawn for, 0 for none.
      wanted: `[B]` bool.
    """
    keys = [_key(row) for row in drawn.rows]
    first = {key: i for i, key in reversed(list(enumerate(keys))) if wanted[i]}
    missing = np.zeros(len(keys), bool)
    missing[[i for key, i in first.items() if key not in self._known]] = True
    if missing.any():
      self._sample(drawn, keys, step, refill, missing)
    return np.array([self._known[key] for key, w in zip(keys, wanted, strict=True) if w])

  def _sample(
    self, drawn: DrawnPrompts, keys: list[str], step: int, refill: int, missing: np.ndarray
  ) -> None:
    run, params = self._run, self._run.sampling_params(self._params)
    think = np.zeros((len(tags.MODES), self._samples), bool)
    think[tags.THINK] = True
    most = run.config.data.max_response_tokens

    def sample_chunk(prompts: Prompts) -> Rollouts:
      limits = rollouts.limits_of(missing, prompts, think, most)
      return self._rollout_fn(params, prompts, step, refill=refill, limits=limits)

    pending = rollouts.start(
      run, self._scorer, self._measured.clock, drawn, sample_chunk, missing.copy()
    )
    scored = pending.wait().gathered()
    places = scored.rollouts.prompts.ids % len(missing)
    scored = scored.take(np.flatnonzero(missing[places]))
    thoughts = dataclasses.replace(
      scored.rollouts, lengths=scored.lengths[:, tags.THINK : tags.THINK + 1]
    )
    self._measured.sampled(thoughts)
    found = {
      keys[place]: float(scores.mean())
      for place, scores in zip(np.flatnonzero(missing), scored.scores[:, tags.THINK], strict=True)
    }
    self._known |= found
    if parallel.is_writer():
      with self._path.open("a") as file:
        for key, accuracy in found.items():
          file.write(json.dumps({"step": step + 1, "query": key, "accuracy": accuracy}) + "\n")


def _key(row: PromptRow) -> str:
  return hashlib.sha256(json.dumps(dataclasses.astuple(row)).encode()).hexdigest()[:32]

"""One object from sampling to the log: rollouts with their rows, texts, scores and advantages."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import jax
import numpy as np

from lhrm_jax import parallel
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.rewards import scoring
from lhrm_jax.sampling import LENGTH, Prompts, Rollouts, concatenate
from lhrm_jax.sampling.sampler import Clock
from lhrm_jax.text import Tokenizer, form

_BY_QUERY = ("texts", "modes", "well_formed", "ref_accuracy")  # arrays of `ScoredRollouts`


@dataclasses.dataclass(frozen=True)
class ScoredRollouts:
  """Rollouts on the host and all that is known of them; arrays are numpy.

  Attributes:
    rows: the `B` queries.
    rollouts: their responses, `[B, M, G, T]`.
    texts: `[B, M, G]` str objects, tags kept.
    modes: `[B, M, G]` int, by the first token; -1 where it is not an opening tag.
    well_formed: `[B, M, G]` bool; not where the response was cut off.
    judged: scores with components and failures; `None` until the rewards have said them.
    ref_accuracy: `[B]` mean score of the reference policy in think; `None` where not asked for.
    advantages: `[B, M, G]`; `None` until they are computed.
  """

  rows: Sequence[PromptRow]
  rollouts: Rollouts
  texts: np.ndarray
  modes: np.ndarray
  well_formed: np.ndarray
  judged: scoring.Judgements | None = None
  ref_accuracy: np.ndarray | None = None
  advantages: Advantages | None = None

  @classmethod
  def read(
    cls, tokenizer: Tokenizer, rows: Sequence[PromptRow], rollouts: Rollouts
  ) -> "ScoredRollouts":
    """Rollouts without scores: their texts, modes and form. `rollouts` may lie on devices."""
    rollouts = jax.device_get(rollouts)
    texts, first = scoring.decode(tokenizer, rollouts), rollouts.responses[..., 0]
    whole = form.well_formed(texts, first.ravel(), tokenizer.tag_ids).reshape(first.shape)
    return cls(
      rows=rows,
      rollouts=rollouts,
      texts=np.array(texts, object).reshape(first.shape),
      modes=np.vectorize(tokenizer.tag_ids.mode_of)(first),
      well_formed=whole & (rollouts.finish_reason != LENGTH),
    )

  def judged_by(self, scorer: scoring.Scorer) -> "ScoredRollouts":
    """The rollouts with their scores.

    Raises:
      RewardError: see `Scorer.wait`.
    """
    return PendingScores(self, scorer, [self.start(scorer)]).wait()

  def start(self, scorer: scoring.Scorer) -> Future[scoring.Judgements]:
    """Starts scoring, see `Scorer.start`."""
    return scorer.start(self.rows, self.rollouts, self.texts.ravel().tolist())

  @property
  def scores(self) -> np.ndarray:
    """`[B, M, G]` float32."""
    return self.judged.scores

  @property
  def lengths(self) -> np.ndarray:
    """`[B, M, G]` int32, tokens."""
    return self.rollouts.lengths

  @property
  def truncated(self) -> np.ndarray:
    """`[B, M, G]` bool, cut off at the longest length."""
    return self.rollouts.finish_reason == LENGTH

  def gathered(self) -> "ScoredRollouts":
    """The rollouts of all processes, in the order of their prompts' ids, on every process."""
    # Processes that share rows hold the same ones.
    ids = self.rollouts.prompts.ids.tolist()
    parts = {tuple(ids): part for ids, part in parallel.gather_objects((ids, self))}
    if len(parts) == 1:
      return next(iter(parts.values()))
    return concatenated(list(parts.values())).take(np.argsort(np.concatenate(list(parts))))

  def take(self, index: np.ndarray) -> "ScoredRollouts":
    """The queries at these places, without advantages."""

    def taken(tree):
      return jax.tree.map(lambda x: x[index] if np.ndim(x) else x, tree)

    judged = self.judged and dataclasses.replace(
      self.judged, scores=self.scores[index], components=taken(self.judged.components)
    )
    arrays = {name: taken(getattr(self, name)) for name in ("rollouts", *_BY_QUERY)}
    return ScoredRollouts([self.rows[i] for i in index], judged=judged, **arrays)

  def replaced(self, places: np.ndarray, by: "ScoredRollouts") -> "ScoredRollouts":
    """The rollouts with other queries at `places`, in order, and without advantages."""
    index = np.arange(len(self.rows))
    index[places] = len(index) + np.arange(len(places))
    return concatenated([self, by]).take(index)


def concatenated(parts: Sequence[ScoredRollouts]) -> ScoredRollouts:
  """Rollouts of several chunks of prompts, without advantages, as one batch in the order given."""
  judged = [part.judged for part in parts]
  return ScoredRollouts(
    rows=[row for part in parts for row in part.rows],
    rollouts=concatenate([part.rollouts for part in parts]),
    judged=None if None in judged else scoring.merged(judged),
    **{
      name: np.concatenate([getattr(part, name) for part in parts])
      for name in _BY_QUERY
      if getattr(parts[0], name) is not None
    },
  )


@dataclasses.dataclass(frozen=True)
class PendingScores:
  """Rollouts whose scores are under way.

  Attributes:
    scored: the rollouts of all chunks, without scores.
    scorer: that judges them.
    futures: of the scores, by chunk.
  """

  scored: ScoredRollouts
  scorer: scoring.Scorer
  futures: Sequence[Future[scoring.Judgements]]

  def wait(self) -> ScoredRollouts:
    """The rollouts with their scores.

    Raises:
      RewardError: see `Scorer.wait`.
    """
    return dataclasses.replace(self.scored, judged=self.scorer.wait(self.futures))


def sample_and_score(
  sample_chunk: Callable[[Prompts], Rollouts],
  scorer: scoring.Scorer,
  tokenizer: Tokenizer,
  rows: Sequence[PromptRow],
  chunks: Sequence[Prompts],
  clock: Clock,
  wanted: np.ndarray | None = None,
) -> PendingScores:
  """Samples chunk after chunk; each is scored while the next one is sampled.

  Args:
    sample_chunk: the sampler.
    scorer: starts scoring, see `Scorer.start`.
    tokenizer: the policy's.
    rows: the `B` queries.
    chunks: their prompts, in order, in equal chunks.
    clock: times "rollout" and "reward".
    wanted: `[B]` bool, queries to keep and score, at least one; all by default. Chunks without any
      are not sampled.
  """
  parts: list[ScoredRollouts] = []
  futures = []
  for i, chunk in enumerate(chunks):
    of_chunk = slice(i * len(chunk.ids), (i + 1) * len(chunk.ids))
    kept = np.flatnonzero(wanted[of_chunk]) if wanted is not None else None
    if kept is not None and not len(kept):
      continue
    with clock.time("rollout"):
      part = ScoredRollouts.read(tokenizer, rows[of_chunk], sample_chunk(chunk))
      parts.append(part if kept is None else part.take(kept))
    with clock.time("reward"):
      futures.append(parts[-1].start(scorer))
  return PendingScores(concatenated(parts), scorer, futures)

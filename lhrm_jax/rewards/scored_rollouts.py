"""One object from sampling to the log: rollouts with their rows, texts, scores and advantages."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import jax
import numpy as np
from jax.sharding import Mesh

from lhrm_jax import parallel
from lhrm_jax.data.schema import PromptRow
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.rewards import scoring
from lhrm_jax.sampling import LENGTH, Prompts, Rollouts, concatenate
from lhrm_jax.sampling.sampler import Clock
from lhrm_jax.text import Tokenizer, form


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
    advantages: `[B, M, G]`; `None` until they are computed.
  """

  rows: Sequence[PromptRow]
  rollouts: Rollouts
  texts: np.ndarray
  modes: np.ndarray
  well_formed: np.ndarray
  judged: scoring.Judgements | None = None
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

  def gathered(self, mesh: Mesh, prompts: int) -> "ScoredRollouts":
    """The rollouts of all processes, in the order of their prompts, on every process.

    Args:
      mesh: of the job; each process holds the rows that `parallel.local_rows` names.
      prompts: `B` of the whole.
    """
    mine = parallel.local_rows(mesh, prompts)
    # Processes that share rows hold the same ones.
    parts = {tuple(rows): part for rows, part in parallel.gather_objects((mine.tolist(), self))}
    if len(parts) == 1:
      return next(iter(parts.values()))
    return _take(concatenated(list(parts.values())), np.argsort(np.concatenate(list(parts))))

  def placed_advantages(self, mesh: Mesh) -> Advantages:
    """The advantages of all prompts, sharded over the mesh as their rollouts are."""
    prompts = len(self.rows)
    mine = parallel.local_rows(mesh, prompts)
    local = Advantages(self.advantages.tag[mine], self.advantages.body[mine])
    return parallel.global_batch(mesh, local, prompts)


def concatenated(parts: Sequence[ScoredRollouts]) -> ScoredRollouts:
  """Rollouts of several chunks of prompts, without advantages, as one batch in the order given."""
  judged = [part.judged for part in parts]
  return ScoredRollouts(
    rows=[row for part in parts for row in part.rows],
    rollouts=concatenate([part.rollouts for part in parts]),
    judged=None if None in judged else scoring.merged(judged),
    **{
      name: np.concatenate([getattr(part, name) for part in parts])
      for name in ("texts", "modes", "well_formed")
    },
  )


def _take(scored: ScoredRollouts, index: np.ndarray) -> ScoredRollouts:
  """The prompts at these places."""

  def take(tree):
    return jax.tree.map(lambda x: x[index] if np.ndim(x) else x, tree)

  judged = scored.judged
  return dataclasses.replace(
    scored,
    rows=[scored.rows[i] for i in index],
    rollouts=take(scored.rollouts),
    judged=dataclasses.replace(
      judged, scores=judged.scores[index], components=take(judged.components)
    ),
    **{name: getattr(scored, name)[index] for name in ("texts", "modes", "well_formed")},
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
) -> PendingScores:
  """Samples chunk after chunk; each is scored while the next one is sampled.

  Args:
    sample_chunk: the sampler.
    scorer: starts scoring, see `Scorer.start`.
    tokenizer: the policy's.
    rows: the `B` queries.
    chunks: their prompts, in order, in equal chunks.
    clock: times "rollout" and "reward".
  """
  parts: list[ScoredRollouts] = []
  futures = []
  for chunk in chunks:
    first = len(parts) * len(chunk.ids)
    with clock.time("rollout"):
      of_chunk = rows[first : first + len(chunk.ids)]
      parts.append(ScoredRollouts.read(tokenizer, of_chunk, sample_chunk(chunk)))
    with clock.time("reward"):
      futures.append(parts[-1].start(scorer))
  return PendingScores(concatenated(parts), scorer, futures)

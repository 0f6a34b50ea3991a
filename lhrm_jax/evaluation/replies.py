"""Scored replies to all prompts as arrays, from the samples that an evaluation keeps."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lhrm_jax.evaluation.samples import Sample
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.sampling import FINISH_REASONS
from lhrm_jax.text import form, tags

_LENGTH = "length"


@dataclasses.dataclass(frozen=True)
class Replies:
  """Scored replies to all evaluation prompts, numpy.

  Attributes:
    scores: `[K, M, n]` float32.
    lengths: `[K, M, n]` int32, tokens.
    modes: `[K, M, n]` int, by the first token; -1 where it is not a tag.
    well_formed: `[K, M, n]` bool; not so where the reply was cut off.
    texts: `[K, M, n]` str objects.
    failed: number of judgements that failed, scored 0, by reason, since the last resume.
    truncated: `[K, M, n]` bool, cut off at the longest length; `None` where unknown.
    seconds: `[K, M, n]` wall seconds of generation, see `Sample`; `None` where unknown.
  """

  scores: np.ndarray
  lengths: np.ndarray
  modes: np.ndarray
  well_formed: np.ndarray
  texts: np.ndarray
  failed: dict[str, int] = dataclasses.field(default_factory=dict)
  truncated: np.ndarray | None = None
  seconds: np.ndarray | None = None

  def take(self, chosen: np.ndarray) -> "Replies":
    """The replies to some of the prompts, by a mask or places."""
    arrays = {
      name: value[chosen] for name, value in vars(self).items() if isinstance(value, np.ndarray)
    }
    return dataclasses.replace(self, **arrays)


@dataclasses.dataclass(frozen=True)
class Measured:
  """All replies of one evaluation; `n` counts those of all seeds.

  Attributes:
    auto: with the mode left to the policy, `[K, 1, n]`.
    forced: in both modes, `[K, 2, n]`.
    judged: in both modes, for Hybrid Accuracy, `[K, 2, n]`.
    first: `[K, 3]` probabilities of the first token, see `Evaluator.first_token_probs`.
    greedy: `[K]` int, mode by the most likely first token; -1 where it is not a tag.
  """

  auto: Replies
  forced: Replies
  judged: Replies
  first: np.ndarray
  greedy: np.ndarray | None = None

  @property
  def failed(self) -> dict[str, int]:
    """Judgements that failed, scored 0, by reason."""
    passes = {id(part): part for part in (self.auto, self.forced, self.judged)}.values()
    return dict(sum((collections.Counter(part.failed) for part in passes), collections.Counter()))

  def take(self, chosen: np.ndarray) -> "Measured":
    """What was measured on some of the prompts, by a mask or places."""
    parts = vars(self).items()
    return Measured(**{
      name: part.take(chosen) if isinstance(part, Replies) else part if part is None
      else part[chosen] for name, part in parts
    })  # fmt: skip


def to_samples(
  scored: ScoredRollouts, names: Sequence[str], *, seed: int, seconds: float,
  dial: Mapping[str, float],
) -> list[Sample]:  # fmt: skip
  """The samples of one batch.

  Args:
    scored: scored rollouts, `[B, M, G]`.
    names: of the pass at each of the `M` places.
    seed: of the draws.
    seconds: that the batch took, shared by tokens.
    dial: see `Sample`.
  """
  rollouts = scored.rollouts
  per_token = seconds / max(int(rollouts.lengths.sum()), 1)
  ids = np.asarray(rollouts.prompts.ids).tolist()
  found = []
  for b, m, g in np.ndindex(*scored.modes.shape):
    at = (b, m, g)
    length, mode, text = int(rollouts.lengths[at]), int(scored.modes[at]), scored.texts[at]
    found.append(Sample(
      prompt_id=ids[b], pass_name=names[m], sample=g, seed=seed,
      mode=tags.MODES[mode] if mode != tags.INVALID_MODE else "",
      score=float(scored.scores[at]), tokens=length,
      finish=FINISH_REASONS[int(rollouts.finish_reason[at])],
      well_formed=bool(scored.well_formed[at]), leak=mode == tags.NO_THINK and form.leaks(text),
      text=text, ids=rollouts.responses[at][:length].tolist(), seconds=per_token * length,
      dial=dial,
    ))  # fmt: skip
  return found


def from_samples(
  samples: Sequence[Sample], shape: tuple[int, int, int], names: Sequence[str], per_seed: int,
  failed: dict[str, int],
) -> Replies:  # fmt: skip
  """The replies of one pass, `[K, M, n]`, with the seeds one after another on the last axis.

  Args:
    samples: all of the pass.
    shape: `(K, M, n)`.
    names: of the pass at each of the `M` places.
    per_seed: replies per seed.
    failed: see `Replies`.
  """
  scores, seconds = np.zeros(shape, np.float32), np.zeros(shape)
  lengths, modes = np.zeros(shape, np.int32), np.zeros(shape, int)
  well_formed, truncated = np.zeros(shape, bool), np.zeros(shape, bool)
  texts = np.empty(shape, object)
  numbers = {"": tags.INVALID_MODE, **{name: m for m, name in enumerate(tags.MODES)}}
  places = {name: m for m, name in enumerate(names)}
  for s in samples:
    at = s.prompt_id, places[s.pass_name], s.seed * per_seed + s.sample
    scores[at], lengths[at], modes[at], seconds[at] = s.score, s.tokens, numbers[s.mode], s.seconds
    well_formed[at], truncated[at], texts[at] = s.well_formed, s.finish == _LENGTH, s.text
  return Replies(scores, lengths, modes, well_formed, texts, failed, truncated, seconds)

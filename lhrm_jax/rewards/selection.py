"""Preference pairs and best responses, chosen from scored rollouts for training offline.

Both leave the reward's scale alone and look at no advantage. `N` denotes all responses of a query,
whatever the mode axis was.
"""

import dataclasses

import numpy as np

from lhrm_jax.data.batches import Encoded
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.text import tags

# Means of float32 scores carry rounding; a smaller difference is a tie.
_TIE_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two responses to one query.

  Attributes:
    chosen: prompt and the response that is preferred; weights are 1 on the response.
    rejected: likewise, the other.
    mode: of the chosen response.
  """

  chosen: Encoded
  rejected: Encoded
  mode: int

  @property
  def slots(self) -> int:
    """Positions that both take in a row."""
    return self.chosen.slots + self.rejected.slots


def preference_pairs(scored: ScoredRollouts) -> list[Pair]:
  """The best response of each query's better mode, over the worst one of its other mode.

  HFT-DPO (https://arxiv.org/abs/2505.14631, eqs. 17 to 19): the mode with the higher mean score is
  the better one, without a margin. A query whose means are equal says nothing and gives no pair,
  and neither does one whose better mode has no well-formed response; of equal responses the first
  counts.

  Args:
    scored: with scores; paired, or with modes chosen freely.
  """
  scores, modes, well_formed = _flat(scored)
  pairs = []
  for query in range(len(scores)):
    of_mode = [np.flatnonzero(modes[query] == mode) for mode in range(len(tags.MODES))]
    if not all(map(len, of_mode)):
      continue
    think, no_think = (scores[query, members].mean() for members in of_mode)
    if abs(think - no_think) <= _TIE_TOLERANCE:
      continue
    better = tags.THINK if think > no_think else tags.NO_THINK
    whole = of_mode[better][well_formed[query, of_mode[better]]]
    worse = of_mode[1 - better]
    if not len(whole):
      continue
    chosen = whole[scores[query, whole].argmax()]
    rejected = worse[scores[query, worse].argmin()]
    if scores[query, chosen] > scores[query, rejected]:
      pair = (_encoded(scored, query, at) for at in (chosen, rejected))
      pairs.append(Pair(*pair, mode=better))
  return pairs


def best_responses(
  scored: ScoredRollouts, *, best_of: str, ties: str, above: float, rng: np.random.Generator
) -> list[tuple[Encoded, int]]:
  """Each query's well-formed responses with the highest score, with their modes.

  HFT-RFT (https://arxiv.org/abs/2505.14631): fine-tuning on the best of a query's responses.

  Args:
    scored: with scores.
    best_of: "query" takes the best of all responses, "mode" the best of each mode.
    ties: of equally good ones, "random" takes one, "shortest" the first of the shortest, "all" all.
    above: score that a response must exceed.
    rng: draws among ties.
  """
  scores, modes, well_formed = _flat(scored)
  lengths = scored.lengths.reshape(scores.shape)
  found = []
  for query in range(len(scores)):
    fit = well_formed[query] & (scores[query] > above)
    groups = [fit] if best_of == "query" else [fit & (modes[query] == m) for m in range(2)]
    for group in groups:
      members = np.flatnonzero(group)
      if not len(members):
        continue
      best = members[scores[query, members] >= scores[query, members].max()]
      if ties == "random":
        best = rng.choice(best, 1)
      elif ties == "shortest":
        best = best[[lengths[query, best].argmin()]]
      found += [(_encoded(scored, query, at), int(modes[query, at])) for at in best]
  return found


def without_duplicates(responses: list[tuple[Encoded, int]]) -> list[tuple[Encoded, int]]:
  """The first of each prompt and response that occurs several times, in order."""
  seen: dict[bytes, tuple[Encoded, int]] = {}
  for encoded, mode in responses:
    # The weights say where the prompt ends.
    seen.setdefault(encoded.ids.tobytes() + encoded.weights.tobytes(), (encoded, mode))
  return list(seen.values())


def _flat(scored: ScoredRollouts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Scores in float64, modes and form, `[B, N]`."""
  scores = np.asarray(scored.scores, np.float64)
  return tuple(x.reshape(len(scores), -1) for x in (scores, scored.modes, scored.well_formed))


def _encoded(scored: ScoredRollouts, query: int, at: int) -> Encoded:
  """A query's response number `at`, by the ids that were sampled."""
  rollouts, prompts = scored.rollouts, scored.rollouts.prompts
  prompt = prompts.tokens[query, : prompts.lengths[query]]
  responses = rollouts.responses[query].reshape(-1, rollouts.responses.shape[-1])
  response = responses[at, : rollouts.lengths[query].ravel()[at]]
  weights = np.repeat(np.float32([0, 1]), [len(prompt), len(response)])
  return Encoded(np.concatenate([prompt, response]).astype(np.int32), weights)

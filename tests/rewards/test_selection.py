"""Which responses the offline baselines train on, worked by hand."""

import dataclasses

import numpy as np
import pytest

from lhrm_jax.data.schema import PromptRow
from lhrm_jax.rewards import selection
from lhrm_jax.rewards.scored_rollouts import ScoredRollouts
from lhrm_jax.rewards.scoring import Judgements
from lhrm_jax.sampling import Prompts, Rollouts
from lhrm_jax.text import tags

THINK, NO_THINK, INVALID = tags.THINK, tags.NO_THINK, tags.INVALID_MODE


def rollouts_of(scores, modes=None, malformed=(), lengths=None):
  """One query; the response at place i of `[M * G]` is i + 100 and its length times 7."""
  scores = np.array(scores, np.float32)[None]  # [1, M, G]
  n = scores.size
  lengths = np.array(lengths or [2] * n, np.int32)
  responses = np.full((n, 5), 7, np.int32)
  responses[:, 0] = np.arange(100, 100 + n)
  if modes is None:
    modes = [[THINK] * scores.shape[2], [NO_THINK] * scores.shape[2]]
  well_formed = np.ones(n, bool)
  well_formed[list(malformed)] = False
  rollouts = Rollouts(
    Prompts(np.array([[50, 51, 52, 0]]), np.array([3]), np.array([9])),
    responses.reshape(*scores.shape, 5), lengths.reshape(scores.shape), None,
    np.zeros(scores.shape, np.int32), np.int32(0),
  )  # fmt: skip
  return ScoredRollouts(
    [PromptRow("p", "a")], rollouts, np.full(scores.shape, "", object),
    np.array(modes).reshape(scores.shape), well_formed.reshape(scores.shape),
    Judgements(scores, {}, None),
  )  # fmt: skip


def places(pairs):
  return [(int(p.chosen.ids[3]) - 100, int(p.rejected.ids[3]) - 100, p.mode) for p in pairs]


@pytest.mark.parametrize(
  ("scores", "expected"),
  [
    ([[0.25, 1], [0.5, 0]], [(1, 3, THINK)]),  # .625 over .25: its best over the other's worst
    ([[1, 0], [1, 1]], [(2, 1, NO_THINK)]),  # of equal ones the first
    ([[1, 0], [0, 1]], []),  # equal means
    ([[0, 0], [0, 0]], []),
    ([[0.1, 0.2], [0.3, 0.0]], []),  # .15 and .15, up to rounding
    ([[0.3, 0.9], [0.5, 0.4]], [(1, 3, THINK)]),  # a lead of .15, below any delta of HGPO
  ],
)
def test_the_best_of_the_better_mode_is_preferred_to_the_worst_of_the_other(scores, expected):
  assert places(selection.preference_pairs(rollouts_of(scores))) == expected


def test_modes_that_were_chosen_freely_are_told_by_their_tags():
  free = rollouts_of([[1, 0, 0.5, 0.9]], modes=[[NO_THINK, THINK, NO_THINK, INVALID]])
  assert places(selection.preference_pairs(free)) == [(0, 1, NO_THINK)]
  alone = rollouts_of([[1, 0, 0.5, 0]], modes=[[THINK] * 3 + [INVALID]])
  assert selection.preference_pairs(alone) == [], "there is no other mode"


def test_a_malformed_response_is_never_preferred():
  """Scores below that of a malformed one: its 0 would be the best."""
  below = rollouts_of([[0, -1], [-2, -3]], malformed=[0])
  assert places(selection.preference_pairs(below)) == [(1, 3, THINK)]
  assert selection.preference_pairs(rollouts_of([[0, 0], [-2, -3]], malformed=[0, 1])) == []
  # Nor is one preferred to a response that scores as much.
  even = rollouts_of([[9, -3], [-3, -3]], malformed=[0])
  assert selection.preference_pairs(even) == []


def test_sequences_are_the_sampled_ids_and_weigh_the_response_alone():
  (pair,) = selection.preference_pairs(rollouts_of([[1], [0]], lengths=[4, 2]))
  assert pair.chosen.ids.tolist() == [50, 51, 52, 100, 7, 7, 7]
  assert pair.chosen.weights.tolist() == [0, 0, 0, 1, 1, 1, 1]
  assert pair.rejected.ids.tolist() == [50, 51, 52, 101, 7]
  assert pair.slots == 6 + 4


def best(scored, seed=0, **options):
  options = {"best_of": "query", "ties": "all", "above": 0.0, **options}
  found = selection.best_responses(scored, rng=np.random.default_rng(seed), **options)
  return [(int(encoded.ids[3]) - 100, mode) for encoded, mode in found]


def test_the_best_of_a_query_or_of_each_mode_are_taken():
  scored = rollouts_of([[0.5, 1], [0.75, 0.25]])
  assert best(scored) == [(1, THINK)]
  assert best(scored, best_of="mode") == [(1, THINK), (2, NO_THINK)]
  assert best(rollouts_of([[0, 0], [0, 0]])) == [], "nothing is good enough"
  assert best(scored, above=1.0) == []
  assert best(rollouts_of([[0, 1], [1, 0]], malformed=[1]), best_of="mode") == [(2, NO_THINK)]


def test_of_equal_ones_all_the_shortest_or_one_at_random():
  scored = rollouts_of([[1, 1], [0, 1]], lengths=[5, 4, 1, 3])
  assert best(scored) == [(0, THINK), (1, THINK), (3, NO_THINK)]
  assert best(scored, ties="shortest") == [(3, NO_THINK)]
  drawn = [best(scored, seed, ties="random") for seed in range(40)]
  assert {x for (x,) in drawn} == {(0, THINK), (1, THINK), (3, NO_THINK)}
  assert best(scored, ties="random") == best(scored, ties="random"), "the seed decides"


def test_the_same_response_to_the_same_prompt_is_kept_once():
  scored = rollouts_of([[1, 1], [1, 1]])
  once = selection.best_responses(
    scored, best_of="query", ties="all", above=0.0, rng=np.random.default_rng(0)
  )
  again = dataclasses.replace(once[0][0], ids=once[0][0].ids.copy())
  # The same ids with one more of them in the prompt is another demonstration.
  other = dataclasses.replace(again, weights=np.roll(again.weights, 1))
  kept = selection.without_duplicates([*once, (again, THINK), (other, THINK)])
  assert len(kept) == 5 and kept[-1][0] is other

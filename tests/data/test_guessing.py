"""The guessing task: right as often as its kinds say, in both modes, whatever is guessed."""

import numpy as np
import pytest

from lhrm_jax import rewards
from lhrm_jax.data import guessing
from lhrm_jax.data.guessing import Guessing
from lhrm_jax.text import tags

PROMPTS = [row.prompt for row in Guessing().evaluation(6000)]


@pytest.mark.parametrize("mode", [tags.THINK, tags.NO_THINK])
@pytest.mark.parametrize("guess", ["00", "73"])
def test_a_kind_is_right_as_often_as_it_says(mode, guess):
  for kind, accuracy in zip(guessing.KINDS, guessing.ACCURACY[mode], strict=True):
    right = [guessing.is_right(p, mode, guess) for p in PROMPTS if p.startswith(kind)]
    assert np.mean(right) == pytest.approx(accuracy, abs=4 * np.sqrt(0.25 / len(right)))


def test_of_one_prompt_some_guesses_are_right_and_some_are_not():
  prompt = next(p for p in PROMPTS if p.startswith("B"))
  right = [guessing.is_right(prompt, tags.NO_THINK, f"{guess:02d}") for guess in range(100)]
  assert 30 < sum(right) < 70


def test_prompts_of_all_kinds_have_one_length():
  assert len({*map(len, PROMPTS)}) == 1


def test_the_reward_asks_for_mode_and_guess_and_nothing_else_is_right():
  reward = rewards.get("guess")
  prompt = next(p for p in PROMPTS if guessing.is_right(p, tags.THINK, "12"))
  assert reward(prompt, guessing.respond(prompt, tags.THINK, "12"), "") == 1
  for wrong in ("<think>1</think>", "<think>1</think>1", "<think>1</think>١٢", "12"):
    assert reward(prompt, wrong, "") == 0
  scores = {
    mode: [reward(prompt, guessing.respond(prompt, mode, f"{g:02d}"), "") for g in range(100)]
    for mode in (tags.THINK, tags.NO_THINK)
  }
  assert scores[tags.THINK] != scores[tags.NO_THINK]


def test_labels_ask_for_the_share_of_thinking():
  think, direct = Guessing(think_prior=0.02).demonstrations(0, 0, 6, 18)
  asked = [sum(row.tag_weight for row in rows) for rows in (think, direct)]
  assert asked[0] / sum(asked) == pytest.approx(0.02)

"""Advantages of methods that learn when to think, other than HGPO.

`B` denotes queries, `M` modes (1 where the policy chose freely) and `G` responses per mode. Modes
are 0 (think), 1 (no_think) and -1 (the first token is neither tag; such a response scores 0). The
opening tag is a token like any other. Rewards that the papers give to a right and to a wrong answer
are joined by a line, so that scores between 0 and 1 have a meaning.
"""

import jax.numpy as jnp
from jax import Array

from lhrm_jax.objectives.group_advantages import QUERY, dr_grpo, grpo, one_group
from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.objectives.length_rewards import (
  exact_length_reward,
  max_length_reward,
  relative_length_reward,
)

_THINK, _NO_THINK = 0, 1


def thinkless(
  scores: Array,
  *,
  modes: Array,
  think_reward: float = 0.5,
  no_think_reward: float = 1.0,
  wrong_reward: float = -1.0,
) -> Advantages:
  """`R - mean` over the group, where a right direct answer earns more than a right thought.

  Thinkless (https://arxiv.org/abs/2505.13379), rewards and baseline of its authors' code. The
  policy chooses the mode itself; DeGRPO's loss on the control token is apart, see
  `policy_losses.separate_tag_weights`.

  Args:
    scores: `[B, M, G]`, 0 to 1.
    modes: `[B, M, G]`.
    think_reward: of a right response in think.
    no_think_reward: of a right response in no_think.
    wrong_reward: of a wrong response in either.
  """
  right = jnp.where(modes == _NO_THINK, no_think_reward, think_reward)
  return dr_grpo(_between(scores, wrong_reward, right))


def adapt_think(
  scores: Array, *, modes: Array, ref_accuracy: Array, no_think_bonus: float = 0.05
) -> Advantages:
  """`r - r_ref + bonus 1[no_think]`, without a norm over the group.

  AdaptThink (https://arxiv.org/abs/2505.13417, eqs. 5 to 7), whose first token is forced half and
  half. Its loss takes the ratio of whole sequences, with 0.5 as the tag's old probability
  (`hgpo.tag_old`).

  Args:
    scores: `[B, M, G]`.
    modes: `[B, M, G]`.
    ref_accuracy: `[B]`, mean score of the reference policy in think; NaN where unknown, which gives
      the query's responses advantage 0.
    no_think_bonus: the paper's delta; larger, more no_think.
  """
  scores = jnp.asarray(scores, jnp.float32)
  reference = jnp.asarray(ref_accuracy, jnp.float32)[:, None, None]
  values = scores - reference + no_think_bonus * (modes == _NO_THINK)
  return one_group(jnp.where(jnp.isnan(reference), 0.0, values))


def auto_think(
  scores: Array,
  *,
  modes: Array,
  lengths: Array,
  step: Array | int,
  total_steps: int,
  stage: int = 0,
  length_strength: float = 0.05,
  ddof: int = 0,
) -> Advantages:
  """GRPO's advantage of rewards that change over three stages.

  AutoThink (https://arxiv.org/abs/2505.10832, its authors' code): 1 or 0 for a right or wrong
  thought, 2 or -1 for a right or wrong direct answer. Stage 1 takes `min(1, 2 (share - 1/2))` off
  the rewards of a mode whose share of the batch is above half; stage 3 adds
  `relative_length_reward`. A response of neither mode earns -1, as a wrong direct answer does; the
  authors count it as a thought. Their -2 for a wrong response that repeats itself is left out.

  Args:
    scores: `[B, M, G]`, 0 to 1; above 0.5 a response counts as right in stage 3.
    modes: `[B, M, G]`.
    lengths: `[B, M, G]` response tokens.
    step: training step, from 0.
    total_steps: of the run.
    stage: 1, 2 or 3; 0 gives each a third of the run. The authors train each in a run of its own.
    length_strength: of stage 3.
    ddof: 0 for the population's standard deviation, 1 for the sample's (the authors').

  Raises:
    ValueError: no such stage.
  """
  if stage not in (0, 1, 2, 3):
    raise ValueError(f"stage={stage!r} is none of 0 (all three in turn), 1, 2, 3.")
  now = stage or jnp.clip(1 + 3 * jnp.asarray(step) // jnp.maximum(total_steps, 1), 1, 3)
  scores = jnp.asarray(scores, jnp.float32)
  rewards = _between(scores, -1.0, 2.0)
  rewards = jnp.where(modes == _THINK, scores, jnp.where(modes == _NO_THINK, rewards, -1.0))
  for mode in (_THINK, _NO_THINK):
    excess = jnp.clip(2.0 * (jnp.mean(modes == mode) - 0.5), 0.0, 1.0)
    rewards -= jnp.where((now == 1) & (modes == mode), excess, 0.0)
  by_length = relative_length_reward(scores > 0.5, lengths, axis=QUERY, strength=length_strength)
  return grpo(rewards + jnp.where(now == 3, by_length, 0.0), ddof=ddof)


def ada_grpo(
  scores: Array, *, modes: Array, step: Array | int, total_steps: int, ddof: int = 0
) -> Advantages:
  """GRPO's advantage of scores that are scaled up where their mode is rare in the group.

  Ada-GRPO of ARM (https://arxiv.org/abs/2505.20258, eqs. 2 to 4):
  `r (1 + (n / F - 1) (1 + cos(pi t / T)) / 2)`, with `F` of the group's `n` responses in the same
  mode (or in neither). Of use only where the policy chooses the mode: forced half and half, all are
  scaled alike.

  Args:
    scores: `[B, M, G]`.
    modes: `[B, M, G]`.
    step: training step `t`.
    total_steps: `T`.
    ddof: 0 for the population's standard deviation, 1 for the sample's (the authors').
  """
  flat = jnp.asarray(modes).reshape(len(modes), -1)  # [B, n]
  same = jnp.sum(flat[:, :, None] == flat[:, None, :], axis=-1).reshape(modes.shape)
  decay = (1.0 + jnp.cos(jnp.pi * jnp.asarray(step) / jnp.maximum(total_steps, 1))) / 2.0
  scale = 1.0 + (flat.shape[1] / same - 1.0) * decay
  return grpo(jnp.asarray(scores, jnp.float32) * scale, ddof=ddof)


def l1_exact(
  scores: Array,
  *,
  lengths: Array,
  max_length: int,
  target_length: float = 0.0,
  length_weight: float = 0.0003,
  ddof: int = 0,
) -> Advantages:
  """GRPO's advantage of `exact_length_reward`: L1-Exact (https://arxiv.org/abs/2503.04697, eq. 1).

  The authors draw a target per prompt, uniform from 100 to 4,000 tokens of at most 4,096, and say
  it there ("Think for 731 tokens."); here all prompts have one, which no prompt says.

  Args:
    scores: `[B, M, G]`, 0 to 1.
    lengths: `[B, M, G]` response tokens.
    max_length: most tokens of a response.
    target_length: tokens; 0 for half of `max_length`.
    length_weight: reward lost per token, the paper's alpha.
    ddof: 0 for the population's standard deviation, 1 for the sample's.
  """
  scores = jnp.asarray(scores, jnp.float32)
  rewards = exact_length_reward(
    scores, lengths, target_length=target_length or max_length / 2, length_weight=length_weight
  )
  return grpo(rewards, ddof=ddof)


def l1_max(
  scores: Array,
  *,
  lengths: Array,
  max_length: int,
  target_length: float = 0.0,
  length_weight: float = 0.002,
  ddof: int = 0,
) -> Advantages:
  """GRPO's advantage of `max_length_reward`: L1-Max (https://arxiv.org/abs/2503.04697, eq. 2).

  Arguments as in `l1_exact`; a wrong response earns 0 however short it is. The authors start from
  L1-Exact, and half of their prompts still ask for an exact length, the others "for maximum 731
  tokens".
  """
  scores = jnp.asarray(scores, jnp.float32)
  rewards = max_length_reward(
    scores, lengths, target_length=target_length or max_length / 2, length_weight=length_weight
  )
  return grpo(rewards, ddof=ddof)


def _between(scores: Array, wrong: Array | float, right: Array | float) -> Array:
  """`wrong` at score 0 and `right` at score 1."""
  return wrong + (right - wrong) * jnp.asarray(scores, jnp.float32)

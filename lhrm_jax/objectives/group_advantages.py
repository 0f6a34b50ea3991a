"""Advantages within a group of responses or over the batch, without a view of modes.

All `M * G` responses of a query are one group and the opening tag is a token like any other.
`B` denotes queries, `M` modes (1 where the policy chose freely) and `G` responses per mode.
"""

import jax.numpy as jnp
from jax import Array

from lhrm_jax.objectives.hgpo import Advantages
from lhrm_jax.objectives.length_rewards import overlong_penalty
from lhrm_jax.objectives.masked import group_normalise, leave_one_out, whiten

QUERY = (1, 2)  # the axes of a query's responses


def one_group(values: Array) -> Advantages:
  """The same advantage `[B, M, G]` on every token, opening tag included."""
  return Advantages(tag=values, body=values)


def has_signal(advantages: Advantages) -> Array:
  """Which queries `[B]` move the policy at all, whether by the tag or by the rest.

  DAPO samples the others anew (https://arxiv.org/abs/2503.14476, section 3.2), whole groups.
  """
  return jnp.any((advantages.tag != 0) | (advantages.body != 0), axis=QUERY)


def grpo(scores: Array, *, ddof: int = 0) -> Advantages:
  """`(r - mean) / std` over the query's responses (https://arxiv.org/abs/2402.03300, sec. 4.1.2).

  The expected gradient of 0/1 scores is that of the accuracy `p` times `E[std] / (p (1 - p))`:
  beyond `G = 2`, queries solved rarely or nearly always count for more.
  """
  return one_group(group_normalise(jnp.asarray(scores, jnp.float32), QUERY, ddof=ddof))


def dr_grpo(scores: Array) -> Advantages:
  """`r - mean`, not scaled (https://arxiv.org/abs/2503.20783); pair with a constant length.

  Its expectation is `(n - 1) / n` of the score's gradient, for groups of `n`.
  """
  scores = jnp.asarray(scores, jnp.float32)
  return one_group(scores - jnp.mean(scores, axis=QUERY, keepdims=True))


def rloo(scores: Array) -> Advantages:
  """`r` less the mean of the others (https://arxiv.org/abs/2402.14740, sec. 2.3); unbiased."""
  return one_group(leave_one_out(jnp.asarray(scores, jnp.float32), QUERY))


def reinforce_pp(scores: Array, *, literal: bool = False) -> Advantages:
  """`r` whitened over the batch: REINFORCE++ (https://arxiv.org/abs/2501.03262).

  The score is a reward at the last token; its discount is applied where the tokens are known, see
  `losses.token_advantages`. The authors' code whitens the return of every token, a KL penalty in
  the reward included: long responses weigh more in its mean and deviation.

  Args:
    scores: `[B, M, G]`.
    literal: as printed, every response is in the mean and the deviation, so that a query on which
      all responses are equally good still moves the policy. Otherwise such queries have advantage
      0 and are left out of both.
  """
  scores = jnp.asarray(scores, jnp.float32)
  spread = jnp.max(scores, axis=QUERY, keepdims=True) > jnp.min(scores, axis=QUERY, keepdims=True)
  return one_group(whiten(scores, spread | literal))


def dapo(
  scores: Array, *, lengths: Array, max_length: int, overlong_buffer: int = 0, ddof: int = 0
) -> Advantages:
  """GRPO's advantage of `2 r - 1` plus the soft overlong punishment.

  DAPO (https://arxiv.org/abs/2503.14476, section 3.4, eq. 13), whose rules score 1 or -1. Its
  objective takes clip ranges of 0.2 and 0.28, `token_mean` and no KL penalty.

  Args:
    scores: `[B, M, G]`, 0 to 1.
    lengths: `[B, M, G]` response tokens.
    max_length: see `overlong_penalty`.
    overlong_buffer: likewise; 0 for a fifth of `max_length`, as the authors' 4,096 of 20,480.
    ddof: 0 for the population's standard deviation, 1 for the sample's (the authors').
  """
  rewards = 2.0 * jnp.asarray(scores, jnp.float32) - 1.0
  buffer = overlong_buffer or max(max_length // 5, 1)
  rewards += overlong_penalty(lengths, max_length=max_length, buffer=buffer)
  return grpo(rewards, ddof=ddof)

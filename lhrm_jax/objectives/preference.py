"""Direct Preference Optimization: pure functions on log-probabilities of whole responses.

`P` denotes pairs of responses. Losses are a `SumCount` over pairs.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.objectives.masked import SumCount, masked, masked_sum_count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PreferenceLoss:
  """The loss over pairs, and the implicit rewards that it is made of; each a `SumCount`.

  Attributes:
    loss: to be minimised.
    chosen: reward of the preferred responses.
    rejected: reward of the others.
    accuracy: share of pairs whose preferred response has the higher reward.
    margin: difference of the rewards.
  """

  loss: SumCount
  chosen: SumCount
  rejected: SumCount
  accuracy: SumCount
  margin: SumCount


def dpo_loss(
  logprobs: Array, ref_logprobs: Array, mask: Array, *, beta: float, lengths: Array | None = None
) -> PreferenceLoss:
  """`-log sigmoid(r(chosen) - r(rejected))` with `r(y) = beta log(pi(y) / pi_ref(y))`.

  DPO (https://arxiv.org/abs/2305.18290, eq. 7).

  Args:
    logprobs: `[P, 2]` of the policy that learns, summed over each response: chosen, rejected.
    ref_logprobs: `[P, 2]` of the reference.
    mask: `[P]` bool; elsewhere the other arrays may hold anything.
    beta: weight of the divergence from the reference.
    lengths: `[P, 2]` response tokens. Given, log-ratios are divided by them: the length-normalised
      DPO of Tulu 3 (https://arxiv.org/abs/2411.15124).
  """
  chex.assert_equal_shape([logprobs, ref_logprobs])
  logprobs, ref_logprobs = (masked(x, mask[:, None]) for x in (logprobs, ref_logprobs))
  ratios = logprobs - ref_logprobs
  if lengths is not None:
    ratios = ratios / jnp.maximum(lengths, 1)
  rewards = beta * ratios
  margin = rewards[:, 0] - rewards[:, 1]
  return PreferenceLoss(
    loss=masked_sum_count(-jax.nn.log_sigmoid(margin), mask),
    chosen=masked_sum_count(rewards[:, 0], mask),
    rejected=masked_sum_count(rewards[:, 1], mask),
    accuracy=masked_sum_count((margin > 0).astype(jnp.float32), mask),
    margin=masked_sum_count(margin, mask),
  )

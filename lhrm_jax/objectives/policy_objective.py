"""One objective put together from the parts of `policy_losses`, as a config names them."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.config import FLAG, knob, one_of, real
from lhrm_jax.objectives import policy_losses
from lhrm_jax.objectives.losses import PolicyLossConfig, aggregation_weights, k3_divergence
from lhrm_jax.objectives.masked import SumCount, masked, masked_sum, masked_sum_count

SURROGATES = ("clipped", "cispo")


@dataclasses.dataclass(frozen=True)
class PolicyObjectiveConfig(PolicyLossConfig):
  """Knobs of the policy objective beside those of HGPO's loss, whose defaults leave it as it is."""

  ratio: str = knob(
    "token",
    one_of(*policy_losses.RATIOS),
    "Importance ratio of each token, or of each response: the geometric mean over its tokens "
    '("sequence", and "sequence_token" with the gradient of single tokens) or the "product".',
  )
  surrogate: str = knob(
    "clipped",
    one_of(*SURROGATES),
    'PPO\'s clipped surrogate, or "cispo": a clipped weight on log pi.',
  )
  dual_clip: float = knob(
    0.0, real(0), "Bound of the loss of a negative advantage, in units of it; above 1, 0 for none."
  )
  separate_tag: bool = knob(
    False,
    FLAG,
    "The opening tag's loss is a mean of its own over responses, times tag_weight (DeGRPO).",
  )
  kl_estimator: str = knob(
    "k3",
    one_of(*policy_losses.KL_ESTIMATORS),
    'Estimator of the KL penalty; "k1" as a part of the loss has no gradient on average.',
  )
  kl_in: str = knob(
    "loss",
    one_of("loss", "reward"),
    "Where the KL penalty acts: a term of the loss, or the reward.",
  )
  sampler_correction: str = knob(
    "",
    one_of("", *policy_losses.CORRECTIONS),
    "Truncated importance weights between the sampler's and the trainer's probabilities, per token "
    'or response; "" for none.',
  )
  sampler_cap: float = knob(2.0, real(1), "Largest such weight.")
  mask_truncated: bool = knob(
    False, FLAG, "Leave responses that were cut off at the limit out of the loss."
  )
  entropy_bonus: float = knob(0.0, real(0), "Weight of the entropy of each token's distribution.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyBatch:
  """Input of a policy objective.

  Attributes:
    logprobs: `[N, T]` of the policy that learns.
    old_logprobs: `[N, T]` of the policy that sampled, computed by the trainer.
    ref_logprobs: `[N, T]` of the reference.
    advantages: `[N, T]`, see `losses.token_advantages`.
    mask: `[N, T]` bool; elsewhere the other arrays may hold anything.
    sampler_logprobs: `[N, T]`, as the sampler computed them, for `sampler_correction`.
    entropy: `[N, T]` nats, of the policy that learns, for `entropy_bonus`.
    truncated: `[N]` bool, cut off at the limit, for `mask_truncated`.
  """

  logprobs: Array
  old_logprobs: Array
  ref_logprobs: Array
  advantages: Array
  mask: Array
  sampler_logprobs: Array | None = None
  entropy: Array | None = None
  truncated: Array | None = None


def policy_objective(
  config: PolicyObjectiveConfig,
  batch: PolicyBatch,
  *,
  constant_length: int = 1,
  per_sequence: Array | float | None = None,
) -> tuple[SumCount, dict[str, SumCount]]:
  """The negated objective that `config` describes, and what is watched beside it.

  With the defaults it is `losses.policy_loss`.

  Args:
    config: knobs.
    batch: see `PolicyBatch`.
    constant_length: see `losses.aggregation_weights`.
    per_sequence: `policy_losses.count_per_sequence` of the whole update, of which `batch` may be a
      part; for `separate_tag`.

  Returns:
    The loss, and metrics under TRL's names.

  Raises:
    ValueError: `separate_tag` without `per_sequence`.
  """
  mask = batch.mask
  if config.mask_truncated:
    mask = policy_losses.without_truncated(mask, batch.truncated)
  # Hidden slots are set to harmless values first: a NaN there would pass through any later `where`
  # on the way back.
  logprobs, old, ref, advantages = (
    masked(x, mask)
    for x in (batch.logprobs, batch.old_logprobs, batch.ref_logprobs, batch.advantages)
  )
  is_tag = jnp.arange(mask.shape[1]) == 0
  body = mask & ~is_tag
  penalised = mask if config.tag_kl == "k3" else body
  if config.kl_in == "reward":
    divergence = policy_losses.kl_estimate(old, ref, estimator=config.kl_estimator)
    advantages -= config.beta * policy_losses.divergence_to_go(divergence, penalised)

  ratio = policy_losses.importance_ratio(logprobs, old, mask, level=config.ratio)
  clips = {"clip_low": config.clip_low, "clip_high": config.clip_high}
  if config.surrogate == "cispo":
    terms = policy_losses.cispo_loss(logprobs, ratio, advantages, **clips)
  else:
    terms = policy_losses.clipped_loss(ratio, advantages, dual_clip=config.dual_clip, **clips)
  low = (ratio < 1.0 - config.clip_low) & (advantages < 0)
  high = (ratio > 1.0 + config.clip_high) & (advantages > 0)
  metrics = {
    "kl": masked_sum_count(k3_divergence(logprobs, ref), body),
    "clip_ratio/low_mean": masked_sum_count(low.astype(jnp.float32), body),
    "clip_ratio/high_mean": masked_sum_count(high.astype(jnp.float32), body),
    "importance_ratio/mean": masked_sum_count(ratio, mask),
  }
  if config.sampler_correction:
    weights = policy_losses.sampler_weights(
      old, masked(batch.sampler_logprobs, mask), mask,
      level=config.sampler_correction, cap=config.sampler_cap,
    )  # fmt: skip
    terms *= weights
    metrics["sampling/importance_sampling_ratio/mean"] = masked_sum_count(weights, mask)
  if config.kl_in == "loss":
    divergence = policy_losses.kl_estimate(logprobs, ref, estimator=config.kl_estimator)
    terms += config.beta * masked(divergence, penalised)
  if config.entropy_bonus:
    terms -= config.entropy_bonus * batch.entropy

  if config.separate_tag:
    if per_sequence is None:
      raise ValueError("separate_tag needs per_sequence, the update's `count_per_sequence`.")
    weights, count = policy_losses.separate_tag_weights(
      mask, config.aggregation, tag_weight=config.tag_weight,
      per_sequence=per_sequence, constant_length=constant_length,
    )  # fmt: skip
  else:
    weights, count = aggregation_weights(mask, config.aggregation, constant_length)
    weights = jnp.where(is_tag, config.tag_weight * weights, weights)
  return SumCount(masked_sum(terms * weights, mask), count), metrics

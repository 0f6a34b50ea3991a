"""The policy objective: one loss put together from the parts of `policy_losses`, by a config."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from lhrm_jax.config import FLAG, SHARE, knob, one_of, real
from lhrm_jax.objectives import policy_losses
from lhrm_jax.objectives.losses import AGGREGATIONS, aggregation_weights, k3_divergence
from lhrm_jax.objectives.masked import SumCount, masked, masked_sum, masked_sum_count

SURROGATES = ("clipped", "cispo")
TAG_NORMALISATIONS = ("tags", "vocabulary")
TAG_KLS = ("k3", "exact")


@dataclasses.dataclass(frozen=True)
class PolicyObjectiveConfig:
  """Knobs of the policy objective; the defaults are HGPO's loss."""

  beta: float = knob(0.001, real(0), "Weight of the KL penalty against the reference policy.")
  clip_low: float = knob(0.5, SHARE, "Clip range of the importance ratio below 1.")
  clip_high: float = knob(0.5, real(0), "Clip range of the importance ratio above 1.")
  aggregation: str = knob(
    "sequence_sum", one_of(*AGGREGATIONS), "How the loss of tokens becomes one number."
  )
  tag_weight: float = knob(1.0, real(0), "Factor on the loss of the opening tag.")
  tag_normalisation: str = knob(
    "tags",
    one_of(*TAG_NORMALISATIONS),
    "Distribution that a forced tag's log-probability is taken from: the two opening tags, or the "
    "whole vocabulary (the literal form).",
    before="vocabulary",
  )
  tag_old: str = knob(
    "own",
    one_of("own", "behaviour"),
    "Old probability of a forced tag: the policy's own, or the half that it was forced with "
    "(AdaptThink).",
  )
  tag_kl: str = knob(
    "k3", one_of(*TAG_KLS), "Divergence of the opening tag from the reference policy."
  )
  neither_penalty: float = knob(
    10.0,
    real(0),
    "Weight of the penalty on -log(p_think + p_no_think), where tags are forced, in units of an "
    "advantage.",
    before=0.0,
  )
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
    0.0,
    real(0),
    "Bound of the loss of a negative advantage, in units of it; above 1, or 0 for none.",
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
  """

  logprobs: Array
  old_logprobs: Array
  ref_logprobs: Array
  advantages: Array
  mask: Array
  sampler_logprobs: Array | None = None
  entropy: Array | None = None


def policy_objective(
  config: PolicyObjectiveConfig,
  batch: PolicyBatch,
  *,
  constant_length: int = 1,
  per_sequence: Array | float | None = None,
) -> tuple[SumCount, dict[str, SumCount]]:
  """The negated objective that `config` describes, and what is watched beside it.

  With the defaults it is HGPO's (https://arxiv.org/abs/2505.14631),
  `J = sum_t [ min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) - beta * k3 ]`, aggregated as
  named. The opening tag is in it with the policy's own old log-probability, although it was forced.
  Eq. 11 prints the HFT policy in the ratio's denominator; Algorithm 1 refreshes it, as here.

  Args:
    config: knobs. With `tag_kl` at "exact" the first token has no KL term:
      `losses.tag_regulariser` holds its divergence.
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

  weights, count = loss_weights(config, mask, constant_length, per_sequence)
  return SumCount(masked_sum(terms * weights, mask), count), metrics


def loss_weights(
  config: PolicyObjectiveConfig,
  mask: Array,
  constant_length: int,
  per_sequence: Array | float | None = None,
) -> tuple[Array, Array]:
  """What each token `[N, T]` weighs, and the count that the sum is divided by.

  Arguments as in `policy_objective`.
  """
  if config.separate_tag:
    if per_sequence is None:
      raise ValueError("separate_tag needs per_sequence, the update's `count_per_sequence`.")
    return policy_losses.separate_tag_weights(
      mask, config.aggregation, tag_weight=config.tag_weight,
      per_sequence=per_sequence, constant_length=constant_length,
    )  # fmt: skip
  weights, count = aggregation_weights(mask, config.aggregation, constant_length)
  is_tag = jnp.arange(mask.shape[1]) == 0
  return jnp.where(is_tag, config.tag_weight * weights, weights), count

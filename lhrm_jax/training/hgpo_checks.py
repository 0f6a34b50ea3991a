"""Checks between the knobs of HGPO, and which have no effect under the others."""

import functools
import inspect
from collections.abc import Iterator

from lhrm_jax.config import idle, retire, together
from lhrm_jax.objectives import advantages
from lhrm_jax.registry import UnknownName
from lhrm_jax.training.hgpo import HGPOConfig

retire(
  HGPOConfig,
  "length_buckets",
  "responses are packed into rows, hgpo.packed_length, without buckets of lengths. Delete it.",
)
retire(
  HGPOConfig,
  "micro_batches",
  "an update is computed hgpo.micro_batch_rows packed rows at a time. Set that if memory is short.",
)


@together(HGPOConfig, "prompts_per_step", "updates_per_rollout")
def _parts_of_a_step(c: HGPOConfig) -> str:
  if c.prompts_per_step % c.updates_per_rollout == 0:
    return ""
  return (
    f"hgpo.updates_per_rollout={c.updates_per_rollout} does not divide hgpo.prompts_per_step="
    f"{c.prompts_per_step}: each update takes an equal part of a step's prompts."
  )


@together(HGPOConfig, "prompts_per_step", "sampling_chunks")
def _sampling_chunks(c: HGPOConfig) -> str:
  if c.prompts_per_step % c.sampling_chunks == 0:
    return ""
  return (
    f"hgpo.prompts_per_step={c.prompts_per_step} does not divide into hgpo.sampling_chunks="
    f"{c.sampling_chunks} equal chunks: choose a divisor of the prompts."
  )


@together(HGPOConfig, "prompts_per_step", "steps")
def _prompt_ids(c: HGPOConfig) -> str:
  if c.prompts_per_step * c.steps < 2**31:
    return ""
  return (
    f"hgpo.steps={c.steps} with hgpo.prompts_per_step={c.prompts_per_step} are more prompts than "
    "the int32 ids that their random keys derive from: at most "
    f"{(2**31 - 1) // c.prompts_per_step:,} steps."
  )


@together(HGPOConfig, "advantage")
def _advantage_known(c: HGPOConfig) -> str:
  try:
    advantages.get(c.advantage)
  except UnknownName as error:
    return f"hgpo.advantage={c.advantage!r}: {error}"
  return ""


@together(HGPOConfig, "advantage", "pairing")
def _pairing(c: HGPOConfig) -> str:
  if c.advantage != "hgpo" or c.pairing == "paired":
    return ""
  return (
    f"hgpo.advantage='hgpo' compares the modes of paired rollouts; with hgpo.pairing={c.pairing!r} "
    "choose another, such as 'grpo'."
  )


@together(HGPOConfig, "pairing", "forced_share", "samples_per_mode")
def _mixed(c: HGPOConfig) -> str:
  if c.pairing != "mixed" or 0 < c.forced(c.samples) < c.samples:
    return ""
  return (
    f"hgpo.pairing='mixed' with hgpo.forced_share={c.forced_share} forces {c.forced(c.samples)} of "
    f"2 * hgpo.samples_per_mode={c.samples} responses, an even number: all of them is 'paired', "
    "none is 'free'."
  )


@together(HGPOConfig, "top_p", "top_k")
def _truncation(c: HGPOConfig) -> str:
  if c.top_p == 1 and not c.top_k:
    return ""
  return (
    f"hgpo.top_p={c.top_p} and hgpo.top_k={c.top_k}: the update takes log-probabilities under the "
    "whole distribution, so rollouts must be drawn from it: hgpo.top_p=1 and hgpo.top_k=0. To "
    "sharpen rollouts, lower hgpo.temperature, which the update follows."
  )


@together(HGPOConfig, "advantage", "samples_per_mode")
def _group_size(c: HGPOConfig) -> str:
  if c.advantage != "hgpo" or c.samples_per_mode > 1:
    return ""
  return (
    "hgpo.samples_per_mode=1 with hgpo.advantage='hgpo': a mode's only response is always its "
    "best, so every token after the tag has advantage 0. Use at least 2."
  )


@together(HGPOConfig, "skip_zero_advantages", "beta", "entropy_bonus")
def _skipping(c: HGPOConfig) -> str:
  given = {"KL penalty": ("beta", c.beta), "entropy bonus": ("entropy_bonus", c.entropy_bonus)}
  for what, (key, value) in given.items():
    if c.skip_zero_advantages and value:
      return (
        f"hgpo.skip_zero_advantages with hgpo.{key}={value}: the {what} gives every response a "
        f"gradient, with or without advantage. Set hgpo.{key}=0, or skip_zero_advantages=False."
      )
  return ""


@together(HGPOConfig, "dual_clip")
def _dual_clip(c: HGPOConfig) -> str:
  if not 0 < c.dual_clip <= 1:
    return ""
  return (
    f"hgpo.dual_clip={c.dual_clip} would bound losses within the clip range: set it above 1, or to "
    "0 for none."
  )


@together(HGPOConfig, "kl_estimator", "kl_in", "beta")
def _kl_without_gradient(c: HGPOConfig) -> str:
  if not c.beta or (c.kl_estimator, c.kl_in) != ("k1", "loss"):
    return ""
  return (
    "hgpo.kl_estimator='k1' with hgpo.kl_in='loss' has no gradient on average: set hgpo.kl_in="
    "'reward', or the estimator 'k2' or 'k3'."
  )


@together(HGPOConfig, "tag_old", "kl_in")
def _kl_of_the_behaviour(c: HGPOConfig) -> str:
  if c.tag_old != "behaviour" or c.kl_in != "reward":
    return ""
  return (
    "hgpo.tag_old='behaviour' with hgpo.kl_in='reward': the penalty is taken from old "
    "probabilities, and a forced tag's would not be the policy's. Set hgpo.kl_in='loss'."
  )


@together(HGPOConfig, "advantage", "advantage_options")
def argument_problems(c: HGPOConfig) -> Iterator[str]:
  """Yields the problems of `hgpo.advantage_options`, a sentence each."""
  name, own = c.advantage, c.advantage_options
  if name not in advantages.names():
    return
  signature = inspect.signature(advantages.get(name))
  parameters = list(signature.parameters.values())[1:]  # the first one is the scores
  named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
  for option in own:
    if option in advantages.SETTINGS:
      yield f"hgpo.advantage_options.{option}: set hgpo.{option} instead."
    elif option in advantages.CONTEXT:
      yield f"hgpo.advantage_options.{option}: given by the rollouts and the run."
    elif option not in named and len(named) == len(parameters):
      own_names = sorted(named.difference(advantages.SETTINGS, advantages.CONTEXT))
      yield (
        f"hgpo.advantage_options.{option}: hgpo.advantage={name!r} takes no such argument; it "
        f"takes {', '.join(own_names) or 'none'} beside the keys of the config."
      )
  for p in parameters:
    if isinstance(p.default, int | float) and isinstance(own.get(p.name), str):
      yield (
        f"hgpo.advantage_options.{p.name}={own[p.name]!r} must be a number or a flag, as its "
        f"default {p.default!r} is."
      )
    missing = p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    given = (*own, *advantages.SETTINGS, *advantages.CONTEXT)
    if missing and p.name not in given:
      yield (
        f"hgpo.advantage={name!r} needs an argument {p.name}: set hgpo.advantage_options.{p.name}."
      )


# ---- Without effect


@idle(HGPOConfig, "decode_slots")
def _slots_for_all(c: HGPOConfig) -> str:
  each = c.samples_per_mode
  if not _no_reference_accuracy(c):
    each = max(each, c.reference_samples)
  rows = c.prompts_per_step // c.sampling_chunks * 2 * each
  if c.decode_slots < rows:
    return ""
  return f"only {rows:,} responses, of a step or one of its chunks, to decode at a time"


@idle(HGPOConfig, "delta", "skip_unsolved")
def _modes_are_not_compared(c: HGPOConfig) -> str:
  compares = c.advantage != "hgpo" or c.alpha
  return "" if compares else "hgpo.alpha=0, with which no mode is rewarded for winning"


@idle(HGPOConfig, "eval_hacc")
def _no_evaluations(c: HGPOConfig) -> str:
  return "" if c.eval_every else "hgpo.eval_every=0"


@idle(HGPOConfig, "intra_scope")
def _over_the_batch(c: HGPOConfig) -> str:
  return _estimator(c, "reinforce_pp", "is over the whole batch")


@idle(HGPOConfig, "ddof")
def _no_deviation(c: HGPOConfig) -> str:
  return _estimator(c, "rloo", "divides by no deviation") or _over_the_batch(c)


@idle(HGPOConfig, "literal")
def _same_literally(c: HGPOConfig) -> str:
  """Modes of equal scores, all tied for the best, differ from no other response within the mode."""
  scope = c.intra_scope or ("all" if c.estimator == "rloo" else "mode")
  if c.advantage != "hgpo" or c.estimator == "reinforce_pp" or c.tie != "all" or scope != "mode":
    return ""
  return (
    f"hgpo.estimator={c.estimator!r} over the responses of a mode and hgpo.tie='all': the "
    "equations as printed give the same"
  )


@idle(HGPOConfig, "gamma")
def _undiscounted(c: HGPOConfig) -> str:
  key = "estimator" if c.advantage == "hgpo" else "advantage"
  return "" if c.discounted else f"hgpo.{key}={getattr(c, key)!r}: only 'reinforce_pp' discounts"


@idle(HGPOConfig, "tag_normalisation", "neither_penalty", "tag_old")
def _no_forced_tag(c: HGPOConfig) -> str:
  return "hgpo.pairing='free': no tag is forced" if c.pairing == "free" else ""


@idle(HGPOConfig, "refill")
def _every_query_has_a_winner(c: HGPOConfig) -> str:
  if c.advantage != "hgpo" or c.skip_unsolved or not c.alpha:
    return ""
  return (
    "hgpo.advantage='hgpo': a mode wins every query but those that hgpo.skip_unsolved leaves out"
  )


@idle(HGPOConfig, "reference_every")
def _no_reference(c: HGPOConfig) -> str:
  return _no_divergence(c)


@idle(HGPOConfig, "reference_samples")
def _no_reference_accuracy(c: HGPOConfig) -> str:
  asked = c.advantage in advantages.names() and "ref_accuracy" in advantages.context_of(c.advantage)
  return "" if asked else f"hgpo.advantage={c.advantage!r}, which takes no argument ref_accuracy"


@idle(HGPOConfig, "forced_share")
def _not_mixed(c: HGPOConfig) -> str:
  return "" if c.pairing == "mixed" else f"hgpo.pairing={c.pairing!r}: only 'mixed' has a share"


@idle(HGPOConfig, "tag_kl", "kl_estimator", "kl_in")
def _no_divergence(c: HGPOConfig) -> str:
  return "" if c.beta else "hgpo.beta=0"


@idle(HGPOConfig, "dual_clip")
def _unclipped(c: HGPOConfig) -> str:
  return "" if c.surrogate == "clipped" else f"hgpo.surrogate={c.surrogate!r}"


@idle(HGPOConfig, "sampler_cap")
def _uncorrected(c: HGPOConfig) -> str:
  return "" if c.sampler_correction else "hgpo.sampler_correction=''"


def _not_taken(setting: str, c: HGPOConfig) -> str:
  if c.advantage not in advantages.names() or setting in advantages.settings_of(c.advantage):
    return ""
  return f"hgpo.advantage={c.advantage!r}, which takes no argument {setting}"


for _setting in advantages.SETTINGS:
  idle(HGPOConfig, _setting)(functools.partial(_not_taken, _setting))


def _estimator(c: HGPOConfig, name: str, what: str) -> str:
  if c.estimator != name or _not_taken("estimator", c):
    return ""
  return f"hgpo.estimator={name!r}, which {what}"

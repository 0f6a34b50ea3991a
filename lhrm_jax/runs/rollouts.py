"""Prompts, rollouts and scorer of an HGPO step, as a config describes them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lhrm_jax import policy
from lhrm_jax.data import limits
from lhrm_jax.errors import as_user_error
from lhrm_jax.rewards.scoring import Scorer
from lhrm_jax.runs.setup import Setup
from lhrm_jax.sampling import Prompts, Rollouts, SamplerSpec, sample


def draw_prompts(run: Setup, step: int) -> limits.DrawnPrompts:
  """Draws the prompts of one step, a function of the seed and the step alone.

  Raises:
    UserError: a prompt is too long or cannot be encoded.
  """
  data = run.config.data
  with as_user_error(ValueError):
    return limits.draw_prompts(
      run.task, run.tokenizer, run.config.seed, step, run.config.hgpo.prompts_per_step,
      max_tokens=data.max_prompt_tokens, long_prompts=data.long_prompts,
    )  # fmt: skip


def make_rollout_fn(run: Setup) -> Callable[[policy.Params, Prompts, int], Rollouts]:
  """Returns `rollout_fn(params, prompts, step) -> Rollouts`, paired or with the mode left free."""
  c = run.config.hgpo
  spec = SamplerSpec.of(
    run.tokenizer, samples=c.samples, max_tokens=run.config.data.max_response_tokens,
    paired=c.pairing == "paired", forced=c.forced(c.samples), temperature=c.temperature,
    top_p=c.top_p, top_k=c.top_k,
  )  # fmt: skip
  stream = jax.random.fold_in(jax.random.key(run.config.seed), 1)

  def rollout_fn(params: policy.Params, prompts: Prompts, step: int) -> Rollouts:
    rollouts = sample(run.policy_config, spec, params, prompts, jax.random.fold_in(stream, step))
    return dataclasses.replace(rollouts, policy_version=jnp.int32(step))

  return rollout_fn


def make_scorer(run: Setup) -> Scorer:
  """Returns the scorer of the training rollouts; use it as a context manager."""
  return Scorer(run.reward_fn, tag_ids=run.tokenizer.tag_ids, **run.scoring_options())

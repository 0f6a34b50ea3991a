"""Paired rollouts from a policy."""

from lhrm_jax.sampling.dials import Dials, DialsConfig
from lhrm_jax.sampling.rollouts import (
  FINISH_REASONS,
  LENGTH,
  STOPPED,
  Prompts,
  Rollouts,
  concatenate,
)
from lhrm_jax.sampling.sampler import ByMode, SamplerSpec, prefill, sample
from lhrm_jax.sampling.tokens import mode_logprobs, sample_tokens

__all__ = [
  "FINISH_REASONS",
  "LENGTH",
  "STOPPED",
  "ByMode",
  "Dials",
  "DialsConfig",
  "Prompts",
  "Rollouts",
  "SamplerSpec",
  "concatenate",
  "mode_logprobs",
  "prefill",
  "sample",
  "sample_tokens",
]

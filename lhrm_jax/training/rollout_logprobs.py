"""Per-token log-probabilities of given rollouts under a policy.

Rollouts are scored the way the sampler made them: each prompt runs once, and all of its responses
attend to its one cache, in buckets of like length (`length_buckets`).
"""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.parallel import take_rows
from lhrm_jax.policy import KVCache, PolicyConfig
from lhrm_jax.sampling import Rollouts, mode_logprobs, prefill
from lhrm_jax.training.length_buckets import Buckets, bucket_widths, map_over


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RolloutLogprobs:
  """Log-probabilities and entropies of given rollouts under one policy.

  Attributes:
    logprobs: `[B, M, G, T]` float32 of the response tokens.
    entropy: `[B, M, G, T]` float32, nats.
    mode_logprobs: `[B, 3]` float32, see `sampling.mode_logprobs`.
  """

  logprobs: Array
  entropy: Array
  mode_logprobs: Array


def make_score(
  config: PolicyConfig,
  opening: tuple[int, int],
  temperature: float,
  length_buckets: int = 8,
  mesh: Mesh | None = None,
) -> Callable[[policy.Params, Rollouts], RolloutLogprobs]:
  """The jitted scoring of sampled ids, for reference and old log-probabilities.

  Args:
    config: of the policy.
    opening: ids of the two opening tags.
    temperature: the rollouts were sampled at.
    length_buckets: parts that the responses, sorted by length, are computed in.
    mesh: that parameters and rollouts lie on, where it has several devices.
  """

  def score(params: policy.Params, rollouts: Rollouts) -> RolloutLogprobs:
    b, m, g, t = rollouts.responses.shape
    widths = bucket_widths(t)
    last, prefix = prefill(config, params, rollouts.prompts)
    responses = by_row(rollouts.responses)

    def of_bucket(rows: Array, lengths: Array, width: int) -> policy.TokenLogprobs:
      return score_rows(
        config, params, (last, prefix), rows // (m * g), take_rows(responses[:, :width], rows),
        lengths, temperature,
      )  # fmt: skip

    parts = parallel.batch_parts(b)
    buckets = Buckets.of(by_row(rollouts.lengths), length_buckets, widths, parts)
    scored = map_over(buckets, widths, of_bucket, b * m * g)
    return RolloutLogprobs(
      scored.logprobs.reshape(b, m, g, t),
      scored.entropy.reshape(b, m, g, t),
      mode_logprobs(policy.next_token_logits(config, params, last) / temperature, opening),
    )

  @jax.jit
  def score_over_mesh(params: policy.Params, rollouts: Rollouts) -> RolloutLogprobs:
    with parallel.over(mesh) if mesh else contextlib.nullcontext():
      return score(params, rollouts)

  return score_over_mesh


def by_row(x: Array) -> Array:
  """`[B, M, G, ...]` to `[N, ...]`."""
  return x.reshape(-1, *x.shape[3:])


def score_rows(
  config: PolicyConfig, params: policy.Params, prompts: tuple[Array, KVCache], prompt_of: Array,
  responses: Array, lengths: Array, temperature: float,
) -> policy.TokenLogprobs:  # fmt: skip
  """Teacher-forced scores `[P * R, width]` of some responses.

  Args:
    config: of the policy.
    params: of the policy.
    prompts: as `prefill` gives them, `[B, d]` hidden states of their last tokens and their cache.
    prompt_of: `[P, R]`, which prompt of its part each response answers.
    responses: `[P * R, width]`.
    lengths: `[P * R]`.
    temperature: of the distribution.
  """
  (last, prefix), width = prompts, responses.shape[1]
  positions = take_rows(prefix.lengths, prompt_of)[:, None] + jnp.arange(width - 1)
  segment_ids = (jnp.arange(1, width) < lengths[:, None]).astype(jnp.int32)
  context = (policy.cache.take(prefix, prompt_of),)
  hidden, _ = policy.apply(config, params, responses[:, :-1], positions, segment_ids, context)
  # The prompt's last token predicts the tag, each response token the next one.
  hidden = jnp.concatenate([take_rows(last, prompt_of)[:, None], hidden], axis=1)
  return policy.token_logprobs(config, params, hidden, responses, temperature)

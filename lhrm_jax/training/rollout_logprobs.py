"""Per-token log-probabilities of given rollouts under a policy.

Rollouts are scored the way the sampler made them: each prompt runs once, and all of its responses
attend to its one cache, in length buckets (`length_buckets`).
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
  """Per-token log-probabilities and entropies of given rollouts under one policy.

  Attributes:
    logprobs: `[B, M, G, T]` float32, log-probabilities of the response tokens.
    entropy: `[B, M, G, T]` float32, entropies in nats.
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
  """Returns the jitted function that scores sampled ids, for reference and old log-probabilities.

  Args:
    config: static part of the policy.
    opening: ids of the two opening tags.
    temperature: sampling temperature of the rollouts.
    length_buckets: number of length buckets that the responses are computed in.
    mesh: mesh of the parameters and rollouts, if it has several devices.
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
  """Flattens `[B, M, G, ...]` to `[N, ...]`."""
  return x.reshape(-1, *x.shape[3:])


def score_rows(
  config: PolicyConfig, params: policy.Params, prompts: tuple[Array, KVCache], prompt_of: Array,
  responses: Array, lengths: Array, temperature: float,
) -> policy.TokenLogprobs:  # fmt: skip
  """Returns teacher-forced log-probabilities and entropies `[P * R, width]` of responses.

  Args:
    config: static part of the policy.
    params: parameters of the policy.
    prompts: result of `prefill`: `[B, d]` hidden states of the last tokens, and the cache.
    prompt_of: `[P, R]`, index within its part of the prompt that each response answers.
    responses: `[P * R, width]` token ids.
    lengths: `[P * R]`, tokens of each response.
    temperature: temperature of the distribution.
  """
  (last, prefix), width = prompts, responses.shape[1]
  positions = take_rows(prefix.lengths, prompt_of)[:, None] + jnp.arange(width - 1)
  segment_ids = (jnp.arange(1, width) < lengths[:, None]).astype(jnp.int32)
  context = (policy.cache.take(prefix, prompt_of),)
  hidden, _ = policy.apply(config, params, responses[:, :-1], positions, segment_ids, context)
  # The prompt's last token predicts the tag, and each response token the next one.
  hidden = jnp.concatenate([take_rows(last, prompt_of)[:, None], hidden], axis=1)
  return policy.token_logprobs(config, params, hidden, responses, temperature)

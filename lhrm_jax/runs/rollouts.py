"""What an HGPO step samples, and what judges it, as a config describes them.

All of it is a function of the parameters, the seed, the step and the round of refilling, so that a
resumed run samples the same.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lhrm_jax import parallel, policy
from lhrm_jax.data import limits
from lhrm_jax.errors import as_user_error
from lhrm_jax.rewards.scored_rollouts import PendingScores, sample_and_score
from lhrm_jax.rewards.scoring import Scorer
from lhrm_jax.runs.instruments import Stopwatch
from lhrm_jax.runs.setup import Setup
from lhrm_jax.sampling import Prompts, Rollouts, SamplerSpec, sample

# RolloutFn(params, prompts, step, *, refill, limits); see `make_rollout_fn`.
RolloutFn = Callable[..., Rollouts]


def draw_prompts(run: Setup, step: int, refill: int = 0) -> limits.DrawnPrompts:
  """The queries of one step, or of one of its rounds of refilling: a function of these alone.

  Raises:
    UserError: a prompt is too long or cannot be encoded.
  """
  data = run.config.data
  with as_user_error(ValueError):
    return limits.draw_prompts(
      run.task, run.tokenizer, run.config.seed, step, run.config.hgpo.prompts_per_step,
      max_tokens=data.max_prompt_tokens, long_prompts=data.long_prompts, refill=refill,
    )  # fmt: skip


def make_rollout_fn(run: Setup, stream: int = 1, **changes: object) -> RolloutFn:
  """`rollout_fn(params, prompts, step, *, refill=0, limits=None) -> Rollouts`, by `hgpo.pairing`.

  Args:
    run: its config and policy.
    stream: of random numbers; each use of the sampler has one.
    **changes: fields of `SamplerSpec` in place of the config's.
  """
  c = run.config.hgpo
  spec = SamplerSpec.of(run.tokenizer, **{
    "samples": c.samples, "max_tokens": run.config.data.max_response_tokens,
    "paired": c.pairing == "paired", "forced": c.forced(c.samples), "temperature": c.temperature,
    "top_p": c.top_p, "top_k": c.top_k, "slots": c.decode_slots, **changes,
  })  # fmt: skip
  stream_key = jax.random.fold_in(jax.random.key(run.config.seed), stream)

  def rollout_fn(
    params: policy.Params, prompts: Prompts, step: int, *, refill: int = 0,
    limits: np.ndarray | None = None,
  ) -> Rollouts:  # fmt: skip
    key = jax.random.fold_in(stream_key, step)
    key = jax.random.fold_in(key, refill) if refill else key
    rollouts = sample(run.policy_config, spec, params, prompts, key, limits=limits)
    return dataclasses.replace(rollouts, policy_version=jnp.int32(step))

  return rollout_fn


def make_scorer(run: Setup) -> Scorer:
  """Returns the scorer of the training rollouts; use it as a context manager."""
  return Scorer(run.reward_fn, tag_ids=run.tokenizer.tag_ids, **run.scoring_options())


def start(
  run: Setup, scorer: Scorer, clock: Stopwatch, drawn: limits.DrawnPrompts,
  sample_chunk: Callable[[Prompts], Rollouts], wanted: np.ndarray | None = None,
) -> PendingScores:  # fmt: skip
  """Samples this host's share of the queries drawn, and starts scoring it.

  Args:
    run: its mesh and config.
    scorer: judges.
    clock: times "rollout" and "reward".
    drawn: the `B` queries of all hosts.
    sample_chunk: the sampler.
    wanted: `[B]` bool, the queries to sample, all by default. A host without any takes one, so that
      each takes part.
  """
  c = run.config.hgpo
  mine = parallel.local_rows(run.mesh, c.prompts_per_step)
  if wanted is not None:
    wanted = wanted[mine]
    wanted[0] |= not wanted.any()
  chunks = Prompts(*(x[mine] for x in drawn.encoded)).split(c.sampling_chunks)
  rows = [drawn.rows[i] for i in mine]
  return sample_and_score(sample_chunk, scorer, run.tokenizer, rows, chunks, clock, wanted)


def limits_of(wanted: np.ndarray, prompts: Prompts, modes: np.ndarray, most: int) -> np.ndarray:
  """`[b, M, G]` longest responses: `most` where wanted, else the first token alone.

  Args:
    wanted: `[B]` bool, queries of the whole step.
    prompts: `b` of them; their ids are places in the stream of prompts.
    modes: `[M, G]` bool, responses that are wanted.
    most: tokens.
  """
  asked = wanted[np.asarray(prompts.ids) % len(wanted)]
  return np.where(asked[:, None, None] & modes, most, 1).astype(np.int32)

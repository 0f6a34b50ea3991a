"""Per-token log-probabilities of given rollouts under a policy, by packed rows."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import Rollouts, mode_logprobs
from lhrm_jax.training.packed import PackingConfig, RowShape
from lhrm_jax.training.packed_rollouts import PackedPlaces, PackedRows, pack_rollouts
from lhrm_jax.training.update import map_rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RolloutLogprobs:
  """Per-token log-probabilities and entropies of given rollouts under one policy.

  Attributes:
    logprobs: `[B, M, G, T]` float32, log-probabilities of the response tokens, 0 beyond them;
      `[N, L]` of packed rows.
    entropy: likewise, entropies in nats.
    mode_logprobs: `[B, 3]` float32, see `sampling.mode_logprobs`; `[N, Q, 3]` of packed rows.
  """

  logprobs: Array
  entropy: Array
  mode_logprobs: Array


class Score:
  """`score(params, rollouts)`: log-probabilities of sampled ids, for the reference and the old.

  It packs rollouts that every process holds whole, computes them on the devices of the parameters,
  and returns numpy arrays.
  """

  def __init__(
    self, config: PolicyConfig, opening: tuple[int, int], temperature: float, packing: PackingConfig
  ):
    """Arguments as of `make_score`."""
    self._config, self._packing = config, packing
    make = functools.partial(make_score_program, config, opening, temperature)
    self._program = functools.cache(make)

  def __call__(self, params: policy.Params, rollouts: Rollouts) -> RolloutLogprobs:
    packed, program, rows = self._packed(params, rollouts)
    found = jax.device_get(program(params, rows))
    shape = rollouts.responses.shape
    return RolloutLogprobs(
      packed.tokens_back(found.logprobs, shape),
      packed.tokens_back(found.entropy, shape),
      packed.prompts_back(found.mode_logprobs, shape[0]),
    )

  def trace(self, params: policy.Params, rollouts: Rollouts) -> jax.stages.Traced:
    """Traces the program for these shapes."""
    _, program, rows = self._packed(params, rollouts)
    return program.trace(params, rows)

  def _packed(self, params: policy.Params, rollouts: Rollouts):
    mesh, rollouts = parallel.mesh_of(params), jax.device_get(rollouts)
    packed = pack(self._config, self._packing, mesh, rollouts)
    program = self._program(mesh, packed.shape.at_a_time)
    return packed, program, parallel.shard_rows(mesh, packed.rows)


def make_score(
  config: PolicyConfig,
  opening: tuple[int, int],
  temperature: float,
  packing: PackingConfig | None = None,
) -> Score:
  """Builds the scoring of sampled ids.

  Args:
    config: static part of the policy.
    opening: ids of the two opening tags.
    temperature: sampling temperature of the rollouts.
    packing: knobs of the rows; the defaults where it is `None`.
  """
  return Score(config, opening, temperature, packing or PackingConfig())


def make_score_program(
  config: PolicyConfig, opening: tuple[int, int], temperature: float, mesh: Mesh, at_a_time: int
) -> Callable[[policy.Params, PackedRows], RolloutLogprobs]:
  """Returns the jitted scoring of packed rows; the result is whole on every process."""

  def score(params: policy.Params, rows: PackedRows) -> RolloutLogprobs:
    with parallel.over(mesh):
      of_block = functools.partial(score_rows, config, opening, temperature, params)
      return map_rows(of_block, rows, at_a_time)

  return jax.jit(score, out_shardings=parallel.replicated(mesh))


def score_rows(
  config: PolicyConfig, opening: tuple[int, int], temperature: float, params: policy.Params,
  rows: PackedRows,
) -> RolloutLogprobs:  # fmt: skip
  """Log-probabilities of the targets of packed rows; what they are of no target has no meaning."""
  hidden, _ = policy.apply(
    config, params, rows.tokens, rows.positions, rows.segment_ids, prefix_ids=rows.prefix_ids
  )
  scored = policy.token_logprobs(
    config, params, hidden, rows.targets, temperature, rows.sources, jnp.max(rows.counts)
  )
  modes = policy.map_logits(
    config, params, jax.vmap(lambda logits: mode_logprobs(logits / temperature, opening)), hidden,
    rows.prompt_places, jnp.max(rows.prompt_counts),
  )  # fmt: skip
  return RolloutLogprobs(scored.logprobs, scored.entropy, modes)


def pack(
  config: PolicyConfig, c: PackingConfig, mesh: Mesh, rollouts: Rollouts,
  lengths: np.ndarray | None = None,
) -> PackedPlaces:  # fmt: skip
  """Packs rollouts on the host as a config and a mesh ask for; see `pack_rollouts`."""
  b, m, g, t = rollouts.responses.shape
  shape, shared = row_shape(config, c, mesh, rollouts.prompts.tokens.shape[1], t, b * m * g)
  return pack_rollouts(rollouts, shape, shared, lengths)


def row_shape(
  config: PolicyConfig, c: PackingConfig, mesh: Mesh, prompt: int, response: int, count: int,
  platform: str = "",
) -> tuple[RowShape, bool]:  # fmt: skip
  """The shape of rows for `count` responses, and whether those of a row share their prompts.

  Args:
    config: static part of the policy.
    c: knobs of the rows.
    mesh: mesh of the update.
    prompt: tokens of the longest prompt.
    response: tokens of the longest response.
    count: number of responses.
    platform: see `RowShape.of_responses`.
  """
  shape = RowShape.of_responses(c, prompt, response, count, mesh, platform)
  with parallel.over(mesh):
    shared = policy.shares_prefixes(config, shape.length)
  if not shared:  # each response takes its prompt along
    shape = RowShape.of_responses(c, 0, prompt + response, count, mesh, platform)
  return shape, shared

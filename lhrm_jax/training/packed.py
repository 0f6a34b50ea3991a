"""Rows of packed sequences on the device: how long, how many at a time, and their targets."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from lhrm_jax import parallel, policy
from lhrm_jax.config import MOST_ROWS, MOST_TOKENS, knob, whole
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.objectives.masked import SumCount
from lhrm_jax.policy import PolicyConfig

# Slots of a row, at least, where a config does not set its length: short sequences fill it well.
_ROW = 512
# Slots of a row of responses, about, of which there are very many.
_LONG_ROW = 2048
_MULTIPLE = 64
# Slots of a block on one device, where a config does not set its rows. An accelerator needs many
# for its products; on a CPU the last block's padding would cost more.
_BLOCK = {"cpu": 512}
_BLOCK_OF_ACCELERATORS = 8192
# Blocks of a full batch on each device, at least: in a single one, short sequences would leave most
# rows empty, and they are computed.
_LEAST_BLOCKS = 4


@dataclasses.dataclass(frozen=True)
class PackingConfig:
  """Knobs of every stage that trains on packed rows."""

  packed_length: int = knob(
    0,
    whole(0, MOST_TOKENS),
    "Slots of a row that sequences are packed into; 0 chooses by the longest that must fit.",
  )
  micro_batch_rows: int = knob(
    0,
    whole(0, MOST_ROWS),
    "Packed rows computed at a time, over all devices: memory is that of these. Blocks of empty "
    "rows are skipped. 0 takes as many as hold 512 slots on a CPU device, 8,192 on an accelerator, "
    "and fewer for small batches.",
  )


@dataclasses.dataclass(frozen=True)
class RowShape:
  """The shape of packed rows.

  Attributes:
    length: slots of a row.
    at_a_time: rows that one device computes at a time.
    lanes: rows that all devices compute at a time.
  """

  length: int
  at_a_time: int
  lanes: int

  @property
  def devices(self) -> int:
    """Parts that rows are split into."""
    return self.lanes // self.at_a_time

  @classmethod
  def of(
    cls, c: PackingConfig, longest: int, count: int, mesh: Mesh, platform: str = ""
  ) -> "RowShape":
    """The shape that a config asks for.

    Args:
      c: knobs.
      longest: slots of the longest sequence that must fit.
      count: number of sequences.
      mesh: mesh of the update.
      platform: see `of_responses`.
    """
    length = c.packed_length or -(-max(longest, _ROW) // _MULTIPLE) * _MULTIPLE
    return cls._of_length(c, length, count / max(length // longest, 1), mesh, platform)

  @classmethod
  def of_responses(
    cls, c: PackingConfig, prompt: int, response: int, count: int, mesh: Mesh, platform: str = ""
  ) -> "RowShape":
    """The shape for responses that share prompts: a prompt and some of the longest fill a row.

    The longer the rows, the fewer prompts are repeated and the less room is left in each; but the
    last block of every device is half empty on average, so there must be many.

    Args:
      c: knobs.
      prompt: tokens of the longest prompt.
      response: tokens of the longest response.
      count: number of responses.
      mesh: mesh of the update.
      platform: of the devices that it will run on, if `mesh` has stand-ins for them.
    """
    each, per_device = max(response - 1, 1), count // parallel.parts_of(mesh)

    def within(slots: int) -> int:
      return round((slots - prompt) / each)

    held = min(per_device // 64, within(_LONG_ROW))
    held = max(1, held, min(per_device // 16, within(_ROW)))
    length = c.packed_length or prompt + held * each
    return cls._of_length(c, length, count / max((length - prompt) // each, 1), mesh, platform)

  @classmethod
  def _of_length(
    cls, c: PackingConfig, length: int, full: float, mesh: Mesh, platform: str
  ) -> "RowShape":
    """Args:
    c: knobs.
    length: slots of a row.
    full: rows of a batch whose sequences are all of the greatest length.
    mesh: mesh of the update.
    platform: see `of_responses`.
    """
    parts = parallel.parts_of(mesh)
    if c.micro_batch_rows:
      # First fit takes at most twice the rows of full ones: more would be empty in every step.
      at_a_time = min(-(-c.micro_batch_rows // parts), math.ceil(2 * full / parts))
    else:
      block = _BLOCK.get(platform or mesh.devices.flat[0].platform, _BLOCK_OF_ACCELERATORS)
      most = math.ceil(full / parts / _LEAST_BLOCKS)
      at_a_time = max(1, min(block // length, most))
    return cls(length, at_a_time, at_a_time * parts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
  """The targets of packed rows that weigh anything, moved to the front of each row.

  Attributes:
    places: `[N, T]` int32, slot of each, the others following.
    weights: `[N, T]` float32, 0 for the others.
    scored: log-probabilities and entropies `[N, T]`; where the weight is 0 they may be anything.
  """

  places: Array
  weights: Array
  scored: policy.TokenLogprobs


def score_targets(config: PolicyConfig, params: policy.Params, batch: TokenBatch) -> Targets:
  """Scores the targets of packed rows; the head is computed for these alone."""
  hidden, _ = policy.apply(config, params, batch.tokens, batch.positions, batch.segment_ids)
  visible = batch.weights > 0
  places = jnp.argsort(~visible, axis=1, stable=True).astype(jnp.int32)
  targets, weights = (
    jnp.take_along_axis(x, places, axis=1) for x in (batch.targets, batch.weights)
  )
  count = jnp.max(jnp.sum(visible, axis=1))
  scored = policy.token_logprobs(config, params, hidden, targets, sources=places, count=count)
  return Targets(places, weights, scored)


def padding_share(segment_ids: Array, repeated: Array | int = 0) -> SumCount:
  """Padding fraction of the computed slots of a block.

  Args:
    segment_ids: `[N, T]`, 0 for padding.
    repeated: slots that another row computes too.
  """
  slots = jnp.float32(segment_ids.size)
  return SumCount(slots - jnp.sum(segment_ids > 0) + repeated, slots)

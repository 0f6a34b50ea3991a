"""The batches of Hybrid Fine-Tuning, as a config describes them."""

from jax.sharding import Mesh

from lhrm_jax import parallel
from lhrm_jax.data import limits
from lhrm_jax.data.batches import TokenBatch
from lhrm_jax.data.packing import most_rows, pack
from lhrm_jax.errors import as_user_error
from lhrm_jax.runs.config import Config
from lhrm_jax.runs.setup import Setup
from lhrm_jax.training.packed import RowShape


def row_shape(config: Config, mesh: Mesh) -> RowShape:
  """The rows that a run packs demonstrations into."""
  count = config.hft.think_per_step + config.hft.no_think_per_step
  return RowShape.of(config.hft, _longest(config), count, mesh)


def demonstration_batch(run: Setup, step: int) -> tuple[TokenBatch, int]:
  """Returns one step's packed rows on the mesh, and the number of demonstrations too long.

  A function of the seed and the step alone; all steps have one shape.

  Raises:
    UserError: a demonstration is too long or cannot be encoded.
  """
  c, data, tokenizer = run.config.hft, run.config.data, run.tokenizer
  rows = row_shape(run.config, run.mesh)
  # A sequence's last token is only a target, so a row of n slots holds n + 1 tokens. A packed row
  # may exceed the policy's positions; a single sequence may not.
  if c.packed_length:
    fitting = (rows.length, rows.length)
  else:
    responses = (data.max_response_tokens, data.max_no_think_tokens)
    fitting = tuple(data.max_prompt_tokens + response - 1 for response in responses)
  longest = tuple(min(slots + 1, run.policy_config.max_positions) for slots in fitting)
  with as_user_error(ValueError):
    drawn = limits.draw_demonstrations(
      run.task, tokenizer, run.config.seed, step, (c.think_per_step, c.no_think_per_step),
      max_tokens=longest, long_demonstrations=data.long_demonstrations,
    )  # fmt: skip
  count = c.think_per_step + c.no_think_per_step
  batch = pack(
    [*drawn.think, *drawn.no_think], rows.length, pad_id=tokenizer.pad_id, lanes=rows.lanes,
    least=most_rows(count, max(longest) - 1, rows.length), devices=rows.devices,
  )  # fmt: skip
  return parallel.shard_rows(run.mesh, batch), drawn.long


def _longest(config: Config) -> int:
  data = config.data
  return data.max_prompt_tokens + max(data.max_response_tokens, data.max_no_think_tokens) - 1

"""The batches of Hybrid Fine-Tuning, as a config describes them."""

from lhrm_jax import parallel
from lhrm_jax.data import limits
from lhrm_jax.data.batches import TokenBatch, pad
from lhrm_jax.data.packing import pack_micro_batches
from lhrm_jax.errors import as_user_error
from lhrm_jax.runs.setup import Setup


def demonstration_batches(run: Setup, step: int) -> tuple[tuple[TokenBatch, ...], int]:
  """Returns one step's micro-batches on the mesh, and the number of demonstrations too long.

  A function of the seed and the step alone.

  Raises:
    UserError: a demonstration is too long or cannot be encoded.
  """
  c, data, tokenizer = run.config.hft, run.config.data, run.tokenizer
  # A sequence's last token is only a target, so a row of n slots holds n + 1 tokens.
  if c.packed_length:
    widths = (c.packed_length, c.packed_length)
  else:
    responses = (data.max_response_tokens, data.max_no_think_tokens)
    widths = tuple(data.max_prompt_tokens + response - 1 for response in responses)
  # A packed row may exceed the policy's positions; a single sequence may not.
  longest = tuple(min(width + 1, run.policy_config.max_positions) for width in widths)
  with as_user_error(ValueError):
    drawn = limits.draw_demonstrations(
      run.task, tokenizer, run.config.seed, step, (c.think_per_step, c.no_think_per_step),
      max_tokens=longest, long_demonstrations=data.long_demonstrations,
    )  # fmt: skip
  if c.packed_length:
    batches = pack_micro_batches(
      [*drawn.think, *drawn.no_think], c.packed_length, c.micro_batch_rows,
      pad_id=tokenizer.pad_id,
    )  # fmt: skip
  else:
    batches = tuple(
      pad(sequences, width, pad_id=tokenizer.pad_id)
      for sequences, width in zip((drawn.think, drawn.no_think), widths, strict=True)
      if sequences
    )
  return parallel.shard_rows(run.mesh, batches), drawn.long

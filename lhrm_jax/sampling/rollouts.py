"""`Prompts` and `Rollouts`: the pytrees that sampling returns to scoring and training."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Values of `Rollouts.finish_reason`.
STOPPED = 0
LENGTH = 1
FINISH_REASONS = ("stop", "length")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
  """A batch of encoded prompts.

  Attributes:
    tokens: `[B, P]` int32, padded on the right.
    lengths: `[B]` int32, at least 1.
    ids: `[B]` int32, each prompt's position in the stream of prompts. Random keys derive from it,
      so that a repeated prompt is sampled differently.
  """

  tokens: Array
  lengths: Array
  ids: Array

  def split(self, chunks: int) -> "list[Prompts]":
    """Splits the batch into `chunks` batches of equal size, in order.

    Raises:
      ValueError: `chunks` does not divide the batch.
    """
    b = self.tokens.shape[0]
    if chunks < 1 or b % chunks:
      raise ValueError(f"{b} prompts do not divide into {chunks} equal chunks.")
    size = b // chunks
    return [
      Prompts(*(x[at : at + size] for x in (self.tokens, self.lengths, self.ids)))
      for at in range(0, b, size)
    ]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollouts:
  """Responses to a batch of prompts.

  `M` is 2 for paired rollouts (axis 0 = think, 1 = no_think, `G` each) and 1 where the policy chose
  its mode freely. A response's first token is its opening tag; its last one is the end of sequence
  unless it was truncated.

  Attributes:
    prompts: the `B` prompts.
    responses: `[B, M, G, T]` int32, the sampled ids; padding beyond `lengths`.
    lengths: `[B, M, G]` int32, tokens of each response, end of sequence included.
    logprobs: `[B, M, G, T]` float32, log-probability of each token, forced tags included, under the
      sampling policy at the sampling temperature, before top-p and top-k. 0 beyond `lengths`.
    finish_reason: `[B, M, G]` int32, `STOPPED` or `LENGTH` (truncated).
    policy_version: int32 scalar, training step of the policy that sampled.
    decode_steps: `[B, M, G]` int32, decoding steps in which the row held a slot, live or not.
  """

  prompts: Prompts
  responses: Array
  lengths: Array
  logprobs: Array
  finish_reason: Array
  policy_version: Array
  decode_steps: Array | None = None

  @property
  def live_slots(self) -> Array:
    """Fraction of decoded slots whose token is in a response; tags come from the prefill."""
    return (self.lengths - 1).sum() / self.decode_steps.sum()

  @property
  def mask(self) -> Array:
    """`[B, M, G, T]` bool: tokens that belong to a response, from lengths alone."""
    return jnp.arange(self.responses.shape[-1]) < self.lengths[..., None]


def concatenate(parts: Sequence[Rollouts]) -> Rollouts:
  """Concatenates rollouts of several chunks of prompts by one policy, in order.

  Chunking does not change them: a row's random key derives from its prompt.
  """
  if len(parts) == 1:
    return parts[0]

  def join(*leaves: Array) -> Array:
    if np.ndim(leaves[0]) == 0:  # the policy's version
      return leaves[0]
    on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves)
    return (np if on_host else jnp).concatenate(leaves)

  return jax.tree.map(join, *parts)

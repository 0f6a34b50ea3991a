"""FLOPs and bytes that a policy's arithmetic needs, without padding or recomputation."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from lhrm_jax.policy import PolicyConfig
from lhrm_jax.sampling import Rollouts


def matrix_params(config: PolicyConfig) -> tuple[int, int]:
  """Parameters that every token is multiplied by: those of all blocks, and those of the head."""
  c = config
  attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads)
  mlp = 3 * c.hidden_size * c.intermediate_size
  return c.num_layers * (attention + mlp), c.vocab_size * c.hidden_size


def forward_flops(config: PolicyConfig, tokens: float, attended: float, predicted: float) -> float:
  """FLOPs of a forward pass.

  Args:
    config: config of the policy.
    tokens: number of tokens run through the blocks.
    attended: number of pairs of a token and a token that it attends to.
    predicted: number of tokens that the head is applied to.
  """
  blocks, head = matrix_params(config)
  attention = 4 * config.num_layers * config.num_heads * config.head_dim
  return 2.0 * blocks * tokens + attention * attended + 2.0 * head * predicted


def sequence_flops(config: PolicyConfig, lengths: Sequence[int], predicted: float) -> float:
  """FLOPs of one forward pass over whole sequences of these lengths (`forward_flops`)."""
  lengths = np.asarray(lengths, np.float64)
  return forward_flops(config, lengths.sum(), np.sum(lengths * (lengths + 1) / 2), predicted)


def update_passes(config: PolicyConfig) -> int:
  """Forward passes that the arithmetic of an update equals: forward, and backward with two products
  for each of the forward pass, or with one where kernels are frozen and have no gradient.
  """
  return 2 if config.lora_rank else 3


def rollout_flops(config: PolicyConfig, rollouts: Rollouts) -> float:
  """FLOPs of one forward pass over rollouts on the host, each prompt once (`forward_flops`)."""
  lengths = rollouts.lengths.astype(np.float64)  # [B, M, G]
  prompts = rollouts.prompts.lengths.astype(np.float64)  # [B]
  attended = np.sum(prompts * (prompts + 1) / 2)
  attended += np.sum(lengths * (lengths + 1) / 2 + lengths * prompts[:, None, None])
  return forward_flops(config, lengths.sum() + prompts.sum(), attended, lengths.sum())


def decode_bytes(config: PolicyConfig, rollouts: Rollouts, steps: float) -> float:
  """Bytes that decoding must read: all weights each step, and the keys and values it attends to.

  A prompt's keys and values are read once a step, while any of its responses is decoded.

  Args:
    config: config of the policy.
    rollouts: decoded rollouts, on the host.
    steps: number of forward passes.
  """
  size = jnp.dtype(config.dtype).itemsize
  lengths = rollouts.lengths.astype(np.float64)
  per_slot = 2 * config.num_layers * config.num_kv_heads * config.head_dim * size
  own = np.sum(lengths * (lengths - 1) / 2)
  shared = np.sum(rollouts.prompts.lengths * lengths.max(axis=(1, 2)))
  return steps * sum(matrix_params(config)) * size + per_slot * (own + shared)

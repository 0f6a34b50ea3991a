"""From rows of text to arrays of ids."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import Tokenizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenBatch:
  """Sequences for supervised training; one row may hold several packed ones.

  Attributes:
    tokens: `[N, T]` int32.
    targets: `[N, T]` int32, the token after each.
    positions: `[N, T]` int32, from 0 in each sequence.
    segment_ids: `[N, T]` int32, 0 for padding.
    weights: `[N, T]` float32, of each target in the loss; 0 on prompts and padding.
  """

  tokens: np.ndarray
  targets: np.ndarray
  positions: np.ndarray
  segment_ids: np.ndarray
  weights: np.ndarray


def encode_prompts(
  tokenizer: Tokenizer, rows: Sequence[PromptRow], first_id: int, length: int
) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
  """Encodes prompts, padded on the right.

  Args:
    tokenizer: as the policy's.
    rows: `B` queries.
    first_id: place of the first in the stream of prompts; the others follow.
    length: `P`, the widest prompt allowed.

  Returns:
    Tokens `[B, P]`, lengths `[B]` and ids `[B]`, int32.

  Raises:
    ValueError: a prompt is longer than `length`.
  """
  encoded = [tokenizer.encode_prompt(row.prompt) for row in rows]
  tokens = np.full((len(rows), length), tokenizer.pad_id, np.int32)
  for i, ids in enumerate(encoded):
    if len(ids) > length:
      raise ValueError(
        f"A prompt has {len(ids)} tokens, more than data.max_prompt_tokens={length}: "
        f"{rows[i].prompt[:80]!r}. Raise the limit or leave the row out."
      )
    tokens[i, : len(ids)] = ids
  lengths = np.array([len(ids) for ids in encoded], np.int32)
  return tokens, lengths, np.arange(first_id, first_id + len(rows), dtype=np.int32)


def encode_demonstrations(tokenizer: Tokenizer, rows: Sequence[HFTRow], length: int) -> TokenBatch:
  """One demonstration per row of the batch, padded on the right to `length`.

  Raises:
    ValueError: a sequence is longer than `length`.
  """
  shape = (len(rows), length)
  tokens = np.full(shape, tokenizer.pad_id, np.int32)
  targets = np.full(shape, tokenizer.pad_id, np.int32)
  segment_ids = np.zeros(shape, np.int32)
  weights = np.zeros(shape, np.float32)
  for i, row in enumerate(rows):
    prompt = tokenizer.encode_prompt(row.prompt)
    response = tokenizer.encode_response(row.response)
    ids = prompt + response
    # The last id is a target only, so `length` inputs hold `length + 1` ids.
    if len(ids) > length + 1:
      raise ValueError(
        f"A demonstration has {len(ids)} tokens, more than the {length + 1} that fit: "
        f"{row.prompt[:60]!r}. Raise data.max_response_tokens (data.max_no_think_tokens for direct "
        "responses) or leave the row out."
      )
    inputs = len(ids) - 1
    tokens[i, :inputs], targets[i, :inputs] = ids[:-1], ids[1:]
    segment_ids[i, :inputs] = 1
    weights[i, len(prompt) - 1 : inputs] = 1.0
    weights[i, len(prompt) - 1] = row.tag_weight
  positions = np.broadcast_to(np.arange(length, dtype=np.int32), shape)
  return TokenBatch(tokens, targets, positions, segment_ids, weights)

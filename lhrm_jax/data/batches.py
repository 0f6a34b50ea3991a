"""Encodes rows of text as arrays of token ids."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from lhrm_jax.data.schema import HFTRow, PromptRow
from lhrm_jax.text import PretrainedTokenizer, Tokenizer


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

  @property
  def filled(self) -> np.ndarray:
    """`[N]` bool, rows that hold a token."""
    return (self.segment_ids > 0).any(axis=1)


def encode_prompts(
  tokenizer: Tokenizer, rows: Sequence[PromptRow], first_id: int, length: int,
  encoded: Sequence[Sequence[int]] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
  """Encodes prompts, padded on the right.

  Args:
    tokenizer: the policy's.
    rows: `B` queries.
    first_id: id of the first prompt, its place in the stream; the others follow.
    length: `P`, the most tokens a prompt may have.
    encoded: `prompt_ids` of the rows, where they are known.

  Returns:
    Tokens `[B, P]`, lengths `[B]` and ids `[B]`, int32.

  Raises:
    ValueError: a prompt is longer than `length`, or see `prompt_ids`.
  """
  encoded = encoded or [prompt_ids(tokenizer, row) for row in rows]
  tokens = np.full((len(rows), length), tokenizer.pad_id, np.int32)
  for i, ids in enumerate(encoded):
    if len(ids) > length:
      raise ValueError(
        f"A prompt has {len(ids)} tokens, more than data.max_prompt_tokens={length}: "
        f"{rows[i].prompt[:80]!r}. Raise the limit, or set data.long_prompts to 'skip' or "
        "'truncate_left'."
      )
    tokens[i, : len(ids)] = ids
  lengths = np.array([len(ids) for ids in encoded], np.int32)
  return tokens, lengths, np.arange(first_id, first_id + len(rows), dtype=np.int32)


def prompt_ids(tokenizer: Tokenizer, row: PromptRow | HFTRow) -> list[int]:
  """Ids of a row's prompt, after its earlier messages.

  Raises:
    ValueError: the row has earlier messages, and the tokenizer takes no conversations.
  """
  if not row.earlier:
    return tokenizer.encode_prompt(row.prompt)
  if not isinstance(tokenizer, PretrainedTokenizer):
    raise ValueError(
      f"{row.prompt[:60]!r} has earlier messages, which {type(tokenizer).__name__} cannot "
      "encode: start from a pretrained model (init_from), or leave such rows out."
    )
  messages = [{"role": role, "content": content} for role, content in row.earlier]
  return tokenizer.encode_messages([*messages, {"role": "user", "content": row.prompt}])


@dataclasses.dataclass(frozen=True)
class Encoded:
  """One sequence for supervised training.

  Attributes:
    ids: prompt and response, the end of sequence included; at least two.
    weights: of each id as a target in the loss; 0 on the prompt.
  """

  ids: Sequence[int]
  weights: Sequence[float]

  @property
  def slots(self) -> int:
    """Positions it takes in a row; its last id is a target only."""
    return len(self.ids) - 1


def encode(tokenizer: Tokenizer, row: HFTRow | Encoded) -> Encoded:
  """Ids and loss weights of a demonstration: the response counts, from its opening tag on.

  Args:
    tokenizer: the policy's.
    row: a row of text, or one of a shard, which is encoded already.

  Raises:
    ValueError: see `prompt_ids`.
  """
  if isinstance(row, Encoded):
    return row
  prompt = prompt_ids(tokenizer, row)
  response = tokenizer.encode_response(row.response)
  weights = [0.0] * len(prompt) + [row.tag_weight] + [1.0] * (len(response) - 1)
  return Encoded((*prompt, *response), tuple(weights))


def empty_batch(rows: int, length: int, pad_id: int) -> TokenBatch:
  """A batch `[rows, length]` that is all padding."""
  shape = (rows, length)
  return TokenBatch(
    tokens=np.full(shape, pad_id, np.int32),
    targets=np.full(shape, pad_id, np.int32),
    positions=np.zeros(shape, np.int32),
    segment_ids=np.zeros(shape, np.int32),
    weights=np.zeros(shape, np.float32),
  )


def put(batch: TokenBatch, row: int, start: int, segment: int, sequence: Encoded) -> None:
  """Writes a sequence into a row of a batch, starting at `start`; positions count from 0."""
  place = (row, slice(start, start + sequence.slots))
  batch.tokens[place] = sequence.ids[:-1]
  batch.targets[place] = sequence.ids[1:]
  batch.positions[place] = np.arange(sequence.slots)
  batch.segment_ids[place] = segment
  batch.weights[place] = sequence.weights[1:]


def pad(sequences: Sequence[Encoded], length: int, *, pad_id: int = 0) -> TokenBatch:
  """One sequence per row, padded on the right: `[len(sequences), length]`.

  Raises:
    ValueError: a sequence is longer than `length`.
  """
  batch = empty_batch(len(sequences), length, pad_id)
  for row, sequence in enumerate(sequences):
    if sequence.slots > length:
      raise ValueError(
        f"A demonstration has {len(sequence.ids)} tokens, more than the {length + 1} that fit."
      )
    put(batch, row, 0, 1, sequence)
  return batch


def encode_demonstrations(tokenizer: Tokenizer, rows: Sequence[HFTRow], length: int) -> TokenBatch:
  """Encodes and pads demonstrations, one per row: `[len(rows), length]`."""
  return pad([encode(tokenizer, row) for row in rows], length, pad_id=tokenizer.pad_id)

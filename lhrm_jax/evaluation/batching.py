"""Batches of an evaluation's prompts in order of length, within a bound on memory."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lhrm_jax.sampling import Prompts

_LEAST_WIDTH = 64  # tokens; widths are powers of two from here, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Batch:
  """Prompts that are sampled together.

  Attributes:
    places: `[b]` int, their places among all prompts, which are their ids.
    prompts: `B >= b` encoded prompts; those beyond `b` only fill the batch up.
  """

  places: np.ndarray
  prompts: Prompts


def make_batches(
  encoded: Sequence[Sequence[int]], *, pad_id: int, max_prompt_tokens: int, batch_prompts: int,
  replies: int, max_response_tokens: int, batch_tokens: int = 0,
) -> list[Batch]:  # fmt: skip
  """Batches of all prompts, the longest first: what does not fit in memory fails at once.

  Each batch is as wide as its longest prompt, rounded up to a power of two; one that is shorter
  than the one before it and as wide is filled up, so that the same program serves it.

  Args:
    encoded: ids of each prompt.
    pad_id: fills prompts up.
    max_prompt_tokens: width of the widest batch.
    batch_prompts: most prompts of a batch.
    replies: replies to each prompt.
    max_response_tokens: longest reply.
    batch_tokens: most slots of keys and values, 0 for no bound.

  Raises:
    ValueError: a prompt is longer than `max_prompt_tokens`, or one alone exceeds `batch_tokens`.
  """
  lengths = np.array([len(ids) for ids in encoded])
  order = np.argsort(-lengths, kind="stable")
  longest = int(lengths[order[0]])
  if longest > max_prompt_tokens:
    raise ValueError(f"a prompt has {longest} tokens, more than {max_prompt_tokens}.")
  batches: list[Batch] = []
  at, before = 0, (0, 0)
  while at < len(order):
    width = _width(int(lengths[order[at]]), max_prompt_tokens)
    size = batch_prompts
    if batch_tokens:
      slots = width + replies * max_response_tokens
      if slots > batch_tokens:
        raise ValueError(
          f"{replies} replies of {max_response_tokens} tokens to one prompt of {width} need "
          f"{slots:,} slots, more than evaluation.batch_tokens={batch_tokens:,}. Raise it, or "
          "lower evaluation.samples or evaluation.free_samples and raise evaluation.seeds instead."
        )
      size = min(size, batch_tokens // slots)
    places = order[at : at + size]
    filled = size if before == (width, size) else len(places)
    batches.append(Batch(places, _prompts(encoded, places, filled, width, pad_id)))
    at, before = at + len(places), (width, size)
  return batches


def _width(longest: int, most: int) -> int:
  return min(max(_LEAST_WIDTH, 1 << (longest - 1).bit_length()), most)


def _prompts(
  encoded: Sequence[Sequence[int]], places: np.ndarray, size: int, width: int, pad_id: int
) -> Prompts:
  index = [*places.tolist(), *[int(places[0])] * (size - len(places))]
  tokens = np.full((size, width), pad_id, np.int32)
  for row, place in enumerate(index):
    tokens[row, : len(encoded[place])] = encoded[place]
  lengths = np.array([len(encoded[place]) for place in index], np.int32)
  return Prompts(tokens, lengths, np.array(index, np.int32))

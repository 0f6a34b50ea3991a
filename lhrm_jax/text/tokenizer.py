"""The interface that training and sampling need of a tokenizer."""

import dataclasses
import pathlib
from typing import Protocol

from lhrm_jax.text import tags


@dataclasses.dataclass(frozen=True)
class TagIds:
  """Token ids of the four tags.

  Attributes:
    opening: ids of `<think>` and `<no_think>`, in the order of the mode axis.
    closing: ids of `</think>` and `</no_think>`, likewise.
  """

  opening: tuple[int, int]
  closing: tuple[int, int]

  def mode_of(self, first_token_id: int) -> int:
    """The mode a response chose: `tags.THINK`, `tags.NO_THINK` or `tags.INVALID_MODE`."""
    if first_token_id in self.opening:
      return self.opening.index(first_token_id)
    return tags.INVALID_MODE


class Tokenizer(Protocol):
  """A tokenizer with the four tags as single tokens.

  Attributes:
    vocab_size: one more than the largest id that `encode` returns.
    pad_id: fills arrays beyond a sequence's length; never read, since masks come from lengths.
    eos_ids: ids that end a response; the first is the one appended in training.
    tag_ids: ids of the tags.
  """

  vocab_size: int
  pad_id: int
  eos_ids: tuple[int, ...]
  tag_ids: TagIds

  def encode_prompt(self, prompt: str) -> list[int]:
    """Ids of a user's prompt, up to where the response begins. Tags in the text stay plain text."""
    ...

  def encode_response(self, response: str) -> list[int]:
    """Ids of a whole response, tags as single tokens, with the end of sequence appended."""
    ...

  def decode(self, ids: list[int]) -> str:
    """Text of response ids: tags are kept, end of sequence and padding are dropped."""
    ...

  def save(self, folder: pathlib.Path) -> None:
    """Writes what `text.load_tokenizer` needs into an existing folder."""
    ...

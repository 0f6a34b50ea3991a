"""Tokenizers, tags, and the parts of a response."""

import pathlib

from lhrm_jax.text import tags
from lhrm_jax.text.characters import CharacterTokenizer
from lhrm_jax.text.responses import ParsedResponse, parse_response
from lhrm_jax.text.tokenizer import TagIds, Tokenizer

__all__ = [
  "CharacterTokenizer",
  "ParsedResponse",
  "TagIds",
  "Tokenizer",
  "load_tokenizer",
  "parse_response",
  "tags",
]


def load_tokenizer(folder: pathlib.Path | str) -> Tokenizer:
  """Loads the tokenizer that `Tokenizer.save` wrote into `folder`.

  Raises:
    FileNotFoundError: the folder holds none.
  """
  folder = pathlib.Path(folder)
  if CharacterTokenizer.saved_in(folder):
    return CharacterTokenizer.load(folder)
  raise FileNotFoundError(f"{folder} holds no tokenizer: expected characters.json in it.")

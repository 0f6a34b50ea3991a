"""Tokenizers, tags, and the parts of a response."""

import pathlib

from lhrm_jax.text import chat, tags
from lhrm_jax.text.characters import CharacterTokenizer, printable
from lhrm_jax.text.pretrained import PretrainedTokenizer
from lhrm_jax.text.responses import ParsedResponse, parse_response
from lhrm_jax.text.tokenizer import TagIds, Tokenizer

__all__ = [
  "CharacterTokenizer",
  "ParsedResponse",
  "PretrainedTokenizer",
  "TagIds",
  "Tokenizer",
  "chat",
  "load_tokenizer",
  "parse_response",
  "printable",
  "tags",
]


def load_tokenizer(folder: pathlib.Path | str) -> Tokenizer:
  """Loads the tokenizer that `Tokenizer.save` wrote into `folder`, or a pretrained model's.

  Args:
    folder: one that `Tokenizer.save` wrote, a Hugging Face model folder, or a GGUF file.

  Raises:
    FileNotFoundError: the folder holds no tokenizer.
    ValueError: a file in it is damaged or hostile; the message names the file.
  """
  folder = pathlib.Path(folder)
  if folder.suffix == ".gguf" and folder.is_file():
    # Imported here: workers that only parse responses need no numpy.
    from lhrm_jax.text import gguf_file, gguf_tokenizer

    return gguf_tokenizer.from_contents(gguf_file.Contents(folder))
  if CharacterTokenizer.saved_in(folder):
    return CharacterTokenizer.load(folder)
  if PretrainedTokenizer.saved_in(folder):
    return PretrainedTokenizer.load(folder)
  raise FileNotFoundError(
    f"{folder} holds no tokenizer: expected characters.json or tokenizer.json in it. A model that "
    "has only a SentencePiece file must be saved once with transformers' fast tokenizer."
  )

"""A tokenizer of single characters, for the embedded task."""

import json
import pathlib

from lhrm_jax.text import tags
from lhrm_jax.text.tokenizer import TagIds

_FILE = "characters.json"
_PAD, _EOS = 0, 1


class CharacterTokenizer:
  """One token for each character of an alphabet, each tag, padding and the end of sequence.

  Ids: 0 padding, 1 end of sequence, 2 to 5 the tags in the order of `tags.TAGS`, then the
  alphabet in its own order. See `tokenizer.Tokenizer` for the methods.
  """

  def __init__(self, alphabet: str):
    """Args:
      alphabet: every character that texts may hold, each once.

    Raises:
      ValueError: a character stands twice.
    """
    if len(set(alphabet)) != len(alphabet):
      twice = sorted({c for c in alphabet if alphabet.count(c) > 1})
      raise ValueError(f"The alphabet holds {twice} more than once.")
    self.alphabet = alphabet
    self._tokens = ("", "", *tags.TAGS, *alphabet)
    self._ids = {token: i for i, token in enumerate(self._tokens) if token}
    self.vocab_size = len(self._tokens)
    self.pad_id = _PAD
    self.eos_ids = (_EOS,)
    self.tag_ids = TagIds(
      opening=tuple(self._ids[tag] for tag in tags.OPENING_TAGS),
      closing=tuple(self._ids[tag] for tag in tags.CLOSING_TAGS),
    )

  def _encode(self, text: str) -> list[int]:
    try:
      return [self._ids[character] for character in text]
    except KeyError:
      unknown = sorted(set(text) - set(self.alphabet))
      raise ValueError(
        f"{text!r} holds characters this model has never seen: {unknown}. "
        f"It knows {''.join(sorted(self.alphabet))!r}."
      ) from None

  def encode_prompt(self, prompt: str) -> list[int]:
    return self._encode(prompt)

  def encode_response(self, response: str) -> list[int]:
    ids: list[int] = []
    rest = response
    while rest:
      tag = next((tag for tag in tags.TAGS if rest.startswith(tag)), None)
      ids += [self._ids[tag]] if tag else self._encode(rest[0])
      rest = rest[len(tag or rest[0]) :]
    return [*ids, _EOS]

  def decode(self, ids: list[int]) -> str:
    return "".join(self._tokens[i] for i in ids)

  def save(self, folder: pathlib.Path) -> None:
    text = json.dumps({"alphabet": self.alphabet}, ensure_ascii=False)
    (folder / _FILE).write_text(text, encoding="utf-8")

  @classmethod
  def load(cls, folder: pathlib.Path) -> "CharacterTokenizer":
    return cls(json.loads((folder / _FILE).read_text(encoding="utf-8"))["alphabet"])

  @staticmethod
  def saved_in(folder: pathlib.Path) -> bool:
    return (folder / _FILE).is_file()

"""A tokenizer of single characters for the embedded task, and text made safe to print."""

import json
import pathlib
import re
import unicodedata

from lhrm_jax.text import model_files, tags
from lhrm_jax.text.tokenizer import TagIds

_FILE = "characters.json"
_PAD, _EOS = 0, 1
# Categories that move the cursor, hide or reorder text, or can't be written: controls, formats
# (the bidirectional ones among them), surrogates, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # formats that emoji and several scripts need


def printable(text: str, limit: int | None = None, *, keep: str = "") -> str:
  """`text` with every character escaped that could harm a terminal.

  Control, bidirectional and other format characters become escapes such as `\\x1b` and `\\u202e`,
  and so do lone surrogates, which no encoding can write.

  Args:
    text: from a model, a file or a user.
    limit: characters of `text` to show; longer text ends in "...".
    keep: characters left as they are, e.g. newline and tab in a reply of several lines.
  """
  cut = limit is not None and len(text) > limit
  shown = "".join(
    ascii(c)[1:-1] if unicodedata.category(c) in _UNSAFE and c not in keep + _JOINERS else c
    for c in text[:limit]
  )
  return shown + "..." if cut else shown


class CharacterTokenizer:
  """A tokenizer with one token per character of an alphabet, per listed word and per tag.

  Ids: 0 padding, 1 end of sequence, 2 to 5 the tags in the order of `tags.TAGS`, then the alphabet
  and the words in their own order. Text is read from left to right, longest token first. See
  `tokenizer.Tokenizer` for the methods.
  """

  def __init__(self, alphabet: str, words: tuple[str, ...] = ()):
    """Args:
      alphabet: every character a text may hold, each once.
      words: strings that are one token each, such as the fixed words of a prompt.

    Raises:
      ValueError: a token is listed twice.
    """
    self.alphabet, self.words = alphabet, tuple(words)
    self._tokens = ("", "", *tags.TAGS, *alphabet, *words)
    self._ids = {token: i for i, token in enumerate(self._tokens) if token}
    if len(self._ids) != len(self._tokens) - 2:
      twice = sorted({token for token in self._tokens[2:] if self._tokens.count(token) > 1})
      raise ValueError(f"The alphabet and words hold {twice} more than once.")
    self._plain = _longest_first((*alphabet, *words))
    self._with_tags = _longest_first((*alphabet, *words, *tags.TAGS))
    self.vocab_size = len(self._tokens)
    self.pad_id = _PAD
    self.eos_ids = (_EOS,)
    self.tag_ids = TagIds(
      opening=tuple(self._ids[tag] for tag in tags.OPENING_TAGS),
      closing=tuple(self._ids[tag] for tag in tags.CLOSING_TAGS),
    )

  def _encode(self, text: str, pattern: re.Pattern) -> list[int]:
    try:
      return [self._ids[token] for token in pattern.findall(text)]
    except KeyError:
      unknown = sorted({token for token in pattern.findall(text) if token not in self._ids})
      raise ValueError(
        f"{text!r} holds characters this model has never seen: {unknown}. "
        f"It knows {''.join(sorted(self.alphabet))!r} and the words {list(self.words)}."
      ) from None

  def encode_prompt(self, prompt: str) -> list[int]:
    return self._encode(prompt, self._plain)

  def encode_response(self, response: str) -> list[int]:
    return [*self._encode(response, self._with_tags), _EOS]

  def decode(self, ids: list[int]) -> str:
    return "".join(self._tokens[i] for i in ids)

  def save(self, folder: pathlib.Path) -> None:
    fields = {"alphabet": self.alphabet, "words": self.words}
    (folder / _FILE).write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")

  @classmethod
  def load(cls, folder: pathlib.Path) -> "CharacterTokenizer":
    path = model_files.find(folder, _FILE)
    fields = model_files.read_json(path)
    alphabet, words = fields.get("alphabet"), fields.get("words")
    if not isinstance(alphabet, str) or not isinstance(words, list):
      raise ValueError(f"{path} holds no alphabet and words.")
    if not all(isinstance(word, str) and word for word in words):
      raise ValueError(f"{path}: words={str(words)[:60]} should be texts.")
    return cls(alphabet, tuple(words))

  @staticmethod
  def saved_in(folder: pathlib.Path) -> bool:
    return (folder / _FILE).exists()


def _longest_first(tokens: tuple[str, ...]) -> re.Pattern:
  ordered = sorted(tokens, key=len, reverse=True)
  # The last branch catches what no token covers, one character at a time.
  return re.compile("|".join([*map(re.escape, ordered), "."]), re.DOTALL)

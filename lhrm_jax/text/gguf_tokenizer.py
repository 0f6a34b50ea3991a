"""Builds a tokenizer from the arrays of a GGUF file (llama.cpp's format)."""

from typing import Any

from lhrm_jax.text import gguf_file
from lhrm_jax.text.pretrained import PretrainedTokenizer

# How each `tokenizer.ggml.pre` cuts a text into words before merging. The names are llama.cpp's,
# the patterns those of the models' own tokenizer.json.
_LLAMA3_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
_WORD_PATTERNS = {
  "llama-bpe": _LLAMA3_WORDS,
  "qwen2": _QWEN2_WORDS,
  "deepseek-r1-qwen": _QWEN2_WORDS,
}
_SPLITS_DIGITS = ("smollm",)
_GPT2 = ("gpt-2",)
# Those that normalise text to NFC first.
_NFC = ("qwen2",)
# Those that keep a word that is a token whole, whatever its merges say.
_WHOLE_WORDS = ("llama-bpe",)
# Those that llama.cpp starts with BOS unless `tokenizer.ggml.add_bos_token` says otherwise.
_BOS_FIRST = ("llama-bpe",)

_IDS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}
_CONTROL, _USER_DEFINED = 3, 4  # of `tokenizer.ggml.token_type`


def from_contents(
  contents: gguf_file.Contents, chat_template: str | None = None
) -> PretrainedTokenizer:
  """The tokenizer that a GGUF file defines.

  Args:
    contents: the file.
    chat_template: replaces the file's own.

  Raises:
    ValueError: the file has a kind of tokenizer other than byte-level BPE, or one that cuts words
      in an unknown way, or contradicts itself.
  """
  try:
    return _build(contents, chat_template)
  except ValueError as error:
    raise ValueError(f"{contents.path}: {error}") from error


def _build(contents: gguf_file.Contents, chat_template: str | None) -> PretrainedTokenizer:
  from tokenizers import AddedToken, Tokenizer, decoders, models

  def field(key: str, kind: type, default: Any = None) -> Any:
    value = contents.fields.get(f"tokenizer.{key}", default)
    if value is not None and type(value) is not kind:
      raise ValueError(f"tokenizer.{key}={str(value)[:60]} should be of type {kind.__name__}.")
    return value

  kind = field("ggml.model", str)
  if kind != "gpt2":
    raise ValueError(
      f"tokenizer.ggml.model={kind!r} is not implemented (gpt2, i.e. byte-level BPE, is). Load the "
      "tokenizer from the model's tokenizer.json instead."
    )
  tokens, merges = _strings(field("ggml.tokens", list)), _strings(field("ggml.merges", list))
  pre = field("ggml.pre", str, "default")
  vocabulary = {token: i for i, token in enumerate(tokens)}
  pairs = [tuple(merge.split(" ", 1)) for merge in merges]
  try:
    model = models.BPE(vocabulary, pairs, ignore_merges=pre in _WHOLE_WORDS)
  except Exception as error:  # the library raises nothing more special
    raise ValueError(f"tokenizer.ggml.merges does not fit the tokens ({error}).") from error
  tokenizer = Tokenizer(model)
  _set_word_splitting(tokenizer, pre)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_tokens(
    [
      AddedToken(token, special=kind == _CONTROL, normalized=False)
      for token, kind in zip(tokens, field("ggml.token_type", list, []), strict=False)
      if kind in (_CONTROL, _USER_DEFINED)
    ]
  )
  ids = {name: field(f"ggml.{key}_token_id", int) for name, key in _IDS.items()}
  for name, i in ids.items():
    if i is not None and not 0 <= i < len(tokens):
      raise ValueError(f"tokenizer.ggml.{_IDS[name]}_token_id={i}: there are {len(tokens)} tokens.")
  return PretrainedTokenizer(
    tokenizer,
    special_tokens={name: tokens[i] for name, i in ids.items() if i is not None},
    chat_template=chat_template or field("chat_template", str),
    bos_first=field("ggml.add_bos_token", bool, pre in _BOS_FIRST) and ids["bos_token"] is not None,
  )


def _strings(values: list | None) -> list[str]:
  if not values or not all(isinstance(value, str) for value in values):
    raise ValueError("tokenizer.ggml.tokens and tokenizer.ggml.merges should list strings.")
  return values


def _set_word_splitting(tokenizer: Any, pre: str) -> None:
  from tokenizers import Regex, normalizers, pre_tokenizers

  if pre in _NFC:
    tokenizer.normalizer = normalizers.NFC()
  if pre in _WORD_PATTERNS:
    words = pre_tokenizers.Split(Regex(_WORD_PATTERNS[pre]), behavior="isolated")
    steps = [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
  elif pre in _SPLITS_DIGITS:
    steps = [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ]
  elif pre in _GPT2:
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
  else:
    known = sorted([*_WORD_PATTERNS, *_SPLITS_DIGITS, *_GPT2])
    raise ValueError(
      f"tokenizer.ggml.pre={pre!r} is not one of {', '.join(known)}. Load the tokenizer from the "
      "model's tokenizer.json instead."
    )
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)

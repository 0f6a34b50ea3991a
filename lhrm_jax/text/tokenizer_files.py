"""Reads the tokenizer's files in a Hugging Face folder, and checks each value."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from lhrm_jax.text import model_files
from lhrm_jax.text.characters import printable

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_MAP_FILE = "special_tokens_map.json"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token")
_TEMPLATE_BYTES = 2**20
_MOST_GROWTH = 1000  # of a text when normalised; usual normalisers replace one letter by one


def read_tokenizer(folder: pathlib.Path) -> Any:
  """The `tokenizers.Tokenizer` of `tokenizer.json`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the library cannot read it, it encodes at random, or it makes a text many times
      as long.
  """
  path = model_files.find(folder, TOKENIZER_FILE)
  if path is None:
    raise FileNotFoundError(
      f"{folder} holds no {TOKENIZER_FILE}. A model that has only a SentencePiece file must be "
      "saved once with transformers' fast tokenizer."
    )
  tokenizer = build(model_files.read_text(path), where=str(path))
  tokenizer.no_padding()  # which may be to any length
  tokenizer.no_truncation()
  if getattr(tokenizer.model, "dropout", None):
    raise ValueError(f"{path}: model.dropout draws another encoding each time: set it to null.")
  for name in ("normalizer", "decoder"):
    growth = _growth(_state(getattr(tokenizer, name)))
    if growth > _MOST_GROWTH:
      raise ValueError(f"{path}: its {name} can make a text {growth} times as long: is it damaged?")
  return tokenizer


def build(source: str, where: str) -> Any:
  """A `tokenizers.Tokenizer` from its JSON; see `read_tokenizer` for the errors."""
  from tokenizers import Tokenizer

  try:
    return Tokenizer.from_str(source)
  except BaseException as error:  # the library raises plain Exceptions, and panics beside them
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
      raise
    raise ValueError(
      f"{where} is not a tokenizer that can be read: {printable(str(error), 300)}"
    ) from error


def add_config_tokens(tokenizer: Any, config: Mapping[str, Any], where: str) -> None:
  """Adds the tokens that only `added_tokens_decoder` of `tokenizer_config.json` knows, in place.

  Raises:
    ValueError: an entry is malformed, or its id is not the next free one.
  """
  from tokenizers import AddedToken

  listed = config.get("added_tokens_decoder") or {}
  try:
    entries = sorted((int(i), dict(fields)) for i, fields in listed.items())
    tokens = [(i, str(f.pop("content")), {k: bool(v) for k, v in f.items()}) for i, f in entries]
    made = [(i, name, AddedToken(name, **flags)) for i, name, flags in tokens]
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(f"{where}: added_tokens_decoder is malformed ({error}).") from error
  for i, name, token in made:
    if tokenizer.token_to_id(name) is not None:
      continue
    tokenizer.add_tokens([token])
    if tokenizer.token_to_id(name) != i:
      raise ValueError(
        f"{where}: added_tokens_decoder gives {name!r} the id {i}, but the next free one of "
        f"{TOKENIZER_FILE} is {tokenizer.token_to_id(name)}: they are of different tokenizers."
      )


def special_tokens(folder: pathlib.Path, config: Mapping[str, Any]) -> dict[str, str]:
  """Special tokens by name, from `tokenizer_config.json` and `special_tokens_map.json`.

  As in transformers the older map rules unless the config lists its tokens itself.
  """
  older = model_files.read_json(model_files.find(folder, _MAP_FILE))
  rules = config if config.get("added_tokens_decoder") else older
  found = {}
  for name in _SPECIAL_TOKENS:
    value = rules.get(name) or config.get(name) or older.get(name)
    if isinstance(value, dict):
      value = value.get("content")
    if value is None or value == "":
      continue
    if not isinstance(value, str):
      raise ValueError(f"{folder / CONFIG_FILE}: {name}={value!r} should be a token's text.")
    found[name] = value
  return found


def eos_ids(folder: pathlib.Path) -> list[int]:
  """`eos_token_id` of `generation_config.json` or, where that has none, of `config.json`."""
  for name in ("generation_config.json", "config.json"):
    value = model_files.read_json(model_files.find(folder, name)).get("eos_token_id")
    if value is None:
      continue
    ids = value if isinstance(value, list) else [value]
    for i in ids:
      if not isinstance(i, int) or isinstance(i, bool):
        raise ValueError(f"{folder / name}: eos_token_id={value!r} should hold ids of tokens.")
    return ids
  return []


def bos_first(config: Mapping[str, Any]) -> bool | None:
  """Whether `tokenizer_config.json` puts BOS before every text; `None` where it does not say."""
  value = config.get("add_bos_token")
  return value if isinstance(value, bool) else None


def first_token(tokenizer: Any) -> str | None:
  """The token that a tokenizer puts before every text by itself, if any."""
  plain = tokenizer.encode("a", add_special_tokens=False).ids
  ids = tokenizer.encode("a", add_special_tokens=True).ids
  return tokenizer.id_to_token(ids[0]) if len(ids) > len(plain) and ids[:1] != plain[:1] else None


def read_template(folder: pathlib.Path, config: Mapping[str, Any]) -> str | None:
  """The folder's chat template, if it has one.

  Raises:
    ValueError: it is not text, or there are several and none is the default.
  """
  path = model_files.find(folder, TEMPLATE_FILE)
  if path is not None:
    return model_files.read_text(path, _TEMPLATE_BYTES)
  template, where = config.get("chat_template"), folder / CONFIG_FILE
  if isinstance(template, list):  # several by name, e.g. one for tools
    named = {x.get("name"): x.get("template") for x in template if isinstance(x, dict)}
    template = named.get("default")
    if template is None:
      raise ValueError(
        f"{where}: chat_template has no template named 'default', but {list(named)}."
      )
  if template is not None and not isinstance(template, str):
    raise ValueError(f"{where}: chat_template is a {type(template).__name__}, not Jinja source.")
  if template and len(template) > _TEMPLATE_BYTES:
    raise ValueError(f"{where}: chat_template is larger than {_TEMPLATE_BYTES} characters.")
  return template or None


def without_prefix(tokenizer: Any) -> Any:
  """The tokenizer for text that follows other text: it puts no space before the first word.

  Metaspace, byte-level and prepending tokenizers can put one there, and some behind every added
  token. Returns `tokenizer` itself where it does neither.
  """
  stages = {name: _state(getattr(tokenizer, name)) for name in ("normalizer", "pre_tokenizer")}
  changed = {name: _strip_prefix(stage) for name, stage in stages.items()}
  if changed == stages:
    return tokenizer
  other = build(json.dumps({**json.loads(tokenizer.to_str()), **changed}), where=TOKENIZER_FILE)
  other.encode_special_tokens = tokenizer.encode_special_tokens
  return other


def _growth(stage: Any) -> int:
  """Bound on the characters a normaliser or decoder makes of one, by what it replaces and adds."""
  if stage is None:
    return 1
  inner = stage.get("normalizers") or stage.get("decoders") or []
  added = len(stage.get("content") or "") + len(stage.get("prepend") or "")
  return math.prod([max(1, added), *map(_growth, inner)])


def _state(stage: Any) -> Any:
  return None if stage is None else json.loads(stage.__getstate__())


def _strip_prefix(stage: Any) -> Any:
  """A stage's JSON without what puts a space before a text; `None` where nothing is left."""
  if stage is None or stage["type"] == "Prepend":
    return None
  if stage["type"] == "Sequence":
    key = "normalizers" if "normalizers" in stage else "pretokenizers"
    return {**stage, key: [kept for inner in stage[key] if (kept := _strip_prefix(inner))]}
  if stage["type"] == "Metaspace":
    return {**stage, "prepend_scheme": "never"} | (
      {"add_prefix_space": False} if "add_prefix_space" in stage else {}
    )
  if stage["type"] == "ByteLevel":
    return {**stage, "add_prefix_space": False}
  return stage

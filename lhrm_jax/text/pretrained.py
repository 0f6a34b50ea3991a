"""A pretrained model's own tokenizer and chat template, with the four tags as single tokens."""

import copy
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lhrm_jax.text import chat, tags
from lhrm_jax.text.tokenizer import TagIds

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
# Stands inside a control token that a user typed, so that rendering leaves it plain text. A private
# character: it is in no text that means anything.
_BREAK = "\ue0f0"


class PretrainedTokenizer:
  """The tokenizer that a model's files define. See `tokenizer.Tokenizer` for the methods.

  Ids are those of the `tokenizers` file itself: transformers' `AutoTokenizer` picks a class by
  model type, and its class may split text in another way.

  Attributes:
    chat_template: Jinja source that turns messages into a prompt.
    new_tag_ids: tags the vocabulary lacked; the model has no trained row for them.
    trained_vocab_size: one more than the largest id of the vocabulary before that.
  """

  def __init__(
    self,
    tokenizer: Any,
    *,
    special_tokens: Mapping[str, str],
    chat_template: str | None = None,
    eos_ids: Iterable[int] = (),
  ):
    """Args:
      tokenizer: a `tokenizers.Tokenizer`; it is not changed.
      special_tokens: e.g. `{"bos_token": "<s>", "eos_token": "</s>"}`, each in the vocabulary.
      chat_template: `None` takes `chat.default_template`.
      eos_ids: further ids that end a response, beside the one the template ends a turn with.

    Raises:
      ValueError: no token ends a response.
    """
    self._special_tokens = dict(special_tokens)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    self.trained_vocab_size = max(vocabulary.values()) + 1
    self.chat_template = chat_template or chat.default_template(vocabulary)
    self._parser, self._plain = _parser_and_plain(tokenizer)
    ids = {tag: self._parser.token_to_id(tag) for tag in tags.TAGS}
    self.new_tag_ids = tuple(ids[tag] for tag in tags.TAGS if tag not in vocabulary)
    self.vocab_size = max(self.trained_vocab_size, *(i + 1 for i in ids.values()))
    self.tag_ids = TagIds(
      opening=tuple(ids[tag] for tag in tags.OPENING_TAGS),
      closing=tuple(ids[tag] for tag in tags.CLOSING_TAGS),
    )
    self._tag_ids = ids
    self._tag_pattern = re.compile("(" + "|".join(map(re.escape, tags.TAGS)) + ")")
    added = self._parser.get_added_tokens_decoder()
    # Tokens that a text must not be able to forge: the tags, and those marked special.
    self._control = {t.content: i for i, t in added.items() if t.special} | ids
    longest_first = sorted(self._control, key=len, reverse=True)
    self._control_pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
    self.eos_ids = self._find_eos_ids(eos_ids)
    pad = self._special_tokens.get("pad_token")
    self.pad_id = self._parser.token_to_id(pad) if pad else self.eos_ids[0]
    self._silent = ({*self._control.values(), self.pad_id, *self.eos_ids}) - set(ids.values())

  def _find_eos_ids(self, further: Iterable[int]) -> tuple[int, ...]:
    """The token that the template ends an assistant's turn with, then the model's own."""
    found = []
    turn = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": _BREAK}]
    text = chat.render(self.chat_template, turn, self._special_tokens, add_generation_prompt=False)
    end = self._control_pattern.search(text.rpartition(_BREAK)[2])
    if end:
      found.append(self._control[end[0]])
    found += further
    eos = self._special_tokens.get("eos_token")
    if eos:
      found.append(self._parser.token_to_id(eos))
    if not found:
      raise ValueError(
        "The tokenizer names no eos_token and the chat template ends a turn with no special token: "
        "nothing would end a response. Set eos_token in tokenizer_config.json."
      )
    return tuple(dict.fromkeys(found))

  def encode_prompt(self, prompt: str) -> list[int]:
    return self.encode_messages([{"role": "user", "content": prompt}])

  def encode_messages(self, messages: Sequence[chat.Message]) -> list[int]:
    """Ids of a conversation, up to where the assistant's next response begins.

    Control tokens in the messages' text stay plain text.

    Args:
      messages: each with `role` and `content`; the last one is not the assistant's.
    """
    typed = any(self._control_pattern.search(message["content"]) for message in messages)
    if typed:
      messages = [{**m, "content": self._break_control(m["content"])} for m in messages]
    text = chat.render(
      self.chat_template, messages, self._special_tokens, add_generation_prompt=True
    )
    text = chat.without_opened_mode(text)
    if not typed:
      return self._parser.encode(text, add_special_tokens=False).ids
    ids: list[int] = []
    for part in self._control_pattern.split(text):
      own = self._control.get(part)
      ids += [own] if own is not None else self._encode_plain(part.replace(_BREAK, ""))
    return ids

  def _break_control(self, content: str) -> str:
    return self._control_pattern.sub(lambda token: token[0][0] + _BREAK + token[0][1:], content)

  def _encode_plain(self, text: str) -> list[int]:
    return self._plain.encode(text, add_special_tokens=False).ids if text else []

  def encode_response(self, response: str) -> list[int]:
    ids: list[int] = []
    for part in self._tag_pattern.split(response):
      ids += [self._tag_ids[part]] if part in self._tag_ids else self._encode_plain(part)
    return [*ids, self.eos_ids[0]]

  def decode(self, ids: list[int]) -> str:
    kept = [int(i) for i in ids if int(i) not in self._silent]
    return self._parser.decode(kept, skip_special_tokens=False)

  def with_template(self, chat_template: str) -> "PretrainedTokenizer":
    """The same tokenizer with another chat template."""
    other = copy.copy(self)
    other.chat_template = chat_template
    return other

  def save(self, folder: pathlib.Path) -> None:
    """Writes what `text.load_tokenizer`, transformers and vLLM read."""
    folder = pathlib.Path(folder)
    self._parser.save(str(folder / TOKENIZER_FILE))
    config = {
      # The class that takes tokenizer.json as it stands.
      "tokenizer_class": "PreTrainedTokenizerFast",
      "clean_up_tokenization_spaces": False,
      "add_bos_token": False,
      **self._special_tokens,
      "eos_token": self._parser.id_to_token(self.eos_ids[0]),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8")
    generation = {"eos_token_id": list(self.eos_ids), "pad_token_id": self.pad_id}
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")

  @classmethod
  def load(
    cls, folder: pathlib.Path | str, chat_template: str | None = None
  ) -> "PretrainedTokenizer":
    """Reads a Hugging Face folder's tokenizer.

    Args:
      folder: holds `tokenizer.json`; `tokenizer_config.json`, `chat_template.jinja` and
        `generation_config.json` count where they exist.
      chat_template: replaces the folder's.
    """
    from tokenizers import Tokenizer

    folder = pathlib.Path(folder)
    config = _read_json(folder / CONFIG_FILE)
    special = {
      key: value["content"] if isinstance(value, dict) else value
      for key in _SPECIAL_TOKENS
      if (value := config.get(key))
    }
    eos = _read_json(folder / "generation_config.json").get("eos_token_id", [])
    return cls(
      Tokenizer.from_file(str(folder / TOKENIZER_FILE)),
      special_tokens=special,
      chat_template=chat_template or _read_template(folder, config),
      eos_ids=eos if isinstance(eos, list) else [eos],
    )

  @staticmethod
  def saved_in(folder: pathlib.Path) -> bool:
    return (folder / TOKENIZER_FILE).is_file()


def _parser_and_plain(tokenizer: Any) -> tuple[Any, Any]:
  """One copy that sees control tokens in a text, and one to which all of a text is plain.

  In the first the tags are added tokens that are not special: transformers and vLLM drop special
  tokens when they decode, and a reader of the response needs the tags.
  """
  from tokenizers import AddedToken, Tokenizer

  parser = Tokenizer.from_str(tokenizer.to_str())
  parser.no_truncation()
  parser.no_padding()
  # Adding a token that exists changes nothing but its being special.
  parser.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in tags.TAGS])
  plain = Tokenizer.from_str(parser.to_str())
  plain.add_special_tokens([AddedToken(tag, normalized=False) for tag in tags.TAGS])
  plain.encode_special_tokens = True
  return parser, plain


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_template(folder: pathlib.Path, config: Mapping[str, Any]) -> str | None:
  path = folder / TEMPLATE_FILE
  if path.is_file():
    return path.read_text(encoding="utf-8")
  template = config.get("chat_template")
  if isinstance(template, list):  # several by name, e.g. one for tools
    template = {entry["name"]: entry["template"] for entry in template}.get("default")
  return template

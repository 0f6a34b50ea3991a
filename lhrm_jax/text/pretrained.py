"""A pretrained model's own tokenizer and chat template, with the four tags as single tokens."""

import copy
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lhrm_jax.text import chat, fast_encoding, model_files, rendering, tags, tokenizer_files
from lhrm_jax.text.tokenizer import TagIds
from lhrm_jax.text.tokenizer_files import CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_FILE

# Put inside a control token that a user typed, so that rendering leaves it plain text. It and the
# marks below are Unicode noncharacters, which no meaningful text contains.
_BREAK = "\ufdef"
_NONCHARACTERS = re.compile("[\ufdd0-\ufdef]")
_MOST_GAPS = 1000  # ids that stand for no token, beyond as many as there are tokens


class PretrainedTokenizer:
  """The tokenizer that a model's files define. See `tokenizer.Tokenizer` for the methods.

  Ids are those of the `tokenizers` file itself: transformers' `AutoTokenizer` picks a class by
  model type, and its class may split text in another way.

  Attributes:
    chat_template: Jinja source that turns messages into a prompt.
    new_tag_ids: ids of tags the vocabulary lacked.
    new_ids: these and those of special tokens it lacked; the model has no trained row for them.
    bos_id: of `bos_token`; `None` where the model has none.
    trained_vocab_size: one more than the largest id of the vocabulary before that.
  """

  def __init__(
    self,
    tokenizer: Any,
    *,
    special_tokens: Mapping[str, str],
    chat_template: str | None = None,
    eos_ids: Iterable[int] = (),
    bos_first: bool | None = None,
  ):
    """Args:
      tokenizer: a `tokenizers.Tokenizer`; it is not changed.
      special_tokens: e.g. `{"bos_token": "<s>", "eos_token": "</s>"}`; as in transformers, those
        that the vocabulary lacks become tokens.
      chat_template: `None` takes `chat.default_template`.
      eos_ids: further ids that end a response, beside the one the template ends a turn with.
      bos_first: whether the model expects `bos_token` before every text, which only a default
        template heeds; `None` asks the tokenizer.

    Raises:
      ValueError: no token ends a response, or an id is not in the vocabulary.
    """
    rendering.start()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    _check_vocabulary(vocabulary)
    self._special_tokens = dict(special_tokens)
    self.trained_vocab_size = max(vocabulary.values()) + 1
    if not chat_template:
      first = tokenizer_files.first_token(tokenizer)
      if first is not None and bos_first is not False:
        self._special_tokens["bos_token"] = first
      wanted = first is not None if bos_first is None else bos_first
      chat_template = chat.default_template(
        vocabulary, wanted and "bos_token" in self._special_tokens
      )
    self.chat_template = chat_template
    self._parser = _parser(tokenizer, self._special_tokens.values())
    ids = {tag: self._parser.token_to_id(tag) for tag in tags.TAGS}
    self.new_tag_ids = tuple(ids[tag] for tag in tags.TAGS if tag not in vocabulary)
    named = {self._parser.token_to_id(token) for token in self._special_tokens.values()}
    self.new_ids = (*sorted(named - {*vocabulary.values()}), *self.new_tag_ids)
    self.vocab_size = max(self.trained_vocab_size, *(i + 1 for i in (*self.new_ids, *ids.values())))
    self.tag_ids = TagIds(
      opening=tuple(ids[tag] for tag in tags.OPENING_TAGS),
      closing=tuple(ids[tag] for tag in tags.CLOSING_TAGS),
    )
    self._tag_pattern = _one_of(tags.TAGS)
    added = self._parser.get_added_tokens_decoder()
    # Tokens that text must not be able to forge: the tags, and those marked special.
    self._control = {t.content: i for i, t in added.items() if t.special and t.content} | ids
    self._control_pattern = _one_of(self._control)
    self._marks = {token: _mark(i) for i, token in enumerate(self._control)}
    self._plain = _plain(self._parser, self._marks, added)
    self._id_of_mark = {
      self._plain.token_to_id(mark): self._control[token] for token, mark in self._marks.items()
    }
    self._continuing = tokenizer_files.without_prefix(self._plain)
    self._rendered = self._parser  # what encodes rendered messages
    self.eos_ids = self._find_eos_ids(eos_ids)
    pad = self._special_tokens.get("pad_token")
    self.pad_id = self._parser.token_to_id(pad) if pad else self.eos_ids[0]
    bos = self._special_tokens.get("bos_token")
    self.bos_id = self._parser.token_to_id(bos) if bos else None
    self._silent = ({*self._control.values(), self.pad_id, *self.eos_ids}) - set(ids.values())
    # Some decoders drop the space that a text begins with; behind a tag they do not.
    spaced = self._continuing.encode(" a", add_special_tokens=False).ids
    self._decode_behind = "" if self._parser.decode(spaced) == " a" else tags.TAGS[0]

  def _find_eos_ids(self, further: Iterable[int]) -> tuple[int, ...]:
    """The token that the template ends an assistant's turn with, then the model's own."""
    found = []
    turn = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": _BREAK}]
    text = self._render(turn, finished=True)
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
    for i in found:
      if not 0 <= i < self.vocab_size:
        raise ValueError(
          f"eos_token_id={i} is not a token: the vocabulary has {self.vocab_size}. Correct "
          "generation_config.json or config.json."
        )
    return tuple(dict.fromkeys(found))

  def _render(self, messages: Sequence[chat.Message], *, finished: bool = False) -> str:
    # The template that an export has, so that training sees what a server renders.
    return chat.render(
      chat.hybrid_template(self.chat_template),
      messages,
      self._special_tokens,
      add_generation_prompt=not finished,
    )

  def encode_prompt(self, prompt: str) -> list[int]:
    return self.encode_messages([{"role": "user", "content": prompt}])

  def encode_messages(
    self, messages: Sequence[chat.Message], *, finished: bool = False
  ) -> list[int]:
    """Ids of a conversation, up to where the assistant's next response begins.

    Control tokens in the messages' text stay plain text, but for the tags of earlier responses: the
    model wrote those as tokens, and a server reads them so.

    Args:
      messages: each with `role` and `content`; the last one is not the assistant's.
      finished: the assistant wrote the last message: nothing opens a further response.
    """
    text = self._render(messages, finished=finished)
    typed = {token for m in messages for token in self._forgeable(m)}
    if not typed:
      return list(self._rendered.encode(text, add_special_tokens=False).ids)
    return self._encode(
      self._plain, self._control_pattern.split(self._broken(messages, typed, text, finished))
    )

  def _forgeable(self, message: chat.Message) -> set[str]:
    found = set(self._control_pattern.findall(message["content"]))
    return found - set(tags.TAGS) if message["role"] == "assistant" else found

  def _broken(
    self, messages: Sequence[chat.Message], typed: set[str], text: str, finished: bool
  ) -> str:
    """`text`, the rendered messages, with a break in the control tokens that a user typed."""

    def rendered(tokens: set[str]) -> str:
      def of(message: chat.Message) -> chat.Message:
        breakable = tokens & self._forgeable(message)
        if not breakable:
          return message
        return {**message, "content": _one_of(breakable).sub(_insert_break, message["content"])}

      return self._render([of(message) for message in messages], finished=finished)

    def unchanged(broken: str) -> bool:
      return broken.replace(_BREAK, "") == text

    broken = rendered(typed)
    if not unchanged(broken):
      # The template acts on some of these tokens, e.g. removes a thought, and must see them.
      broken = rendered({token for token in typed if unchanged(rendered({token}))})
    return broken if unchanged(broken) else text

  def _encode(self, tokenizer: Any, parts: Sequence[str]) -> list[int]:
    """Ids of plain texts with a control token between each two of them."""
    text = "".join(
      self._marks[part] if i % 2 else _NONCHARACTERS.sub("", part) for i, part in enumerate(parts)
    )
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return [self._id_of_mark.get(i, i) for i in ids]

  def encode_response(self, response: str) -> list[int]:
    return [*self._encode(self._continuing, self._tag_pattern.split(response)), self.eos_ids[0]]

  def decode(self, ids: list[int]) -> str:
    kept = [int(i) for i in ids if int(i) not in self._silent]
    behind = [self._control[self._decode_behind]] if self._decode_behind else []
    text = self._parser.decode([*behind, *kept], skip_special_tokens=False)
    return text[len(self._decode_behind) :]

  def with_template(self, chat_template: str) -> "PretrainedTokenizer":
    """The same tokenizer with another chat template."""
    other = copy.copy(self)
    other.chat_template = chat_template
    return other

  def faster(self) -> "PretrainedTokenizer":
    """The same tokenizer, which encodes faster where fastokens is installed."""
    other = copy.copy(self)
    other._continuing = fast_encoding.faster(self._continuing)
    other._rendered = fast_encoding.faster(self._parser)
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
    rendering.start()
    folder = pathlib.Path(folder)
    tokenizer = tokenizer_files.read_tokenizer(folder)
    config = model_files.read_json(model_files.find(folder, CONFIG_FILE))
    tokenizer_files.add_config_tokens(tokenizer, config, where=str(folder / CONFIG_FILE))
    try:
      return cls(
        tokenizer,
        special_tokens=tokenizer_files.special_tokens(folder, config),
        chat_template=chat_template or tokenizer_files.read_template(folder, config),
        eos_ids=tokenizer_files.eos_ids(folder),
        bos_first=tokenizer_files.bos_first(config),
      )
    except ValueError as error:
      raise ValueError(f"{folder}: {error}") from error

  @staticmethod
  def saved_in(folder: pathlib.Path) -> bool:
    return (folder / TOKENIZER_FILE).exists()


def _check_vocabulary(vocabulary: Mapping[str, int]) -> None:
  if not vocabulary:
    raise ValueError("The tokenizer's vocabulary is empty.")
  top = max(vocabulary.values())
  if top >= 2 * len(vocabulary) + _MOST_GAPS:
    raise ValueError(
      f"The tokenizer has {len(vocabulary)} tokens, but ids up to {top}: it is damaged, or made up."
    )


def _parser(tokenizer: Any, special_tokens: Iterable[str]) -> Any:
  """A copy that sees control tokens in a text, the tags among them, and adds none by itself.

  The tags are added tokens that are not special: transformers and vLLM drop special tokens when
  they decode, and a reader of the response needs the tags. A first token comes from the chat
  template alone: were it also put before every text, a rendered prompt would begin with two.
  """
  from tokenizers import AddedToken

  parser = tokenizer_files.build(tokenizer.to_str(), where=TOKENIZER_FILE)
  parser.no_truncation()
  parser.no_padding()
  parser.post_processor = None
  # As transformers does: what is special by name is read as one token in a rendered text.
  known = {token.content for token in parser.get_added_tokens_decoder().values()}
  parser.add_special_tokens(
    [AddedToken(token, normalized=False) for token in special_tokens if token not in known]
  )
  # Adding a token that exists changes nothing but its being special.
  parser.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in tags.TAGS])
  return parser


def _plain(parser: Any, marks: Mapping[str, str], added: Mapping[int, Any]) -> Any:
  """A copy to which all of a text is plain but the marks, one for each control token.

  So one pass reads a text in which some control tokens are meant and some were typed, and every
  stretch of it is cut as it would be between the tokens themselves.
  """
  from tokenizers import AddedToken

  plain = tokenizer_files.build(parser.to_str(), where=TOKENIZER_FILE)
  plain.add_special_tokens([AddedToken(tag, normalized=False) for tag in tags.TAGS])
  plain.encode_special_tokens = True
  by_content = {token.content: token for token in added.values()}
  plain.add_tokens(
    [
      AddedToken(mark, normalized=False, lstrip=token.lstrip, rstrip=token.rstrip)
      for mark, token in ((mark, by_content[content]) for content, mark in marks.items())
    ]
  )
  return plain


def _mark(index: int) -> str:
  """The string that stands for the control token `index` where typed ones are plain text."""
  digits = [index >> shift & 15 for shift in (12, 8, 4, 0)]
  return "\ufdd0" + "".join(chr(0xFDD1 + digit) for digit in digits)


def _one_of(tokens: Iterable[str]) -> re.Pattern:
  return re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")


def _insert_break(token: re.Match) -> str:
  return token[0][0] + _BREAK + token[0][1:]

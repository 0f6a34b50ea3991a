"""A reply token by token: its parts, its text, where it ends."""

import dataclasses
from collections.abc import Callable, Sequence

from lhrm_jax.text import Tokenizer, tags

STOP, LENGTH = "stop", "length"
REASONING, CONTENT = "reasoning", "content"
_LONGEST_WAIT = 16  # tokens that the bytes of one character may be spread over


@dataclasses.dataclass(frozen=True)
class TokenLogprob:
  """A token with its log-probability.

  Attributes:
    token_id: id of the token.
    logprob: natural logarithm, under the policy at temperature 1.
    tops: the most likely tokens with theirs, as far as the request asked for them.
  """

  token_id: int
  logprob: float
  tops: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Piece:
  """What one token adds to a reply.

  Attributes:
    part: `REASONING` or `CONTENT`.
    text: may be empty: a tag's, or one held back until more is known.
    token: the token, `None` at the end of a reply.
    thought: whether the token is one of a thought, whose tags are not.
  """

  part: str
  text: str
  token: TokenLogprob | None = None
  thought: bool = False


class TextStream:
  """Text of tokens as they come; a character whose bytes are not all there is held back."""

  def __init__(self, decode: Callable[[list[int]], str]):
    self._decode, self._ids, self._from, self._shown = decode, [], 0, 0

  def push(self, token_id: int) -> str:
    self._ids.append(token_id)
    text = self._new_text()
    if text.endswith("\ufffd") and len(self._ids) - self._shown < _LONGEST_WAIT:
      return ""
    self._from, self._shown = self._shown, len(self._ids)
    return text

  def flush(self) -> str:
    text = self._new_text()
    self._from = self._shown = len(self._ids)
    return text

  def _new_text(self) -> str:
    # Decoded behind the tokens before: some decoders treat the first token of a text differently.
    before = self._decode(self._ids[self._from : self._shown])
    return self._decode(self._ids[self._from :])[len(before) :]


class StopFinder:
  """Looks for the strings that end a reply; holds back what may be the beginning of one."""

  def __init__(self, stops: Sequence[str]):
    self._stops, self._held = tuple(stops), ""

  def push(self, text: str) -> tuple[str, bool]:
    """Text that belongs to the reply, and whether a stop string was found behind it."""
    if not self._stops:
      return text, False
    text = self._held + text
    found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
    if found:
      self._held = ""
      return text[: min(found)], True
    keep = max(
      (
        n
        for stop in self._stops
        for n in range(1, min(len(stop) - 1, len(text)) + 1)
        if text.endswith(stop[:n])
      ),
      default=0,
    )
    self._held = text[len(text) - keep :]
    return text[: len(text) - keep], False

  def flush(self) -> str:
    text, self._held = self._held, ""
    return text


class Reply:
  """A reply that grows by tokens.

  The parts are told apart by the ids of the tags, not by their text: a tag spelled out in other
  tokens is text.

  Attributes:
    tokens: ids so far, opening tag and end of sequence included.
    mode: `tags.THINK`, `tags.NO_THINK` or `tags.INVALID_MODE`; `None` before the first token.
    finish_reason: `STOP`, `LENGTH`, or "" while it grows.
    max_tokens: longest reply.
  """

  def __init__(
    self, tokenizer: Tokenizer, max_tokens: int, stops: Sequence[str] = (), *, raw: bool = False,
    ignore_eos: bool = False,
  ):  # fmt: skip
    """Args:
    tokenizer: of the policy.
    max_tokens: longest reply, opening tag and end of sequence included.
    stops: strings that end the answer; thoughts are not searched.
    raw: one text with its tags, in place of the parts.
    ignore_eos: whether neither the end of sequence nor a direct answer's closing tag ends it.
    """
    self.tokens: list[int] = []
    self.mode: int | None = None
    self.finish_reason = ""
    self._tokenizer, self.max_tokens, self._raw = tokenizer, max_tokens, raw
    self._ignore_eos = ignore_eos
    self._part, self._text = CONTENT, TextStream(tokenizer.decode)
    self._stops = StopFinder(stops)

  @property
  def thinking(self) -> bool:
    """Whether the thought is open."""
    return self._part == REASONING

  def mode_of(self, first_id: int) -> int:
    """The mode that a first token chooses."""
    return self._tokenizer.tag_ids.mode_of(first_id)

  def push(self, token: TokenLogprob) -> list[Piece]:
    """Adds a token; sets `finish_reason` where it ends the reply."""
    token_id, ids = token.token_id, self._tokenizer.tag_ids
    self.tokens.append(token_id)
    if self.mode is None:
      self.mode = self.mode_of(token_id)
      if self.mode == tags.THINK:
        self._part = REASONING
      is_tag = self.mode != tags.INVALID_MODE
    else:
      is_tag = self.thinking and token_id == ids.closing[tags.THINK]
      ends = self.mode == tags.NO_THINK and token_id == ids.closing[tags.NO_THINK]
      if ends and not self._raw and not self._ignore_eos:
        return self._end(STOP, token)
    if token_id in self._tokenizer.eos_ids and not self._ignore_eos:
      return self._end(STOP, token)
    pieces = self._tag(token) if is_tag else self._ordinary(token)
    if not self.finish_reason and len(self.tokens) >= self.max_tokens:
      pieces += self._end(LENGTH)
    return pieces

  def _tag(self, token: TokenLogprob) -> list[Piece]:
    if self._raw:
      pieces = [dataclasses.replace(piece, thought=False) for piece in self._ordinary(token)]
      self._part = REASONING if len(self.tokens) == 1 and self.mode == tags.THINK else CONTENT
      return pieces
    if len(self.tokens) == 1:
      return [Piece(self._part, "", token)]
    rest = Piece(REASONING, self._text.flush(), token)
    self._part, self._text = CONTENT, TextStream(self._tokenizer.decode)
    return [rest]

  def _ordinary(self, token: TokenLogprob) -> list[Piece]:
    text, stopped = self._text.push(token.token_id), False
    if self._raw or not self.thinking:
      text, stopped = self._stops.push(text)
    if stopped:
      self.finish_reason = STOP
    return [Piece(self._part, text, token, self.thinking)]

  def _end(self, reason: str, token: TokenLogprob | None = None) -> list[Piece]:
    """Flushes what was held back; a stop string may turn up in it."""
    self.finish_reason = reason
    text = self._text.flush()
    if self._raw or not self.thinking:
      text, stopped = self._stops.push(text)
      if stopped:
        self.finish_reason = STOP
      text += self._stops.flush()
    return [Piece(self._part, text, token)]
